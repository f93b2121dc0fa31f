"""How cells ended is kept beside asv's results, and what is kept of other cells stays."""

import json
from dataclasses import replace

import pytest

from tests.test_answers import CELL, FIGURES
from tlbench.exceptions import BadInput
from tlbench.grid import Cell
from tlbench.metrics.verdict import JudgedBy
from tlbench.questions.answers import _write, file_name
from tlbench.questions.registry import ACCURACY, HOOKS
from tlbench.records import endings
from tlbench.records.endings import Ending
from tlbench.records.inside import HookTruth
from tlbench.records.outcome import Kind, Outcome

TRUTH = HookTruth(CELL, 0.0, 0, 0.0, 0.0, 0.0, 0.0, 5, (), (), (), 0, 0.0, 0.0, {}, {})
OTHER = Cell("zoo-llama", "float16", "all_options", "HookedTransformer")


@pytest.fixture
def left(tmp_path):
    """Have a run leave an outcome, and keep what runs have left; what is kept then."""

    def leave(cell, outcome):
        _write(ACCURACY, cell, outcome, tmp_path / "run", tmp_path / "log")
        endings.keep(tmp_path / "log", tmp_path / "abc-env.json")
        stored = tmp_path / f"abc-env{endings.SUFFIX}"
        return endings.read(stored) if stored.exists() else None

    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "environment.json").write_text("{}")
    return leave


def test_a_plain_measurement_leaves_nothing(left):
    assert left(CELL, Outcome(Kind.MEASURED, FIGURES)) is None


def test_what_failed_and_what_does_not_exist_keep_their_reasons_and_a_cell_that_was_mended_loses_its(left):
    assert left(CELL, Outcome(Kind.FAILED, reason="it broke")) == {
        ("accuracy", str(CELL)): Ending(Kind.FAILED, "it broke", JudgedBy.NOTHING)
    }
    both = left(OTHER, Outcome(Kind.NOT_APPLICABLE, reason="no such wrapper"))
    assert {ending.kind for ending in both.values()} == {Kind.FAILED, Kind.NOT_APPLICABLE}
    mended = left(CELL, Outcome(Kind.MEASURED, FIGURES))
    assert list(mended) == [("accuracy", str(OTHER))]


def test_a_verdict_without_a_golden_keeps_what_it_rests_on_and_why(left):
    without = replace(FIGURES, truth=None, no_truth="too large")
    assert left(CELL, Outcome(Kind.MEASURED, without)) == {
        ("accuracy", str(CELL)): Ending(Kind.MEASURED, "too large", JudgedBy.NOTHING)
    }


def test_an_outcome_left_before_its_record_got_a_field_keeps_its_ending_and_stops_no_run(left, tmp_path):
    earlier = left(CELL, Outcome(Kind.MEASURED, replace(FIGURES, truth=None, no_truth="too large")))
    path = tmp_path / "log" / file_name(ACCURACY, CELL)
    data = json.loads(path.read_text())
    del data["record"]["nonfinite"]
    path.write_text(json.dumps(data))
    broken = {("accuracy", str(OTHER)): Ending(Kind.FAILED, "it broke", JudgedBy.NOTHING)}
    assert left(OTHER, Outcome(Kind.FAILED, reason="it broke")) == {**earlier, **broken}


def test_nonfinite_logits_are_a_failure_of_transformerlens_s_and_none_where_huggingface_s_are_not_finite_either(left):
    bad = replace(FIGURES, accuracy=None, truth=None, no_accuracy="3 non-finite", no_truth="3 non-finite", nonfinite=3)
    (ending,) = left(CELL, Outcome(Kind.MEASURED, bad)).values()
    assert (ending.kind, ending.reason) == (Kind.FAILED, "3 non-finite")
    (ending,) = left(CELL, Outcome(Kind.MEASURED, replace(bad, reference_nonfinite=3))).values()
    assert (ending.kind, ending.judged_by) == (Kind.MEASURED, JudgedBy.NOTHING)


def test_a_cell_that_was_not_measured_here_is_not_said_to_be_anything(left):
    assert left(CELL, Outcome(Kind.NOT_MEASURED, reason="no hub")) is None


def test_single_figures_that_are_missing_keep_their_reasons_until_the_cell_is_measured_again(tmp_path):
    def leave(reasons):
        _write(HOOKS, CELL, Outcome(Kind.MEASURED, replace(TRUTH, reasons=reasons)), tmp_path / "run", tmp_path / "log")
        endings.keep(tmp_path / "log", tmp_path / "abc-env.json")
        return endings.read(tmp_path / f"abc-env{endings.SUFFIX}")

    (tmp_path / "log").mkdir()
    assert leave({"edits": "ValueError: no", "start_at_layer": "n/a: refused"}) == {
        ("hooks/edits", str(CELL)): Ending(Kind.FAILED, "ValueError: no", JudgedBy.NOTHING),
        ("hooks/start_at_layer", str(CELL)): Ending(Kind.NOT_APPLICABLE, "refused", JudgedBy.NOTHING),
    }
    assert list(leave({"edits": "ValueError: again"})) == [("hooks/edits", str(CELL))]
    assert leave({}) == {}


def test_cells_that_ended_alike_share_a_line(left, tmp_path):
    left(CELL, Outcome(Kind.NOT_APPLICABLE, reason="gone"))
    left(OTHER, Outcome(Kind.NOT_APPLICABLE, reason="gone"))
    (line,) = (tmp_path / f"abc-env{endings.SUFFIX}").read_text().splitlines()
    assert json.loads(line)["cells"] == sorted([str(CELL), str(OTHER)])


def test_a_damaged_file_is_told_and_left(left, tmp_path):
    stored = tmp_path / f"abc-env{endings.SUFFIX}"
    stored.write_text('{"question": 1}\n')
    with pytest.raises(BadInput, match="is damaged"):
        left(CELL, Outcome(Kind.FAILED, reason="it broke"))
    assert stored.read_text() == '{"question": 1}\n'
