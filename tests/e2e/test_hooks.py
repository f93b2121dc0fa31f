"""Hooks, readings, generation and gradients: each planted fault moves the figures that it should move, and no other."""

import itertools

import pytest

from tlbench import Cell
from tlbench.grid import Option
from tlbench.metrics.figures import RATIO_GATE, UNIT_ROUNDOFF
from tlbench.questions.registry import GENERATION, GRADIENTS, HOOKS, READING

QUESTIONS = (HOOKS, READING, GENERATION, GRADIENTS)
MODELS = ("zoo-gpt2", "zoo-llama-gqa")
OPTION = "fold_ln"
"""TransformerLens's attributions take the final norm's gain for folded, and are wrong where it is not."""
FAULTS = {
    "disturbing hook": {"hooked", "cached"},
    "disturbing cache": {"cached"},
    "deaf hook": {"edit_ratio", "patch_effect"},
    "silent hook": {"silent"},
    "repeated hook": {"repeated"},
    "hook that stays": {"leftover"},
    "other MLP shown": {"additivity"},
    "other pattern shown": {"pattern_rows"},
    "other output shown": {"additivity", "final"},
    "other norm's scale shown": {"head_attribution"},
    "stop one layer early": {"stop_at_layer"},
    "start one layer early": {"start_at_layer"},
    "scaled keys": {"cache_error"},
    "no position offset": {"cache_error", "wrong_tokens"},
    "another token": {"wrong_tokens"},
    "scaled gradient": {"gradient_ratio"},
    "scaled directions": {"head_attribution"},
    "scaled logits": {"logit_difference", "patch_effect", "edit_ratio", "gradient_ratio"},
}
NO_DIFFERENCE = ("additivity", "final", "cached", "hooked", "leftover", "stop_at_layer", "start_at_layer")
"""What is no arithmetic: the same numbers twice."""
MODEL_OF = dict(zip(FAULTS, itertools.cycle(MODELS)))
"""Each fault is planted in one architecture, by turns. zoo-gpt2 would not feel a missing position offset in its tokens: it
continues with one again and again, by a margin of nats."""
CASES = [(fault, model, OPTION) for fault, model in MODEL_OF.items()]
HEALTHY = [*((MODELS[0], option) for option in Option), *((MODELS[1], option) for option in (Option.UNPROCESSED, OPTION))]
SMALL_NATS = 1e-4
"""Logits of size 30 have a last place of 2e-6 in float32, and a few dozen roundings each."""
SMALL_PART_NATS = 1e-5
"""A head's part is a sum of 16 products, of size 1."""


@pytest.fixture(scope="module")
def tree(plants):
    return plants("planted_in_hooks")


@pytest.fixture(scope="module")
def found(tree):
    """What was found in every case, by fault, model and option and then by the question's name."""
    cases = [("", model, option) for model, option in HEALTHY] + CASES
    cells = [(fault, Cell(model, "float32", option, "TransformerBridge")) for fault, model, option in cases]
    records = tree.ask(QUESTIONS, cells)
    return dict(zip(cases, records, strict=True))


def moved(found, fault, model, option=OPTION):
    """The figures that are not those of a healthy model."""
    hooks, reading, generation, gradients = (found[fault, model, option][question.name] for question in QUESTIONS)
    gate, roundoff = RATIO_GATE["float32"], UNIT_ROUNDOFF["float32"]
    healthy = {
        **{name: getattr(hooks, name) == 0 for name in NO_DIFFERENCE},
        # Each probability is rounded a few times, and they sum to one.
        "pattern_rows": hooks.pattern_rows < 16 * roundoff,
        "silent": hooks.silent == found["", model, option]["hooks"].silent,
        "repeated": not hooks.repeated,
        "edit_ratio": hooks.edit_ratio < gate,
        "logit_difference": reading.logit_difference.error < SMALL_NATS,
        "patch_effect": reading.patch_effect.error < SMALL_NATS,
        "head_attribution": reading.head_attribution < SMALL_PART_NATS,
        "cache_error": generation.cache_error < SMALL_NATS,
        "wrong_tokens": generation.wrong_tokens == 0,
        "gradient_ratio": gradients.worst_ratio < gate,
    }
    return {name for name, is_healthy in healthy.items() if not is_healthy}


# Healthy -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "option"), HEALTHY)
def test_of_a_healthy_model_nothing_is_moved_and_nothing_left_out(found, model, option):
    """But attributions where the final norm's gain is not folded, which TransformerLens takes for done."""
    folded = option in (Option.FOLD_LN, Option.ALL_OPTIONS)
    assert moved(found, "", model, option) == (set() if folded else {"head_attribution"})
    records = found["", model, option]
    assert [records[question.name].reasons for question in (HOOKS, READING, GENERATION)] == [{}] * 3
    assert set(records["hooks"].edits) == {"doubled_input", "no_attention", "no_mlp", "patched"}
    assert records["gradients"].worst.one_less_cosine < 1e-11


@pytest.mark.parametrize("model", MODELS)
def test_what_is_read_off_a_model_is_far_larger_than_what_counts_as_its_error(found, model):
    """Else a figure that no fault moves would be healthy too."""
    reading = found["", model, OPTION]["reading"]
    assert abs(reading.exact_patch_effect) > 50 * SMALL_NATS
    assert reading.largest_head_attribution > 1e4 * SMALL_PART_NATS


# Faults --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_moves_the_figures_that_it_should_and_no_other(found, fault):
    assert moved(found, fault, MODEL_OF[fault]) == FAULTS[fault]


def test_a_figure_says_how_wrong_and_where(found):
    def of(fault, question):
        return found[fault, MODEL_OF[fault], OPTION][question]

    def healthy(fault, question):
        return found["", MODEL_OF[fault], OPTION][question]

    assert of("other MLP shown", "hooks").additivity_block == 1
    assert 1e-6 < of("other MLP shown", "hooks").additivity < 1e-3
    assert of("other output shown", "hooks").additivity_block == 3
    assert of("other pattern shown", "hooks").pattern_rows == pytest.approx(1e-3, rel=1e-2)
    assert of("silent hook", "hooks").silent != healthy("silent hook", "hooks").silent
    assert "blocks.1.mlp.hook_in" in of("silent hook", "hooks").silent
    assert "blocks.1.mlp.hook_in" in of("repeated hook", "hooks").repeated
    assert of("another token", "generation").wrong_tokens == 8
    for fault in ("scaled directions", "other norm's scale shown"):
        largest = healthy(fault, "reading").largest_head_attribution
        assert of(fault, "reading").head_attribution == pytest.approx(1e-3 * largest, rel=1e-2)


def test_a_fault_of_one_blocks_backward_pass_is_in_the_gradients_of_that_block_and_those_before(found):
    model = MODEL_OF["scaled gradient"]
    healthy, wrong = (found[fault, model, OPTION]["gradients"].blocks for fault in ("", "scaled gradient"))
    assert wrong[2:] == healthy[2:]
    for block in (0, 1):
        assert 1e-5 < wrong[block].error < 1e-3
        assert abs(wrong[block].correlation) < 0.5


@pytest.mark.parametrize("fault", ["scaled keys", "no position offset"])
def test_a_key_value_cache_is_right_at_the_first_token_and_wrong_from_the_second(found, fault):
    steps = found[fault, MODEL_OF[fault], OPTION]["generation"].steps
    assert steps[0] < SMALL_NATS < max(steps[1:])
