"""`tlbench where` names the block and the component of every fault that is planted in one block, and nothing else."""

import json

import pytest

from tests.command import run
from tests.e2e.planting import RELEASE
from tlbench import Cell
from tlbench.metrics.figures import RATIO_GATE, UNIT_ROUNDOFF
from tlbench.questions.registry import ACCURACY, DEPTH
from tools.flags import FLAGS

PLANTED_BLOCK = 2
DTYPES = ("float32", "bfloat16")
FAULTS = {
    "attention scale": ("pattern", "zoo-gpt2", "zoo-opt", "zoo-gpt-neox", "zoo-llama-gqa", "zoo-mixtral", "zoo-gemma2"),
    "epsilon of ln1": ("ln1", "zoo-gpt2", "zoo-phi", "zoo-gpt-neox", "zoo-llama-gqa", "zoo-mixtral", "zoo-gemma2"),
    "epsilon of ln2": ("ln2", "zoo-gpt2", "zoo-bloom", "zoo-gpt-neox", "zoo-llama-gqa", "zoo-mixtral", "zoo-gemma2"),
    "dropped bias": ("mlp_out", "zoo-gpt2", "zoo-opt", "zoo-gpt-neox", "zoo-phi", "zoo-bloom"),
    "soft cap": ("pattern", "zoo-gemma2"),
    "no soft cap": ("pattern", "zoo-gemma2"),
    "rotary base": ("pattern", "zoo-gpt-neox", "zoo-llama-gqa", "zoo-qwen2", "zoo-olmo2", "zoo-gemma2"),
}
CASES = [(fault, model, dtype) for fault, (_, *models) in FAULTS.items() for model in models for dtype in DTYPES]
HEALTHY = [("", model, dtype) for model in sorted({model for _, model, _ in CASES}) for dtype in DTYPES]
ROUNDED_AWAY = ("no soft cap", "zoo-gemma2", "bfloat16")
"""A cap of 50 moves this model's scores by less than bfloat16 rounds them."""


@pytest.fixture(scope="module")
def tree(plants):
    return plants("planted_in_block")


@pytest.fixture(scope="module")
def profiles(tree):
    """What was found in every case, by fault, model and dtype."""
    cases = [*HEALTHY, *CASES]
    cells = [(fault, Cell(model, dtype, "unprocessed", "TransformerBridge")) for fault, model, dtype in cases]
    answers = tree.ask((DEPTH,), cells)
    return {case: one[DEPTH.name] for case, one in zip(cases, answers, strict=True)}


def where(*words, **environment):
    return run("where", *words, **environment)


def block_of(name):
    return int(name.split(".")[1]) if name.startswith("blocks.") else None


def beyond_the_gate(profile, error, reference):
    """The quantities whose ``error`` is more times HuggingFace's ``reference`` one than is benign, in order.

    A block's input is left out: it is the output of the block before.
    """
    least, gate = UNIT_ROUNDOFF[profile.cell.dtype], RATIO_GATE[profile.cell.dtype]
    computed = {name: one for name, one in profile.sites.items() if not name.endswith("resid_pre")}
    return [name for name, one in computed.items() if getattr(one, error) > gate * max(getattr(one, reference), least)]


def wrong_by_local(profile):
    return beyond_the_gate(profile, "local", "reference_local")


def wrong_by_propagated(profile):
    return beyond_the_gate(profile, "propagated", "reference_propagated")


# What is named -------------------------------------------------------------------------------------------------------


def test_each_fault_is_named_by_its_block_and_its_component_in_float32_and_in_bfloat16(profiles):
    named = {case: profiles[case].first_wrong() for case in CASES if case != ROUNDED_AWAY}
    found = {case: wrong and (wrong.block, wrong.component) for case, wrong in named.items()}
    assert found == {case: (PLANTED_BLOCK, FAULTS[case[0]][0]) for case in named}


