"""One cell is measured once; an outcome is never lost and never mistaken for another."""

from dataclasses import replace

import pytest

from tlbench import Cell
from tlbench.exceptions import (
    BadInput,
    CellFailed,
    CheckpointUnavailable,
    NoGolden,
    NonFiniteLogits,
    NotApplicable,
    NotMeasured,
)
from tlbench.execution import memo
from tlbench.execution.memo import ACCURACY, Kind, Outcome, attempt, shared
from tlbench.metrics.figures import ErrorStatistics, Shift, Truth
from tlbench.records.measurement import Accuracy, Measurement

CELL = Cell("zoo-gpt2", "float32", "fold_ln", "TransformerBridge")
FIGURES = Measurement(
    cell=CELL,
    changed_weights=3,
    nonfinite=0,
    reference_nonfinite=0,
    vocabulary=(512, 512),
    accuracy=Accuracy(
        origin=ErrorStatistics(0.1, 0.2, 0.3, 0.4),
        probability=ErrorStatistics(1e-9, 1.0000000000000002e-300, 0.0, 0.1 + 0.2),
        logit=ErrorStatistics(1.0, 2.0, 3.0, 4.0),
        shift=Shift(17.25, 18.5),
    ),
    truth=Truth(
        **dict.fromkeys(("identical", "has_experts"), False),
        **dict.fromkeys(("error_rms", "reference_rms", "golden_rms", "total_rms", "weights_rms"), 1e-6),
        **dict.fromkeys(("error_ratio", "error_correlation", "typical_ratio", "tail_ratio", "settled_share"), 1.0),
        **dict.fromkeys(("bits_lost", "kl_nats", "kl_max_nats", "shift_spread", "difference_rms", "difference_p99"), 0.1),
        **dict.fromkeys(("top1_flips", "top1_ties", "top1_unexplained"), 0),
        golden_precision="float64",
        settled_ratio=None,
    ),
)


class Measurer:
    """Counts how often it is asked, and answers or raises as told."""

    def __init__(self, answer):
        self.answer, self.calls = answer, 0

    def __call__(self, cell):
        self.calls += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Put a counting measurer in place of the real one, and keep figures in a folder of this test's own."""

    def put(answer):
        measurer = Measurer(answer)
        monkeypatch.setattr("tlbench.questions.measure.measure", measurer)
        return measurer

    monkeypatch.setattr(memo, "kept_path", lambda question, cell: tmp_path / "kept" / memo.file_name(question, cell))
    return put


def test_json_keeps_every_bit_of_a_measurement():
    assert Measurement.from_json(FIGURES.to_json()) == FIGURES
    outcome = Outcome(Kind.MEASURED, FIGURES)
    assert Outcome.from_json(outcome.to_json(), Measurement) == outcome


def test_many_readers_of_one_run_measure_once(measured, tmp_path):
    measurer = measured(FIGURES)
    (tmp_path / "run").mkdir()
    for _ in range(12):
        assert shared(ACCURACY, CELL, tmp_path / "run") == FIGURES
    assert measurer.calls == 1


def test_a_failure_is_met_once_a_run_and_raised_to_every_reader(measured, tmp_path):
    measurer = measured(CellFailed("it broke"))
    (tmp_path / "run").mkdir()
    for _ in range(3):
        with pytest.raises(CellFailed, match="it broke"):
            shared(ACCURACY, CELL, tmp_path / "run", tmp_path / "log")
    assert measurer.calls == 1
    assert "it broke" in (tmp_path / "log" / memo.file_name(ACCURACY, CELL)).read_text()


def test_a_figure_outlives_an_interrupted_run_and_a_failure_does_not(measured, tmp_path):
    measurer = measured(FIGURES)
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        assert shared(ACCURACY, CELL, tmp_path / run) == FIGURES
    assert measurer.calls == 1

    other = Cell("zoo-gpt2", "float16", "fold_ln", "TransformerBridge")
    measurer = measured(CellFailed("out of memory"))
    assert attempt(ACCURACY, other).kind is Kind.FAILED
    assert attempt(ACCURACY, other).kind is Kind.FAILED
    assert measurer.calls == 2


def test_remeasure_measures_again(measured, monkeypatch):
    measurer = measured(FIGURES)
    attempt(ACCURACY, CELL)
    monkeypatch.setenv("TLBENCH_REMEASURE", "1")
    attempt(ACCURACY, CELL)
    assert measurer.calls == 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotApplicable("no bridge"), Kind.NOT_APPLICABLE),
        (CheckpointUnavailable("no hub"), Kind.NOT_MEASURED),
        (NoGolden("too large"), Kind.NOT_MEASURED),
        (NonFiniteLogits("3 non-finite logits"), Kind.FAILED),
        (BadInput("not made"), Kind.FAILED),
        (MemoryError("too big"), Kind.FAILED),
    ],
)
def test_not_applicable_not_measured_and_failed_are_three_things(measured, error, kind):
    measured(error)
    outcome = attempt(ACCURACY, CELL)
    assert outcome.kind is kind
    assert str(error) in outcome.reason
    with pytest.raises({Kind.NOT_APPLICABLE: NotApplicable, Kind.NOT_MEASURED: NotMeasured}.get(kind, CellFailed)):
        outcome.require()


def test_the_name_of_a_kept_figure_follows_everything_that_decides_it(own_cache, monkeypatch):
    monkeypatch.setattr(memo, "setting", lambda: {"transformer_lens": "a"})
    first = memo.kept_path(ACCURACY, CELL)
    assert memo.kept_path(ACCURACY, CELL) == first
    assert memo.kept_path(ACCURACY, Cell("zoo-gpt2", "float16", "fold_ln", "TransformerBridge")) != first
    monkeypatch.setattr(memo, "setting", lambda: {"transformer_lens": "b"})
    assert memo.kept_path(ACCURACY, CELL) != first


@pytest.mark.parametrize("without", [{"truth": None, "no_truth": "too large"}, {"golden_precision": "float32"}])
def test_what_less_memory_than_another_time_decided_is_measured_again(measured, without):
    truth = replace(FIGURES.truth, **without) if "golden_precision" in without else None
    measurer = measured(replace(FIGURES, truth=truth, no_truth=without.get("no_truth", "")))
    attempt(ACCURACY, CELL)
    attempt(ACCURACY, CELL)
    assert measurer.calls == 2


def test_the_key_follows_the_arithmetic_the_libraries_and_all_code_that_the_measurer_imports(own_cache, monkeypatch):
    monkeypatch.setattr(memo, "setting", lambda: {"arithmetic": "shared"})
    first = memo.kept_path(ACCURACY, CELL)
    monkeypatch.setattr(memo, "setting", lambda: {"arithmetic": "native"})
    assert memo.kept_path(ACCURACY, CELL) != first
    monkeypatch.setattr(memo, "setting", lambda: {"arithmetic": "shared"})
    monkeypatch.setattr(memo, "code_digest", lambda module: f"other {module}")
    assert memo.kept_path(ACCURACY, CELL) != first
