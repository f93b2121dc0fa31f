"""How the measurement of a cell ended: with a record or with a reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from tlbench.exceptions import CellFailed, NotApplicable, NotMeasured

R = TypeVar("R")


class Kind(StrEnum):
    """How a cell ended."""

    MEASURED = "measured"
    NOT_APPLICABLE = "n/a"  # this TransformerLens has no such wrapper, option or architecture
    NOT_MEASURED = "not measured"  # its model is not on this machine, or it needs a golden that is not available here
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """A record, or the reason there is none."""

    kind: Kind
    record: R | None = None
    reason: str = ""

    def require(self) -> R:
        """The record. If there is none, raises NotApplicable, NotMeasured or CellFailed, after ``kind``."""
        if self.record is not None:
            return self.record
        errors = {Kind.NOT_APPLICABLE: NotApplicable, Kind.NOT_MEASURED: NotMeasured}
        raise errors.get(self.kind, CellFailed)(self.reason)
