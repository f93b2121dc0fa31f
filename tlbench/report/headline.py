"""What a commit's stored results say, in one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tlbench.grid import Cell, Operation, RuntimeCell
from tlbench.metrics.verdict import Verdict
from tlbench.report.slowdowns import CostRow
from tlbench.report.stored import Figure, TruthRow

SEPARATOR = " · "
ABSENT = (Verdict.NOT_APPLICABLE, Verdict.NOT_MEASURED)
MODELS = 3
"""The most models that a line names."""


def of_errors(rows: Sequence[TruthRow]) -> str:
    """How many cells have which verdict, what is wrong and by how much, and the largest ratio R of what is right."""
    measured = [row for row in rows if row.verdict not in ABSENT]
    if not measured:
        return "nothing was measured"
    parts = [f"{len(measured)} measured"]
    for verdict in (Verdict.BROKEN, Verdict.WORSE, Verdict.FAILED, Verdict.UNJUDGED):
        alike = [row for row in measured if row.verdict is verdict]
        if alike:
            parts.append(f"{len(alike)} {verdict} ({_models(alike)}{_distance(alike)})")
    right = [row for row in measured if row.verdict.passes]
    if len(right) == len(measured):
        parts.append("none worse than benign")
    with_ratio = [row for row in right if Figure.RATIO in row.figures]
    if with_ratio:
        worst = max(with_ratio, key=lambda row: row.figures[Figure.RATIO])
        largest = f"largest R{' of the right ones' if len(right) < len(measured) else ''}"
        parts.append(f"{largest} {worst.figures[Figure.RATIO]:.3g} ({_words(worst.cell)})")
    return SEPARATOR.join(parts)


def of_costs(rows: Iterable[CostRow]) -> str:
    """How many times HuggingFace's time the forward pass takes, by model."""
    forward = {
        (row.cell.model, row.cell.option): row.ratio
        for row in rows
        if isinstance(row.cell, RuntimeCell) and row.cell.operation is Operation.FORWARD
    }
    if not forward:
        return "no cost was measured"
    return "forward pass: " + ", ".join(f"{ratio:.2f} x HuggingFace's ({model})" for (model, _), ratio in forward.items())


def _models(rows: Iterable[TruthRow]) -> str:
    names = list(dict.fromkeys(row.cell.model for row in rows))
    return ", ".join(names[:MODELS]) + (f" and {len(names) - MODELS} more" if len(names) > MODELS else "")


def _distance(rows: Iterable[TruthRow]) -> str:
    distances = [row.figures[Figure.TOTAL_RMS] for row in rows if Figure.TOTAL_RMS in row.figures]
    return f", off {max(distances):.2g} nats" if distances else ""


def _words(cell: Cell) -> str:
    return f"{cell.model}, {cell.dtype}, {cell.option}"
