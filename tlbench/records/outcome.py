"""How the measurement of a cell ended: with a record or with a reason."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from tlbench.exceptions import CellFailed, NotApplicable, NotMeasured
from tlbench.records.serial import restored

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


def left_by_this_code(kind: type[Outcome[R]], data: Any) -> Outcome[R] | None:
    """Restore an outcome that a run left in a folder.

    None if its record has other fields than ours: tlbench was changed since. The run that left it has kept its ending and
    its profile already.
    """
    with suppress(ValueError):
        return restored(kind, data)
    return None
