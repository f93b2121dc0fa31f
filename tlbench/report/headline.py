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
    tried = [row for row in rows if row.verdict not in ABSENT]
    if not tried:
        return "no verdict: --bench leaves out truth, or nothing is applicable"
    parts = [f"{sum(row.verdict is not Verdict.FAILED for row in tried)} measured"]
    for verdict in (Verdict.BROKEN, Verdict.WORSE, Verdict.FAILED, Verdict.UNJUDGED):
        alike = [row for row in tried if row.verdict is verdict]
        if alike:
            parts.append(f"{len(alike)} {verdict} ({_models(alike)}{_distance(alike)})")
    right = [row for row in tried if row.verdict.passes]
    if len(right) == len(tried):
        parts.append("none worse than benign")
    with_ratio = [row for row in right if Figure.RATIO in row.figures]
    if with_ratio:
        worst = max(with_ratio, key=lambda row: row.figures[Figure.RATIO])
        largest = f"largest R{' of the right ones' if len(right) < len(tried) else ''}"
        parts.append(f"{largest} {worst.figures[Figure.RATIO]:.3g} ({_words(worst.cell)})")
    return SEPARATOR.join(parts)


def of_costs(rows: Iterable[CostRow]) -> str:
    """How many times HuggingFace's time the forward pass takes, by model."""
    ratios: dict[str, list[float]] = {}
    for row in rows:
        if isinstance(row.cell, RuntimeCell) and row.cell.operation is Operation.FORWARD:
            ratios.setdefault(row.cell.model, []).append(row.ratio)
    if not ratios:
        return "no cost was measured"
    return "forward pass: " + ", ".join(f"{_span(found)} x HuggingFace's ({model})" for model, found in ratios.items())


def _span(ratios: Sequence[float]) -> str:
    low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return low if low == high else f"{low} to {high}"


def _models(rows: Iterable[TruthRow]) -> str:
    names = list(dict.fromkeys(row.cell.model for row in rows))
    return ", ".join(names[:MODELS]) + (f" and {len(names) - MODELS} more" if len(names) > MODELS else "")


def _distance(rows: Iterable[TruthRow]) -> str:
    distances = [row.figures[Figure.TOTAL_RMS] for row in rows if Figure.TOTAL_RMS in row.figures]
    return f", off {max(distances):.2g} nats" if distances else ""


def _words(cell: Cell) -> str:
    return f"{cell.model}, {cell.dtype}, {cell.option}"
