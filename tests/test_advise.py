"""Advice follows from stored figures: constructed rows whose answer is plain arithmetic."""

import math
from dataclasses import replace

import pytest
from rich.console import Console

from tlbench import BadInput, Cell
from tlbench.metrics.verdict import Verdict
from tlbench.report.advice import MARGIN, advise, parse_effect, sentences
from tlbench.report.render import Format
from tlbench.report.stored import Commit, Figure, TruthRow
from tlbench.report.verdicts import show


def row(dtype="float32", option="fold_ln", rms=1e-6, verdict=Verdict.BENIGN, wrapper="TransformerBridge"):
    return TruthRow("c" * 40, "v1", Cell("zoo-gpt2", dtype, option, wrapper), figures(rms), 0.0, verdict)


def figures(rms, tail=None):
    return {Figure.DIFFERENCE_RMS: rms, Figure.DIFFERENCE_P99: tail or 3 * rms, Figure.TOTAL_RMS: rms}


@pytest.mark.parametrize(
    ("text", "nats"),
    [("0.01nats", 0.01), ("0.01 nats", 0.01), ("1e-3", 1e-3), ("1bit", math.log(2)), ("2 bits", 2 * math.log(2))],
)
def test_an_effect_has_a_size_and_a_unit(text, nats):
    assert parse_effect(text) == pytest.approx(nats)


@pytest.mark.parametrize("text", ["", "nats", "-1nats", "0nats", "1e999", "0.01 volts", "1.2.3nats", "nan"])
def test_an_effect_that_is_none_is_refused(text):
    with pytest.raises(BadInput, match="invalid --effect"):
        parse_effect(text)


def test_an_error_of_a_tenth_of_the_effect_is_safe_and_above_it_is_not():
    rms = 0.01 / MARGIN / 3
    below, above = advise([row(rms=rms * 0.999), row(rms=rms * 1.001)], 0.01)
    assert below.is_safe
    assert not above.is_safe


def test_the_tail_of_the_error_decides_and_not_its_typical_size():
    heavy = replace(row(), figures=figures(1e-6, tail=1e-3))
    assert not advise([heavy], 1e-3)[0].is_safe
    assert "error 1e-06 nats (rms), 0.001 nats (99th percentile)" in sentences(advise([heavy], 1e-3))[0]


@pytest.mark.parametrize("verdict", [Verdict.UNJUDGED, Verdict.WORSE, Verdict.BROKEN, Verdict.FAILED])
def test_what_is_not_known_to_be_right_is_never_safe(verdict):
    (one,) = advise([row(rms=1e-12, verdict=verdict)], 1.0)
    assert not one.is_safe
    assert f"do not use fold_ln ({verdict})" in sentences([one])[0]


def test_a_cell_that_does_not_exist_is_not_spoken_of():
    assert advise([row(verdict=Verdict.NOT_APPLICABLE), row(verdict=Verdict.NOT_MEASURED)], 1.0) == []


def test_the_sentences_state_the_error_and_how_many_times_it_is_below_or_above_the_effect():
    found = advise([row(rms=1e-4), row(rms=0.1, dtype="bfloat16")], 0.1)
    assert sentences(found) == [
        "TransformerBridge, float32: safe with fold_ln: error 0.0001 nats (rms), 0.0003 nats (99th percentile), 333 times "
        "smaller than the effect",
        "TransformerBridge, bfloat16: no option is safe: error 0.1 nats (rms), 0.3 nats (99th percentile), 3 times the "
        "effect",
    ]


def test_the_csv_keeps_every_digit_and_leaves_absent_figures_empty(capsys):
    show(Console(), Format.CSV, Commit("c" * 40, 0, "v1"), [row(rms=0.1 + 0.2)])
    header, line = capsys.readouterr().out.splitlines()
    values = dict(zip(header.split(","), line.split(","), strict=True))
    assert values["total_rms"] == repr(0.1 + 0.2)
    assert values["error_ratio"] == ""
    assert values["verdict"] == "benign"
