"""The words of the grid."""

import pytest

from tlbench import BadInput, Cell, Option
from tlbench.grid import RuntimeCell, words_of
from tlbench.records.serial import plain, restored


def test_flags_switch_on_exactly_the_step_that_an_option_names():
    assert Option.FOLD_LN.flags() == {
        "fold_ln": True,
        "center_writing_weights": False,
        "center_unembed": False,
        "fold_value_biases": False,
    }
    assert not any(Option.UNPROCESSED.flags().values())
    assert all(Option.ALL_OPTIONS.flags().values())


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("zoo-gpt2", "float8", "fold_ln", "TransformerBridge"), "unknown dtype 'float8': choose one of float32"),
        (("zoo-gpt2", "float32", "fold", "TransformerBridge"), "unknown option 'fold': choose one of unprocessed"),
        (("zoo-gpt2", "float32", "fold_ln", "Bridge"), "unknown wrapper 'Bridge': choose one of HookedTransformer"),
    ],
)
def test_an_unknown_word_is_refused_with_the_known_ones(words, named):
    with pytest.raises(BadInput, match=named):
        Cell(*words)


@pytest.mark.parametrize(
    "parameters",
    [
        ("zoo-gpt2 HookedTransformer", "float16", "fold_ln"),
        ("zoo-gpt2", "float16", "fold_ln", "HookedTransformer"),
    ],
)
def test_a_cell_s_words_may_stand_in_any_parameters(parameters):
    assert Cell(*words_of(*parameters)) == Cell("zoo-gpt2", "float16", "fold_ln", "HookedTransformer")


def test_a_run_s_words_may_stand_in_one_parameter():
    words = words_of("mine TransformerBridge", "all_options", "bfloat16 8x128 cuda")
    assert words == ("mine", "bfloat16", "all_options", "TransformerBridge", "8x128", "cuda")
    assert RuntimeCell(*words, "forward").batch == 8


def test_a_word_that_nobody_knows_is_refused():
    with pytest.raises(BadInput, match="unknown word 'float8'"):
        Cell(*words_of("zoo-gpt2 HookedTransformer", "float8", "fold_ln"))


def test_a_cell_that_was_stored_has_its_words_in_the_same_order():
    cell = Cell("zoo-gpt2", "float32", "fold_ln", "TransformerBridge")
    stored = {name: plain(cell)[name] for name in sorted(plain(cell), reverse=True)}
    assert str(restored(Cell, stored)) == str(cell) == "zoo-gpt2 float32 fold_ln TransformerBridge"
