"""The table of `tlbench budget`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from tabulate import tabulate

from tlbench.execution.memo import Outcome
from tlbench.grid import Cell
from tlbench.records.measurement import ErrorBudget
from tlbench.report.table import Format

PARTS = ("weight_rounding", "weight_processing", "forward_arithmetic", "final_rounding", "unexplained")
FIGURES = ("total", *PARTS, "root_sum_of_squares", "rotary_tables")
WORDS = ("model", "dtype", "option", "wrapper")

Rows = Sequence[tuple[Cell, Outcome[ErrorBudget]]]


def show(console: Console, style: Format, title: str, rows: Rows) -> None:
    """One line a cell that has a budget, in nats (rms); a failed cell says so, one that cannot exist is left out."""
    lines = [_line(cell, outcome) for cell, outcome in rows if outcome.record or outcome.kind == "failed"]
    header = [*WORDS, *FIGURES]
    if style is Format.CSV:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *lines])
        print(text.getvalue(), end="")
    elif style is Format.MARKDOWN:
        print(tabulate(lines, headers=header, tablefmt="pipe", disable_numparse=True))
    else:
        table = Table(title=f"{title}: error budget, rms of the centred logits' error, nats")
        for name in header:
            table.add_column(name.replace("_", " "), justify="left" if name in WORDS else "right")
        for line in lines:
            table.add_row(*line)
        console.print(table)


def _line(cell: Cell, outcome: Outcome[ErrorBudget]) -> list[str]:
    words = [cell.model, cell.dtype.value, cell.option.value, cell.wrapper.value]
    record = outcome.record
    if record is None:
        return [*words, f"failed: {outcome.reason}", *[""] * (len(FIGURES) - 1)]
    return [*words, *(f"{getattr(record, name):.3g}" for name in FIGURES)]
