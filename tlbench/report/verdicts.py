"""The table of `tlbench verdicts`: stored cells against the golden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

from rich.console import Console

from tlbench.metrics.verdict import JudgedBy, Verdict
from tlbench.report import render
from tlbench.report.render import CELL, COMMIT, Column, Format
from tlbench.report.stored import Commit, Figure, TruthRow

BY_HUGGINGFACE = "*"
"""Behind a verdict that rests on HuggingFace's own rounding, for want of a golden that can be trusted."""
SHOWN = {
    Figure.RATIO: "ratio",
    Figure.CORRELATION: "corr.",
    Figure.BITS_LOST: "bits lost",
    Figure.KL_NATS: "KL, nats",
    Figure.TOP1_FLIPS: "flips",
    Figure.TOP1_TIES: "ties",
    Figure.TOTAL_RMS: "total rms, nats",
}
COLUMNS = (
    *COMMIT,
    *CELL,
    *(Column(SHOWN.get(figure), "{:.3g}".format, csv=figure) for figure in Figure),
    Column("floor, nats", "{:.2g}".format, csv="floor"),
    Column("verdict", csv=None),
    Column(None, csv="verdict"),
    Column(None, csv="judged_by"),
)


def show(console: Console, style: Format, commit: Commit, rows: Sequence[TruthRow]) -> None:
    """One line a cell."""
    lines = []
    for row in rows:
        words = [word(row.verdict, row.judged_by), row.verdict, row.judged_by]
        lines.append([row.commit, row.tag, *astuple(row.cell), *map(row.figures.get, Figure), row.floor, *words])
    render.show(console, style, f"TransformerLens {commit} against the golden", COLUMNS, lines)


def word(verdict: Verdict, judged_by: JudgedBy) -> str:
    """A verdict as tables show it."""
    return f"{verdict.value}{BY_HUGGINGFACE}" if judged_by is JudgedBy.HUGGINGFACE else verdict.value


def conclusion(commit: Commit, rows: Sequence[TruthRow]) -> str:
    """One line that counts every cell by its verdict."""
    counts = {verdict: sum(row.verdict is verdict for row in rows) for verdict in Verdict}
    words = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    alarms = sum(row.verdict.is_alarm for row in rows)
    unjudged = counts[Verdict.UNJUDGED]
    if alarms:
        finding = f"{alarms} cells are wrong"
    else:
        finding = f"no cell is known to be wrong, and {unjudged} are unjudged" if unjudged else "no cell is wrong"
    by_huggingface = any(row.judged_by is JudgedBy.HUGGINGFACE for row in rows)
    note = f" {BY_HUGGINGFACE}: judged by HuggingFace's own rounding, see `tlbench outcomes`." if by_huggingface else ""
    return f"TransformerLens {commit}: {finding} ({words}).{note}"


def exit_status(rows: Sequence[TruthRow]) -> int:
    """0 where all are right, 1 where one is wrong, 3 where none is known to be and some are unjudged."""
    if any(row.verdict.is_alarm for row in rows):
        return 1
    return 3 if any(row.verdict is Verdict.UNJUDGED for row in rows) else 0
