"""What is kept of one cell: a frozen value that turns into JSON and back without loss."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tlbench.cells import Cell, Space
from tlbench.errors import ErrorStatistics, Shift


@dataclass(frozen=True)
class Measurement:
    """Everything measured of one cell, by one load and one forward of each prompt set.

    Attributes:
        cell: which cell it is.
        origin: TransformerLens issue 496's statistics, on its own prompts, in the model's dtype.
        probability: statistics of the probabilities' error on natural text.
        logit: statistics of the centred logits' error on natural text.
        shift: what centring removed.
        changed_weights: weight tensors that processing changed; 0 under any option but ``unprocessed`` is a no-op.
    """

    cell: Cell
    origin: ErrorStatistics
    probability: ErrorStatistics
    logit: ErrorStatistics
    shift: Shift
    changed_weights: int

    def space(self, space: Space) -> ErrorStatistics:
        """The statistics of one space."""
        statistics: ErrorStatistics = getattr(self, space.value)
        return statistics

    def to_json(self) -> dict[str, Any]:
        """A JSON object; floats keep every bit."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Measurement:
        """The measurement that :meth:`to_json` wrote."""
        return cls(
            cell=Cell(**data["cell"]),
            origin=ErrorStatistics(**data["origin"]),
            probability=ErrorStatistics(**data["probability"]),
            logit=ErrorStatistics(**data["logit"]),
            shift=Shift(**data["shift"]),
            changed_weights=data["changed_weights"],
        )
