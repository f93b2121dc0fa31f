"""Records to JSON and back, by msgspec: frozen dataclasses, enums, tuples and numbers. Floats keep every bit."""

from __future__ import annotations

from threading import Lock
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_CONVERTING = Lock()
"""msgspec 0.22 crashes if two threads are the first to convert a kind of record. A process with threads here never forks."""


def plain(value: Any) -> Any:
    """Convert a record to values that ``json.dumps`` accepts."""
    return msgspec.to_builtins(value)


def restored(kind: type[T], data: Any) -> T:
    """Rebuild the record that :func:`plain` converted. Raises ValueError if the data does not fit this kind of record."""
    with _CONVERTING:
        return msgspec.convert(data, kind, str_keys=True)