def test_a_healthy_model_has_no_wrong_quantity(profiles):
    assert {case: profiles[case].first_wrong() for case in HEALTHY} == dict.fromkeys(HEALTHY)


def test_every_quantity_that_the_architecture_computes_was_looked_at(profiles):
    """Else a fault would be named by what comes next, and a healthy model be healthy where nobody looked."""
    assert not {case: profile.missing for case, profile in profiles.items() if profile.missing}
    assert not {case: profile.silent for case, profile in profiles.items() if profile.silent}


def test_a_fault_smaller_than_the_rounding_of_bfloat16_is_named_in_float32_alone(profiles):
    assert profiles[ROUNDED_AWAY].first_wrong() is None
    assert profiles["no soft cap", "zoo-gemma2", "float32"].first_wrong().component == "pattern"


def test_a_scaled_cross_attention_is_wrong_and_named_in_its_decoder_s_block(tree):
    models = ("zoo-bart", "zoo-mbart")
    cases = [(fault, model) for fault in ("", "cross-attention scale") for model in models]
    cells = [(fault, Cell(model, "float32", "unprocessed", "TransformerBridge")) for fault, model in cases]
    answers = dict(zip(cases, tree.ask((ACCURACY, DEPTH), cells), strict=True))
    profiles = {case: one[DEPTH.name] for case, one in answers.items()}
    assert not {case: one.missing + one.silent for case, one in profiles.items() if one.missing or one.silent}
    assert all(one[ACCURACY.name].verdict.is_alarm == bool(fault) for (fault, _), one in answers.items())
    named = {
        case: (wrong := one.first_wrong()) and (one.name_of(wrong.block), wrong.component) for case, one in profiles.items()
    }
    assert named == {(fault, model): ("decoder 1", "cross_attn_out") if fault else None for fault, model in cases}


FLAGS_OF = ("zoo-mamba2", "zoo-qwen3_next", "zoo-cohere", "zoo-granite")


def test_a_flag_that_is_ignored_is_named_in_blocks_of_every_kind_and_nothing_is_without(plants):
    """A state space, linear attention, norms that centre, multipliers. `python -m tools.flags` plants every other flag."""
    flags = [flag for flag in FLAGS if flag.model in FLAGS_OF]
    cells = [
        (fault, Cell(model, "float32", "unprocessed", "TransformerBridge"))
        for fault, model in [*((json.dumps(flag.ignored), flag.model) for flag in flags), *(("", name) for name in FLAGS_OF)]
    ]
    answers = plants("planted_flags").ask((ACCURACY, DEPTH), cells)
    wrong = [one[DEPTH.name].first_wrong() for one in answers]
    assert [one and one.component for one in wrong] == [*(flag.named for flag in flags), *[None] * len(FLAGS_OF)]
    alarms = [one[ACCURACY.name].verdict.is_alarm for one in answers]
    assert alarms == [True] * len(flags) + [False] * len(FLAGS_OF)


def test_experts_that_no_token_should_go_to_are_named(plants):
    """Of a block whose tokens all go to other experts, no token is left to compare."""
    (flag,) = [flag for flag in FLAGS if flag.what == "number of experts"]
    cell = Cell(flag.model, "float32", "unprocessed", "TransformerBridge")
    (answer,) = plants("planted_flags").ask((DEPTH,), [(json.dumps(flag.ignored), cell)])
    assert answer[DEPTH.name].first_wrong().component == flag.named


# Why local errors are needed -----------------------------------------------------------------------------------------


def test_only_quantities_of_the_planted_block_are_wrong_when_each_block_is_fed_its_exact_input(profiles):
    accused = {case: {block_of(name) for name in wrong_by_local(profiles[case])} for case in CASES if case != ROUNDED_AWAY}
    assert [case for case, blocks in accused.items() if blocks != {PLANTED_BLOCK}] == []


