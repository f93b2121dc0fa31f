"""What is kept of a measurement of costs: frozen values. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tlbench.grid import RuntimeCell
from tlbench.metrics.growth import Growth, fit
from tlbench.metrics.paired import Paired

TOP_POINTS = 4
"""An exponent is of the largest sizes: small ones cost what a call costs, whatever their size."""


@dataclass(frozen=True)
class Slowdown:
    """TransformerLens's time over HuggingFace's, in rounds of one process and over processes of several interpreters.

    Attributes:
        cell: what was run; None of the import of TransformerLens.
        eager: the ratio to HuggingFace with ``eager`` attention, which is what TransformerLens computes.
        default: the ratio to HuggingFace with its default attention; None where attention plays no part.
        seconds: TransformerLens's median time.
        eager_seconds: HuggingFace's, with ``eager`` attention.
        default_seconds: and with its default.
        rounds: of each process, how many.
    """

    cell: RuntimeCell | None
    eager: Paired
    default: Paired | None
    seconds: float
    eager_seconds: float
    default_seconds: float | None
    rounds: tuple[int, ...]


@dataclass(frozen=True)
class Memory:
    """The most that one run holds beyond its model, as torch's allocator counts it. In bytes.

    Attributes:
        cell: what was run.
        peak_bytes: TransformerLens's.
        eager_bytes: HuggingFace's, with ``eager`` attention.
        default_bytes: and with its default.
        kept_bytes: what TransformerLens's run leaves behind though its result is dropped, on average of a few runs: a leak,
            if it is not 0.
    """

    cell: RuntimeCell
    peak_bytes: int
    eager_bytes: int
    default_bytes: int
    kept_bytes: float

    @property
    def ratio(self) -> float:
        """TransformerLens's over HuggingFace's, with ``eager`` attention."""
        return self.peak_bytes / self.eager_bytes


@dataclass(frozen=True)
class Cost:
    """Of one size: TransformerLens's and HuggingFace's (``eager``) median time, and the most memory beyond the model.

    Attributes:
        seconds: TransformerLens's time.
        reference_seconds: HuggingFace's; None along an axis that only TransformerLens has.
        peak_bytes: TransformerLens's memory.
        reference_bytes: HuggingFace's.
    """

    seconds: float
    reference_seconds: float | None
    peak_bytes: int
    reference_bytes: int | None


@dataclass(frozen=True)
class Scaling:
    """How the cost of an operation grows.

    Attributes:
        cell: what was run; its shape is where the other axis stands still.
        length: by tokens, with one sequence.
        batch: by sequences, of the cell's length.
        depth: by blocks (``stop_at_layer``), of the cell's shape.
        reasons: why an axis is empty, by its name.
    """

    cell: RuntimeCell
    length: Mapping[int, Cost]
    batch: Mapping[int, Cost]
    depth: Mapping[int, Cost]
    reasons: Mapping[str, str]

    def time(self, axis: str) -> Growth | None:
        """The exponent of TransformerLens's time over the largest sizes of an axis; None with fewer than three."""
        costs = self._top(axis)
        return fit(list(costs), [cost.seconds for cost in costs.values()])

    def memory(self, axis: str) -> Growth | None:
        """The exponent of its memory."""
        costs = self._top(axis)
        return fit(list(costs), [float(cost.peak_bytes) for cost in costs.values()])

    def _top(self, axis: str) -> dict[int, Cost]:
        costs: Mapping[int, Cost] = getattr(self, axis)
        return dict(sorted(costs.items())[-TOP_POINTS:])
