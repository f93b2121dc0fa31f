"""The table of `tlbench verdicts`: stored cells against the exact answer."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from tabulate import tabulate

from tlbench.metrics.verdict import JudgedBy, Verdict
from tlbench.report.stored import Commit, Figure, TruthRow
from tlbench.report.table import Format

CELL_COLUMNS = ("model", "dtype", "options", "wrapper")
CSV_COLUMNS = ("commit", "tag", *CELL_COLUMNS, *Figure, "floor", "verdict", "judged_by")
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


def show(console: Console, style: Format, commit: Commit, rows: Sequence[TruthRow]) -> None:
    """One line a cell."""
    if style is Format.CSV:
        print(write_csv(rows), end="")
        return
    header = [*CELL_COLUMNS, *SHOWN.values(), "floor, nats", "verdict"]
    lines = [_line(row) for row in rows]
    title = f"TransformerLens {commit} against the golden"
    if style is Format.MARKDOWN:
        print(f"**{title}**\n\n{tabulate(lines, headers=header, tablefmt='pipe', disable_numparse=True)}\n")
        return
    table = Table(title=title)
    for name in header:
        table.add_column(name, justify="left" if name in (*CELL_COLUMNS, "verdict") else "right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    console.print(table)


def write_csv(rows: Sequence[TruthRow]) -> str:
    """One line a row, figures with every digit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        figures = [_figure(row.figures.get(figure), repr) for figure in Figure]
        words = [row.verdict.value, row.judged_by.value]
        writer.writerow([row.commit, row.tag, *_words(row), *figures, _figure(row.floor, repr), *words])
    return text.getvalue()


def _line(row: TruthRow) -> list[str]:
    figures = [_figure(row.figures.get(figure), lambda value: f"{value:.3g}") for figure in SHOWN]
    return [*_words(row), *figures, _figure(row.floor, lambda value: f"{value:.2g}"), word(row.verdict, row.judged_by)]


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


def _words(row: TruthRow) -> list[str]:
    cell = row.cell
    return [cell.model, cell.dtype.value, cell.option.value, cell.wrapper.value]


def _figure(value: float | None, spell: Callable[[float], str]) -> str:
    return "" if value is None else spell(value)
