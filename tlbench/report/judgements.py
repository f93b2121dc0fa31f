"""The table of `tlbench verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

from rich.console import Console

from tlbench.grid import Space, Statistic
from tlbench.metrics.verdict import JudgedBy, Verdict
from tlbench.report import render
from tlbench.report.render import CELL, Column, Format, Value
from tlbench.report.verdicts import BY_HUGGINGFACE, word
from tlbench.report.verify import Judgement

COLUMNS = (
    *CELL[1:],
    *(Column(statistic, "{:.3g}".format) for statistic in Statistic),
    Column("ratio", str),
    Column("corr.", "{:.3f}".format),
    Column("bits lost", "{:.2f}".format),
    Column("KL, nats", "{:.2e}".format),
    Column("flips", str),
    Column("floor", "{:.2g}".format),
    Column("verdict"),
)
STYLES = {Verdict.UNJUDGED: "magenta", Verdict.WORSE: "yellow", Verdict.BROKEN: "red", Verdict.FAILED: "red"}
MAKESHIFT = "+"
"""Behind a ratio that rests on a float32 golden."""


def print_rich(console: Console, title: str, space: Space, judgements: Sequence[Judgement]) -> None:
    """One line a cell; below it the reasons of those without figures."""
    unit = "nats" if space is Space.LOGIT else "probability"
    title = f"{title}: error against HuggingFace ({space}, {unit}) and against the golden"
    lines = [_line(one, space) for one in judgements]
    render.show(console, Format.RICH, title, COLUMNS, lines, [STYLES.get(one.verdict, "") for one in judgements])
    for reason, words in _reasons(judgements).items():
        console.print(f"{words}: {reason}", soft_wrap=True, highlight=False, markup=False)


def _line(one: Judgement, space: Space) -> list[Value]:
    error, truth = one.error(space), one.truth
    errors = [error.get(statistic) if error else None for statistic in Statistic]
    if truth:
        ratio = f"{one.ratio:.3f}" + (MAKESHIFT if truth.golden_precision != "float64" else "")
        flips = f"{truth.top1_flips} + {truth.top1_ties} ties" if truth.top1_ties else truth.top1_flips
        figures = [ratio, truth.error_correlation, truth.bits_lost, truth.kl_nats, flips]
    else:
        figures = ["" if one.ratio is None else f"{one.ratio:.3f}{BY_HUGGINGFACE}", *[None] * 4]
    floor = one.floor.largest if one.floor else None
    return [*astuple(one.cell)[1:], *errors, *figures, floor, word(one.verdict, one.judged_by)]


def _reasons(judgements: Sequence[Judgement]) -> dict[str, str]:
    """From each reason to the cells that have it, in words."""
    found: dict[str, list[Judgement]] = {}
    for one in judgements:
        if one.reason:
            found.setdefault(one.reason, []).append(one)
    notes = {
        MAKESHIFT: any(one.truth and one.truth.golden_precision != "float64" for one in judgements),
        BY_HUGGINGFACE: any(one.judged_by is JudgedBy.HUGGINGFACE for one in judgements),
    }
    meanings = {
        MAKESHIFT: "against a float32 golden",
        BY_HUGGINGFACE: "judged by what HuggingFace's own rounding can do: the ratio is the distance from HuggingFace over "
        "the largest of its variants' (reversed sums, other attention, threads, batch split)",
    }
    lines = {
        reason: f"{ones[0].cell.wrapper} {ones[0].verdict} ({len(ones)} configurations)" for reason, ones in found.items()
    }
    return lines | {meanings[mark]: mark for mark, is_there in notes.items() if is_there}
