"""What `tlbench verify` asks beyond the logits: each planted fault turns its check red, and no healthy model any other."""

import pytest

from tlbench import Cell
from tlbench.grid import Option
from tlbench.report.answered import PARTS, part_statuses, questions_of
from tlbench.report.checks import Part
from tlbench.report.status import Word

FAMILIES = ("zoo-gpt2", "zoo-llama", "zoo-gemma2", "zoo-mixtral", "zoo-bloom")
PROMISES = (
    *(Part.CAUSALITY, Part.PADDING, Part.LOSS, Part.SWITCHES),
    *(Part.BACKWARD, Part.DECOMPOSITION, Part.ACCESSORS, Part.MEMORY),
)
FAULTS = {
    "future": {"another last token moves earlier logits"},
    "future of a given model": {
        "the same with hf_model= under default attention",
        "hf_model= under default attention against HuggingFace",
    },
    "mask ignored": {"unequal prompts, padded on the left"},
    "mask ignored by generate": {"generate from unequal prompts"},
    "loss over padding": {"loss of unequal prompts"},
    "louder loss": {"loss", "loss_per_token", "loss of unequal prompts", "incl_bwd against autograd"},
    "loss at another token": {"loss_per_token"},
    **{f"switch {name}": {name} for name in ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in")},
    "refactoring": {"refactor_factored_attn_matrices"},
    "backward hooks": {"bwd_hooks against autograd"},
    "cached gradients": {"incl_bwd against autograd"},
    "accumulated": {"accumulated_resid", "accumulated_resid, unembedded"},
    "decomposed": {"sum of decompose_resid", "sum of logit_attrs"},
    "attributed": {"sum of logit_attrs"},
    "keys for values": {"weights by accessor"},
    "transposed heads": {"weights by accessor"},
    "another bias": {"weights by accessor"},
    "another product": {"weights by accessor"},
    "scaled embedding rows": {"weights by accessor"},
    "second copy": {"memory beyond HuggingFace's"},
    "pattern kept": {"what a forward pass leaves in the model"},
}
MODELS = {"mask ignored by generate": "zoo-llama", "pattern kept": "zoo-llama"}
"""zoo-gpt2 repeats one token by a margin of nats, whatever its context, and keeps its patterns anyway."""


def faulty(fault):
    """The model that a fault is planted in."""
    return MODELS.get(fault, "zoo-gpt2")


OPTIONS = {"attributed": Option.ALL_OPTIONS, "decomposed": Option.ALL_OPTIONS}
"""Attributions are right in 4.3.0 where the final norm is folded; accessors return the checkpoint's weights where not."""
KNOWN = {
    ("zoo-gpt2", "unprocessed"): {"sum of logit_attrs", "what a forward pass leaves in the model"},
    ("zoo-gpt2", "all_options"): {"what a forward pass leaves in the model"},
    ("zoo-llama", "unprocessed"): {"sum of logit_attrs"},
    ("zoo-mixtral", "unprocessed"): {"sum of logit_attrs"},
    ("zoo-bloom", "unprocessed"): {
        "sum of logit_attrs",
        "what a forward pass leaves in the model",
        "refactor_factored_attn_matrices",
    },
    ("zoo-bloom", "all_options"): {"what a forward pass leaves in the model"},
}
"""What is wrong in 4.3.0 itself; see docs/findings."""


def cell(model, option):
    return Cell(model, "float32", option, "TransformerBridge")


@pytest.fixture(scope="module")
def found(plants):
    """The checks of every case, by fault, model and option."""
    cases = [("", model, option) for model in FAMILIES for option in (Option.UNPROCESSED, Option.ALL_OPTIONS)]
    cases += [(fault, faulty(fault), OPTIONS.get(fault, Option.UNPROCESSED)) for fault in FAULTS]
    plain = cell("zoo-gpt2", Option.UNPROCESSED)
    questions = questions_of([plain], PROMISES)[plain]
    planted = plants("planted_in_promises")
    answers = planted.answers(questions, [(fault, cell(model, option)) for fault, model, option in cases])
    return {case: checks(one) for case, one in zip(cases, answers, strict=True)}


def checks(answers):
    return {one.what: one for status in part_statuses([answers], PROMISES) for one in status.checked}


def wrong(found, *case):
    return {what for what, one in found[case].items() if one.word is not Word.RIGHT and one.word is not Word.NOT_APPLICABLE}


@pytest.mark.parametrize("option", [Option.UNPROCESSED, Option.ALL_OPTIONS])
@pytest.mark.parametrize("model", FAMILIES)
def test_of_a_healthy_model_nothing_is_wrong_but_what_is_known(found, model, option):
    assert wrong(found, "", model, option) == KNOWN.get((model, option), set())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_turns_its_checks_red(found, fault):
    option = OPTIONS.get(fault, Option.UNPROCESSED)
    healthy = wrong(found, "", faulty(fault), option)
    moved = {
        what: found[fault, faulty(fault), option][what] for what in wrong(found, fault, faulty(fault), option) - healthy
    }
    assert FAULTS[fault] <= moved.keys()
    assert {one.word for one in moved.values()} == {Word.WRONG}


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in ("future", "mask ignored")])
def test_a_planted_fault_turns_no_other_check_red(found, fault):
    option = OPTIONS.get(fault, Option.UNPROCESSED)
    assert wrong(found, fault, faulty(fault), option) - wrong(found, "", faulty(fault), option) == FAULTS[fault]


def test_every_part_but_those_of_the_next_command_is_asked():
    assert set(PARTS) == set(Part) - {Part.DEPTH, Part.LENGTH}
