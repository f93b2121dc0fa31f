"""The benchmarks' own words: what is a figure, what a skip, what a failure."""

from dataclasses import replace

import pytest
from asv_runner.benchmarks.mark import SkipNotImplemented

from benchmarks.accuracy import Logit, Processing
from benchmarks.truth import TransformerLens
from tests.test_answers import FIGURES
from tlbench.exceptions import NonFiniteLogits

BAD = replace(FIGURES, accuracy=None, truth=None, no_accuracy="3 non-finite logits", no_truth="3 non-finite logits")


@pytest.fixture
def answered(monkeypatch):
    """A benchmark whose cell has been measured."""

    def of(kind, measurement):
        monkeypatch.setattr("benchmarks.cell.answer", lambda *_: measurement)
        case = kind()
        case.setup("zoo-gpt2", "float32", "fold_ln", "TransformerBridge")
        return case

    return of


def test_a_measurement_gives_its_figures(answered):
    assert answered(Logit, FIGURES).track_mean() == FIGURES.accuracy.logit.mean
    assert answered(TransformerLens, FIGURES).track_difference_p99() == FIGURES.truth.difference_p99
    assert answered(TransformerLens, FIGURES).track_verdict() == FIGURES.severity


def test_where_transformerlens_is_not_finite_errors_fail_and_the_verdict_is_broken(answered):
    measured = replace(BAD, nonfinite=3)
    with pytest.raises(NonFiniteLogits):
        answered(Logit, measured)
    case = answered(TransformerLens, measured)
    with pytest.raises(NonFiniteLogits):
        case.track_error_ratio()
    assert (case.track_nonfinite(), case.track_verdict()) == (3, 4)


def test_where_huggingface_is_not_finite_errors_are_skipped_and_the_verdict_is_unjudged(answered):
    measured = replace(BAD, reference_nonfinite=3)
    with pytest.raises(SkipNotImplemented):
        answered(Logit, measured)
    with pytest.raises(SkipNotImplemented):
        answered(Processing, measured).track_raw_max()
    case = answered(TransformerLens, measured)
    with pytest.raises(SkipNotImplemented):
        case.track_error_ratio()
    assert case.track_verdict() == 2.5


def test_without_a_golden_figures_against_it_are_skipped_and_the_verdict_is_stored(answered):
    measured = replace(FIGURES, truth=None, no_truth="too large")
    case = answered(TransformerLens, measured)
    with pytest.raises(SkipNotImplemented, match="too large"):
        case.track_bits_lost()
    assert case.track_verdict() == 2.5
    assert answered(Logit, measured).track_max() == FIGURES.accuracy.logit.max
