"""Advice follows from stored figures: constructed rows whose answer is plain arithmetic."""

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from tlbench import BadInput, Cell
from tlbench.grid import Option, Wrapper
from tlbench.metrics.verdict import Verdict
from tlbench.report.advice import MARGIN, Use, advise, answer, parse_effect
from tlbench.report.advice import show as show_advice
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
    console = Console(file=io.StringIO(), width=120)
    show_advice(console, advise([heavy], 1e-3))
    assert "│ not safe │ float32 │ fold_ln │ TransformerBridge │              0.001 │             1e-06 │" in (
        console.file.getvalue()
    )


@pytest.mark.parametrize("verdict", [Verdict.UNJUDGED, Verdict.WORSE, Verdict.BROKEN, Verdict.FAILED])
def test_what_is_not_known_to_be_right_is_never_safe(verdict):
    (one,) = advise([row(rms=1e-12, verdict=verdict)], 1.0)
    assert not one.is_safe
    console = Console(file=io.StringIO(), width=120)
    show_advice(console, [one])
    assert f"do not use ({verdict})" in console.file.getvalue()


def test_a_cell_that_does_not_exist_is_not_spoken_of_and_one_that_was_not_measured_is():
    (one,) = advise([row(verdict=Verdict.NOT_APPLICABLE), replace(row(verdict=Verdict.NOT_MEASURED), figures={})], 1.0)
    assert one.word is Use.NOT_MEASURED
    assert answer([one]) == "TransformerBridge is not measured in float32"


def test_the_answer_names_what_is_safe_and_what_is_not_and_the_smallest_error_comes_first():
    found = advise([row(rms=1e-3, option="center_unembed"), row(rms=1e-4), row(rms=0.1, dtype="bfloat16")], 0.1)
    assert [one.row.cell.option for one in found] == ["fold_ln", "center_unembed", "fold_ln"]
    assert answer(found) == "TransformerBridge is safe in float32 with each option that was measured; not safe in bfloat16"


def test_a_safe_option_is_named_where_another_is_not_and_no_option_at_all_is_never_called_no_option():
    found = advise([row(rms=1e-4), row(rms=1.0, option="unprocessed")], 0.1)
    assert answer(found) == "TransformerBridge is safe in float32 with fold_ln"


def test_a_wrapper_s_default_is_marked():
    options = {("TransformerBridge", "unprocessed"), ("HookedTransformer", "all_options")}
    found = advise([row(wrapper=w, option=o) for w in Wrapper for o in ("unprocessed", "all_options")], 1.0)
    console = Console(file=io.StringIO(), width=200)
    show_advice(console, found)
    marked = {
        (w, o)
        for line in console.file.getvalue().splitlines()
        for w in Wrapper
        for o in Option
        if w in line and f"{o} *" in line
    }
    assert marked == options


def test_the_csv_keeps_every_digit_and_leaves_absent_figures_empty(capsys):
    show(Console(), Format.CSV, Commit("c" * 40, 0, "v1"), [row(rms=0.1 + 0.2)])
    header, line = capsys.readouterr().out.splitlines()
    values = dict(zip(header.split(","), line.split(","), strict=True))
    assert values["total_rms"] == repr(0.1 + 0.2)
    assert values["error_ratio"] == ""
    assert values["verdict"] == "benign"
