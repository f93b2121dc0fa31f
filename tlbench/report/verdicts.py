"""The table of `tlbench verdicts`: stored cells against the exact answer."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from tabulate import tabulate

from tlbench.report.stored import Commit, Figure, TruthRow
from tlbench.report.table import Format

CELL_COLUMNS = ("model", "dtype", "options", "wrapper")
CSV_COLUMNS = ("commit", "tag", *CELL_COLUMNS, *Figure, "floor", "verdict")
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
    title = f"TransformerLens {commit} against the exact answer"
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
        writer.writerow([row.commit, row.tag, *_words(row), *figures, _figure(row.floor, repr), row.verdict.value])
    return text.getvalue()


def _line(row: TruthRow) -> list[str]:
    figures = [_figure(row.figures.get(figure), lambda value: f"{value:.3g}") for figure in SHOWN]
    return [*_words(row), *figures, _figure(row.floor, lambda value: f"{value:.2g}"), row.verdict.value]


def _words(row: TruthRow) -> list[str]:
    cell = row.cell
    return [cell.model, cell.dtype.value, cell.option.value, cell.wrapper.value]


def _figure(value: float | None, spell: Callable[[float], str]) -> str:
    return "" if value is None else spell(value)
