"""The words of the grid."""

import pytest

from tlbench import BadInput, Cell, Option


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
