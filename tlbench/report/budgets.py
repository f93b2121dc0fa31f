"""The table of `tlbench budget`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

from rich.console import Console

from tlbench.grid import Cell
from tlbench.records.measurement import ErrorBudget
from tlbench.records.outcome import Outcome
from tlbench.report import render
from tlbench.report.render import CELL, Column, Format, Value

PARTS = ("weight_rounding", "weight_processing", "forward_arithmetic", "final_rounding", "unexplained")
FIGURES = ("total", *PARTS, "root_sum_of_squares", "rotary_tables")
COLUMNS = (*CELL, *(Column(name.replace("_", " "), "{:.3g}".format, csv=name) for name in FIGURES))

Rows = Sequence[tuple[Cell, Outcome[ErrorBudget]]]


def show(console: Console, style: Format, title: str, rows: Rows) -> None:
    """One line a cell that has a budget, in nats (rms); a failed cell says so, one that cannot exist is left out."""
    lines = [_line(cell, outcome) for cell, outcome in rows if outcome.record or outcome.kind == "failed"]
    render.show(console, style, f"{title}: error budget, rms of the centred logits' error, nats", COLUMNS, lines)


def _line(cell: Cell, outcome: Outcome[ErrorBudget]) -> list[Value]:
    record = outcome.record
    figures = [f"failed: {outcome.reason}", *[None] * (len(FIGURES) - 1)]
    return [*astuple(cell), *(figures if record is None else (getattr(record, name) for name in FIGURES))]
