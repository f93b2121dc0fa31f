"""How the measurement of a cell ended: with a record, or with a reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from tlbench.exceptions import CellFailed, NotApplicable, NotMeasured

R = TypeVar("R")


class Kind(StrEnum):
    """How a cell ended."""

    MEASURED = "measured"
    NOT_APPLICABLE = "n/a"
    """This TransformerLens has no such wrapper, option or architecture."""
    NOT_MEASURED = "not measured"
    """It could exist: its model is not on this machine, or it needs a golden that cannot be had here."""
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """A record, or the reason why there is none."""

    kind: Kind
    record: R | None = None
    reason: str = ""

    def require(self) -> R:
        """The record.

        Raises:
            NotApplicable: if the cell does not exist in this TransformerLens.
            NotMeasured: if it does and was not measured here.
            CellFailed: if it was and raised.
        """
        if self.record is not None:
            return self.record
        errors = {Kind.NOT_APPLICABLE: NotApplicable, Kind.NOT_MEASURED: NotMeasured}
        raise errors.get(self.kind, CellFailed)(self.reason)
