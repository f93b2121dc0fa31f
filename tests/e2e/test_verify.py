"""`tlbench verify` finds every planted fault, in float32, and none where there is none."""

import json
import re
import shlex
import shutil

import pytest

from tests.command import run
from tests.e2e.planting import RELEASE
from tlbench import Cell, catalogue
from tlbench.checkpoints import ensure
from tlbench.questions.registry import ACCURACY

FAULTS = {
    "head scale": ("zoo-gpt2", "zoo-llama-gqa", "zoo-gpt-neox", "zoo-gemma2", "zoo-bloom"),
    "epsilon": ("zoo-gpt2", "zoo-llama-gqa", "zoo-gpt-neox", "zoo-gemma2", "zoo-olmo2"),
    "rotary base": ("zoo-llama-gqa", "zoo-gpt-neox", "zoo-gemma2", "zoo-qwen2"),
    "dropped bias": ("zoo-gpt2", "zoo-gpt-neox", "zoo-bloom", "zoo-opt"),
    "soft cap": ("zoo-gemma2",),
}


WHERE = ("--dtype", "float32", "--option", "unprocessed", "--wrapper", "TransformerBridge")
LOGITS = ("--question", "logits", "--question", "noise-floor")


@pytest.fixture(scope="module")
def tree(plants):
    return plants("planted_fault")


@pytest.fixture(scope="module")
def local_folder(tmp_path_factory):
    """A checkpoint that no catalogue knows."""
    models = catalogue.load()
    folder = tmp_path_factory.mktemp("models") / "my model"
    shutil.copytree(ensure(models.get("zoo-gpt2"), models).folder, folder)
    return folder


def verify(*words, **environment):
    return run("verify", *words, **environment)


def test_each_fault_is_found_on_each_architecture_and_the_healthy_model_is_not_accused(tree):
    models = sorted(set(sum(FAULTS.values(), ())))
    cases = [(fault, model) for fault, names in {**FAULTS, "": models}.items() for model in names]
    cells = [(fault, Cell(model, "float32", "unprocessed", "TransformerBridge")) for fault, model in cases]
    records = tree.ask((ACCURACY,), cells)
    found = {case: outcomes[ACCURACY.name].verdict for case, outcomes in zip(cases, records, strict=True)}
    healthy = {case: verdict for case, verdict in found.items() if not case[0]}
    assert not {case: verdict for case, verdict in healthy.items() if verdict.is_alarm}
    missed = {case: verdict for case, verdict in found.items() if case[0] and not verdict.is_alarm}
    assert not missed


def test_a_right_local_model_exits_0_and_a_wrong_one_1(tree, local_folder):
    words = (
        local_folder,
        "--tl",
        tree.folder,
        "--dtype",
        "float32",
        "--option",
        "unprocessed",
        "--option",
        "fold_ln",
        *LOGITS,
        "--json",
    )
    tree.plant("")
    right = verify(*words, **tree.settings)
    assert right.returncode == 0, right.stderr
    printed = json.loads(right.stdout)
    assert printed["tl"] == str(tree.folder)
    bridges = [cell for cell in printed["cells"] if cell["wrapper"] == "TransformerBridge"]
    assert [cell["option"] for cell in bridges] == ["unprocessed", "fold_ln"]
    assert all(cell["verdict"] in ("exact", "same rounding", "benign") for cell in bridges)
    assert all(0 <= cell["floor"] < 1e-4 for cell in bridges)
    assert {cell["verdict"] for cell in printed["cells"] if cell["wrapper"] == "HookedTransformer"} == {"n/a"}
    tree.plant("dropped bias")
    wrong = verify(*words, **tree.settings)
    assert wrong.returncode == 1, wrong.stderr
    printed = json.loads(wrong.stdout)
    assert {cell["verdict"] for cell in printed["cells"]} <= {"worse", "broken", "n/a"}
    assert "float32 is wrong even without weight processing" in printed["conclusion"]


def test_the_verdict_comes_first_and_the_table_has_every_configuration_that_exists():
    done = verify("zoo-llama", "--tl", RELEASE, "--dtype", "float32", "--question", "logits")
    assert done.returncode == 0, done.stderr
    first, second, absent, _ = done.stdout.splitlines()
    subject = r"zoo-llama \(LlamaForCausalLM, [\d.]+ M parameters\) on TransformerLens .*"
    assert re.fullmatch(rf"RIGHT  {subject}: logits right in all 6 configurations", first)
    assert "no-op" in second
    assert "HuggingFace's own error" in second
    assert absent == "n/a: 6 configurations: this TransformerLens has no HookedTransformer (removed in 4.0)"
    full = verify("zoo-llama", "--tl", RELEASE, "--dtype", "float32", *LOGITS, "--all", COLUMNS="200").stdout
    assert full.count("TransformerBridge") == 6 + 6  # the logits of each configuration, and its noise floor
    assert re.search(r"^Worst logit \(float32 .*\): '.*' after '.*', prompt \d\.$", full, re.MULTILINE)
    assert "center_writing_weights" in full


def test_of_a_wrong_model_the_first_wrong_component_is_named_with_the_command_that_shows_it(tree, local_folder):
    tree.plant("dropped bias")
    words = (
        local_folder,
        "--tl",
        tree.folder,
        "--dtype",
        "float32",
        "--wrapper",
        "TransformerBridge",
        "--question",
        "logits",
    )
    done = verify(*words, **tree.settings)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("WRONG  ")
    assert "the first wrong component is" in done.stdout
    command = next(line for line in done.stdout.splitlines() if line.startswith("To see more: "))
    assert shlex.split(command)[3:] == ["tlbench", "where", str(local_folder), *("--tl", str(tree.folder)), *WHERE]


def test_the_other_questions_can_be_left_out_and_the_verdict_stays():
    chosen = ("--dtype", "float32", "--option", "unprocessed", "--wrapper", "TransformerBridge")
    done = verify("zoo-llama", "--tl", RELEASE, *chosen, "--question", "logits", "--json")
    assert done.returncode == 0, done.stderr
    (cell,) = json.loads(done.stdout)["cells"]
    assert cell["floor"] is None
    assert cell["verdict"] in ("exact", "same rounding", "benign")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["no such model!"], "no model 'no such model!'"),
        (["zoo-gpt2", "--dtype", "float8"], "unknown dtype 'float8'"),
        (["zoo-gpt2", "--question", "floor"], "no question 'floor': expected one of logits, hooks"),
        (["zoo-gpt2", "--format", "csv"], "verify has no csv"),
        (["zoo-gpt2", "--tl", "0.0.0.0"], "expected a folder, a release"),
        (["zoo-gpt2", "--tl", "tests"], "no pyproject.toml"),
        (["tests", "--tl", RELEASE], "no config.json"),
        (["zoo-gpt2", "--tl", RELEASE, "--wrapper", "HookedTransformer"], "removed in 4.0"),
        (["zoo-gpt2", "--tl", RELEASE, "--device", "cuda:7", "--dtype", "float32"], "cuda:7"),
    ],
)
def test_bad_use_exits_2_with_one_sentence(words, sentence):
    done = verify(*words)
    assert done.returncode == 2, done.stdout
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
