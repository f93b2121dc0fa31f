"""What `verify` concludes and `where` says, from made-up judgements."""

from types import SimpleNamespace

import pytest

from tests.command import run
from tlbench import catalogue
from tlbench.catalogue import Source
from tlbench.cli import judge
from tlbench.grid import Cell
from tlbench.metrics.verdict import JudgedBy, Verdict
from tlbench.questions.answers import Answers
from tlbench.questions.registry import ACCURACY
from tlbench.records.depth_profile import DepthProfile
from tlbench.records.outcome import Kind, Outcome
from tlbench.report import profiles
from tlbench.report.verify import Judgement, conclusion

CELL = Cell("zoo-gpt2", "float32", "unprocessed", "HookedTransformer")


def judged(dtype, option, verdict):
    measurement = SimpleNamespace(judged_by=JudgedBy.GOLDEN, truth=SimpleNamespace(error_ratio=20.0))
    return Judgement(Cell("zoo-gpt2", dtype, option, "HookedTransformer"), Verdict(verdict), measurement, None, "")


@pytest.mark.parametrize(
    ("cells", "advice"),
    [
        ({("float32", "unprocessed"): "worse"}, "float32 is wrong even without weight processing"),
        ({("float32", "unprocessed"): "benign", ("float32", "fold_ln"): "worse"}, "check what fold_ln does to the weights"),
        ({("float32", "fold_ln"): "worse"}, "add --dtype float32 --option unprocessed"),
        ({("float32", "unprocessed"): "benign", ("bfloat16", "unprocessed"): "worse"}, "the function is right"),
        ({("bfloat16", "unprocessed"): "worse"}, "add --dtype float32 --option unprocessed"),
        ({("float32", "unprocessed"): "benign", ("bfloat16", "fold_ln"): "worse"}, "Only 16 bits with fold_ln is wrong"),
        ({("bfloat16", "fold_ln"): "worse"}, "add --dtype float32 --option unprocessed"),
    ],
)
def test_nothing_is_called_right_that_was_not_measured(cells, advice):
    said = conclusion([judged(*cell, verdict) for cell, verdict in cells.items()])
    assert advice in said
    assert ("float32 is right" in said) is (cells.get(("float32", "unprocessed")) == "benign" and "Only" not in advice)


def test_a_profile_without_activations_is_unjudged_and_hooks_that_are_missing_are_counted():
    nothing = [(CELL, Outcome(Kind.MEASURED, DepthProfile(CELL, 1, {}, (), (), ("ln1",))))]
    assert profiles.sentence(*nothing[0]).endswith("unjudged: no activation could be compared.")
    assert profiles.exit_status(nothing) == 3
    failed = [(CELL, Outcome(Kind.FAILED, reason="it raised"))]
    assert profiles.exit_status(failed) == 1


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A source tree of TransformerLens under which zoo-opt fails, and the questions that are asked of it."""
    (tmp_path / "transformer_lens").mkdir()
    (tmp_path / "pyproject.toml").touch()
    asked = {}

    def ask(model, cells, tl, device, hooked_name, questions):
        asked[model] = (tl, {(cell.dtype, cell.option) for cell in cells}, questions(cells))
        kind = Kind.FAILED if model == "zoo-opt" else Kind.NOT_APPLICABLE
        answers = [Answers(cell, {ACCURACY.name: Outcome(kind, reason="planted")}) for cell in cells]
        return SimpleNamespace(answers=answers, subject=model)

    monkeypatch.setattr(judge, "_ask", ask)
    return tmp_path, asked


def test_verify_of_a_source_tree_asks_for_the_logits_of_every_small_model_under_it(checkout):
    folder, asked = checkout
    done = run("verify", folder, "--format", "markdown")
    assert done.returncode == 1, done.stderr
    assert asked.keys() == {model.name for model in catalogue.load().models if model.source is Source.ZOO}
    for tl, words, questions in asked.values():
        assert tl == str(folder)
        assert words == {("float32", "unprocessed"), ("float32", "all_options")}
        assert {question for of_cell in questions.values() for question in of_cell} == {ACCURACY}
    assert done.stdout.count("planted") == 1
    assert f"tlbench verify zoo-opt --tl {folder}" in done.stdout


def test_verify_of_a_source_tree_has_no_json(checkout):
    done = run("verify", checkout[0], "--json")
    assert done.returncode == 2
    assert "--json is for one model" in done.stderr


def test_the_reason_that_an_architecture_is_missing_does_not_list_all_that_are_there(monkeypatch):
    reason = f"no adapter. Available: {['LlamaForCausalLM'] * 100}, Config architectures: ['HeliumForCausalLM']"
    answers = [Answers(CELL, {ACCURACY.name: Outcome(Kind.NOT_APPLICABLE, reason=reason)})]
    nothing = judge._Run("zoo-helium", None, "4.3.0", {}, answers, None)
    monkeypatch.setattr(judge, "_ask", lambda *words, **named: nothing)
    done = run("verify", "zoo-helium", "--tl", "4.3.0")
    assert done.returncode == 2
    assert "Available: [...], Config architectures: ['HeliumForCausalLM']" in done.stderr
