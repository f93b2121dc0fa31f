"""The table of `tlbench budget`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

from rich.console import Console

from tlbench.grid import Cell
from tlbench.records.measurement import ErrorBudget
from tlbench.records.outcome import Kind, Outcome
from tlbench.report import render
from tlbench.report.render import CELL, Column, Format, Value

PARTS = ("weight_rounding", "weight_processing", "forward_arithmetic", "final_rounding", "unexplained")
FIGURES = ("total", *PARTS, "root_sum_of_squares", "rotary_tables")
DROPPED = {"root_sum_of_squares": 3, "rotary_tables": 2, "unexplained": 1}
COLUMNS = (
    *CELL,
    *(Column(name.replace("_", " "), "{:.3g}".format, csv=name, drop=DROPPED.get(name, 0)) for name in FIGURES),
)


def show(console: Console, style: Format, title: str, rows: Sequence[tuple[Cell, Outcome[ErrorBudget]]]) -> None:
    """One row per measured or failed cell, in nats (rms)."""
    lines = [_line(cell, outcome) for cell, outcome in rows if outcome.record or outcome.kind is Kind.FAILED]
    render.show(console, style, f"{title}: error budget, rms error of the centred logits in nats", COLUMNS, lines)


def _line(cell: Cell, outcome: Outcome[ErrorBudget]) -> list[Value]:
    if outcome.record is None:
        return [*astuple(cell), f"failed: {outcome.reason}", *[None] * (len(FIGURES) - 1)]
    return [*astuple(cell), *(getattr(outcome.record, name) for name in FIGURES)]
