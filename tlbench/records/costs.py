"""Records of cost measurements: frozen values. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tlbench.grid import RuntimeCell
from tlbench.metrics.growth import Growth, fit
from tlbench.metrics.paired import Paired

TOP_POINTS = 4  # exponents are fitted to this many of the largest sizes: small ones all cost one call's overhead


@dataclass(frozen=True)
class Slowdown:
    """TransformerLens's time over HuggingFace's: in rounds within a process, repeated over several interpreters.

    Attributes:
        cell: None for the import of TransformerLens.
        eager: the ratio to HuggingFace with ``eager`` attention, which is what TransformerLens computes.
        default: the ratio to HuggingFace with its default attention; None if attention plays no part.
        seconds: TransformerLens's median time; HuggingFace's are ``eager_seconds`` and ``default_seconds``.
        rounds: number of rounds in each process.
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
    """Peak memory of one run beyond its model, in bytes, as counted by torch's allocator.

    Attributes:
        peak_bytes: TransformerLens's peak.
        eager_bytes: HuggingFace's with ``eager`` attention; ``default_bytes``, with its default attention.
        kept_bytes: what TransformerLens still holds once a run's result is dropped, averaged. Anything but 0 is a leak.
    """

    cell: RuntimeCell
    peak_bytes: int
    eager_bytes: int
    default_bytes: int
    kept_bytes: float

    @property
    def ratio(self) -> float:
        """TransformerLens's peak over HuggingFace's with ``eager`` attention."""
        return self.peak_bytes / self.eager_bytes


@dataclass(frozen=True)
class Cost:
    """Median time and peak memory beyond the model, at one size.

    ``reference_`` is HuggingFace with ``eager`` attention; None on an axis that only TransformerLens has.
    """

    seconds: float
    reference_seconds: float | None
    peak_bytes: int
    reference_bytes: int | None


@dataclass(frozen=True)
class Scaling:
    """How the cost of an operation grows with its size.

    Attributes:
        cell: its shape fixes the sizes that do not vary.
        length: cost by number of tokens, for one sequence.
        batch: cost by number of sequences of the cell's length.
        depth: cost by number of blocks (``stop_at_layer``), at the cell's shape.
        reasons: why an axis is empty, by axis.
    """

    cell: RuntimeCell
    length: Mapping[int, Cost]
    batch: Mapping[int, Cost]
    depth: Mapping[int, Cost]
    reasons: Mapping[str, str]

    def time(self, axis: str) -> Growth | None:
        """The exponent of TransformerLens's time over the largest sizes of an axis; None with fewer than three sizes."""
        costs = self._top(axis)
        return fit(list(costs), [cost.seconds for cost in costs.values()])

    def memory(self, axis: str) -> Growth | None:
        """The same for its peak memory."""
        costs = self._top(axis)
        return fit(list(costs), [float(cost.peak_bytes) for cost in costs.values()])

    def _top(self, axis: str) -> dict[int, Cost]:
        costs: Mapping[int, Cost] = getattr(self, axis)
        return dict(sorted(costs.items())[-TOP_POINTS:])