def test_propagated_errors_accuse_the_healthy_block_behind_the_planted_one_in_every_float32_case(profiles):
    behind = {case: PLANTED_BLOCK + 1 in map(block_of, wrong_by_propagated(profiles[case])) for case in CASES}
    assert all(accused for (_, _, dtype), accused in behind.items() if dtype == "float32")


def test_the_block_with_the_largest_propagated_error_is_seldom_the_planted_one(profiles):
    named = [case for case in CASES if largest_propagated(profiles[case]) == PLANTED_BLOCK]
    assert len(named) < len(CASES) / 3


def largest_propagated(profile):
    return max(range(profile.n_blocks), key=lambda i: profile.outputs[i].propagated)


@pytest.mark.parametrize("fault", ["epsilon of ln1", "epsilon of ln2"])
def test_among_misrouted_tokens_only_local_errors_name_a_fault_of_a_few_percent(profiles, fault):
    """In bfloat16 a mixture sends tokens to other experts, in HuggingFace too, whose propagated errors then hide a fault.

    In the dense models, the first quantity whose propagated error is beyond the gate is the planted one as well.
    """
    component = FAULTS[fault][0]
    planted = f"blocks.{PLANTED_BLOCK}.{component}"
    mixture = profiles[fault, "zoo-mixtral", "bfloat16"]
    assert mixture.routing_disagreement > 0
    assert wrong_by_local(mixture)[0] == planted
    assert planted not in wrong_by_propagated(mixture)
    dense = [profiles[fault, model, "bfloat16"] for model in FAULTS[fault][1:] if model != "zoo-mixtral"]
    assert [wrong_by_propagated(profile)[0] for profile in dense] == [planted] * len(dense)


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_exits_1_with_the_place_of_the_fault_and_0_with_nulls_where_there_is_none(tree):
    words = ("zoo-gpt2", "--tl", tree.folder, "--wrapper", "TransformerBridge", "--json")
    tree.plant("dropped bias")
    wrong = where(*words, **tree.settings)
    assert wrong.returncode == 1, wrong.stderr
    printed = json.loads(wrong.stdout)
    assert (printed["block"], printed["component"], printed["part"]) == (PLANTED_BLOCK, "mlp_out", "mlp")
    assert printed["ratio"] == pytest.approx(printed["error"] / max(printed["reference_error"], 2**-24))
    assert printed["ratio"] > RATIO_GATE["float32"]
    (cell,) = printed["cells"]
    assert (cell["dtype"], cell["option"], cell["block"]) == ("float32", "unprocessed", PLANTED_BLOCK)
    assert cell["sites"]["blocks.2.mlp_out"]["local"] == printed["error"]
    tree.plant("")
    right = where(*words, **tree.settings)
    assert right.returncode == 0, right.stderr
    printed = json.loads(right.stdout)
    assert printed["tl"] == str(tree.folder)
    place = ("block", "component", "part", "error", "reference_error", "ratio")
    assert [printed[name] for name in place] == [None] * len(place)
    assert printed["cells"][0]["sites"].keys() == cell["sites"].keys()


def test_the_table_has_a_line_a_block_and_a_sentence(tree):
    tree.plant("")
    done = where("zoo-llama", "--tl", tree.folder, "--wrapper", "TransformerBridge", **tree.settings)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("ln1", "pattern", "attn_out", "ln2", "mlp_out", "ln_final", "logits"))
    assert "no component is wrong" in done.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["no such model!", "--tl", RELEASE], "no model 'no such model!'"),
        (["zoo-gpt2", "--tl", RELEASE, "--dtype", "float8"], "unknown dtype 'float8'"),
        (["zoo-gpt2", "--tl", RELEASE, "--wrapper", "HookedTransformer"], "removed in 4.0"),
    ],
)
def test_bad_use_exits_2_with_one_sentence(words, sentence):
    done = where(*words)
    assert done.returncode == 2, done.stdout
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
