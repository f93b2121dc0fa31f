"""Records as JSON and back, by msgspec: frozen dataclasses, enumerations, tuples and numbers. Floats keep every bit."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def plain(value: Any) -> Any:
    """A record as ``json.dumps`` takes it."""
    return msgspec.to_builtins(value)


def restored(kind: type[T], data: Any) -> T:
    """The record that :func:`plain` was given.

    Raises:
        ValueError: if the data is of no such record.
    """
    return msgspec.convert(data, kind, str_keys=True)
