"""The table of `tlbench verdicts`: stored cells against the golden."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import astuple

from rich.console import Console

from tlbench.metrics.verdict import JudgedBy, Verdict
from tlbench.report import render
from tlbench.report.render import CELL, COMMIT, Column, Format
from tlbench.report.stored import Commit, Figure, TruthRow

BY_HUGGINGFACE = "*"
"""Marks a verdict that is based on HuggingFace's own rounding, for lack of a trustworthy golden."""
SHOWN = {
    Figure.RATIO: "ratio",
    Figure.CORRELATION: "corr.",
    Figure.BITS_LOST: "bits lost",
    Figure.KL_NATS: "KL, nats",
    Figure.TOP1_FLIPS: "flips",
    Figure.TOP1_TIES: "ties",
    Figure.TOTAL_RMS: "total rms, nats",
}
DROPPED = (Figure.RATIO, Figure.TOTAL_RMS, Figure.KL_NATS, Figure.TOP1_FLIPS, Figure.BITS_LOST, Figure.CORRELATION)
"""In a narrow terminal, the last of these is left out first, after the others; the ratio stays."""
COLUMNS = (
    *COMMIT,
    *CELL,
    *(
        Column(SHOWN.get(figure), "{:.3g}".format, csv=figure, drop=DROPPED.index(figure) if figure in DROPPED else 9)
        for figure in Figure
    ),
    Column("floor, nats", "{:.2g}".format, csv="floor", drop=8),
    Column("verdict", csv=None, is_first=True),
    Column(None, csv="verdict"),
    Column(None, csv="judged_by"),
)


def show(console: Console, style: Format, commit: Commit, rows: Sequence[TruthRow]) -> None:
    """One line per cell; in a terminal what is wrong comes first, then what is unjudged."""
    lines = []
    if style is Format.RICH:
        rows = sorted(rows, key=lambda row: (not row.verdict.is_alarm, row.verdict.passes))
    for row in rows:
        words = [word(row.verdict, row.judged_by), row.verdict, row.judged_by]
        lines.append([row.commit, row.tag, *astuple(row.cell), *map(row.figures.get, Figure), row.floor, *words])
    render.show(console, style, f"TransformerLens {commit} against the golden", COLUMNS, lines)


def word(verdict: Verdict, judged_by: JudgedBy) -> str:
    """A verdict as tables show it."""
    return f"{verdict.value}{BY_HUGGINGFACE}" if judged_by is JudgedBy.HUGGINGFACE else verdict.value


def counted(verdicts: Iterable[Verdict]) -> str:
    """The number of cells with each verdict, such as ``2 worse, 1 broken``."""
    counts = Counter(verdicts)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])


def conclusion(commit: Commit, rows: Sequence[TruthRow]) -> str:
    """One line that counts all cells by verdict."""
    verdicts = [row.verdict for row in rows]
    if alarms := sum(verdict.is_alarm for verdict in verdicts):
        finding = "1 cell is wrong" if alarms == 1 else f"{alarms} cells are wrong"
    elif unjudged := verdicts.count(Verdict.UNJUDGED):
        finding = f"no cell is known to be wrong, but {unjudged} could not be judged"
    else:
        finding = "no cell is wrong"
    by_huggingface = any(row.judged_by is JudgedBy.HUGGINGFACE for row in rows)
    note = f" {BY_HUGGINGFACE}: judged by HuggingFace's own rounding, see `tlbench outcomes`." if by_huggingface else ""
    return f"TransformerLens {commit}: {finding} ({counted(verdicts)}).{note}"


def exit_status(verdicts: Collection[Verdict]) -> int:
    """0 if all are right, 1 if one is wrong, 3 if none is known to be wrong but some are unjudged."""
    if any(verdict.is_alarm for verdict in verdicts):
        return 1
    return 3 if Verdict.UNJUDGED in verdicts else 0
