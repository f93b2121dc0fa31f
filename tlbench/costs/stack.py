"""Keeps the end of a Python stack chunk out of timed code.

CPython 3.11 and later keep frames in chunks of 16 KiB. When a chunk is full, the next call maps another, and its return
unmaps it (``push_chunk`` and ``_PyThreadState_PopFrame`` in ``Python/pystate.c``). Which of a model's calls hit this
depends on how deep its caller is. If they are frequent ones, the model takes up to three quarters longer (docs/costs.md).
A single frame too large for a chunk gets a larger one mapped, and everything called from it fits in the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TypeVar

T = TypeVar("T")

SLOTS = 100_000
"""Slots of 8 bytes. The chunk is the next power of two, 1 MiB, which leaves about 240 KiB for over a thousand calls."""


def _call(function: Callable[[], T]) -> T:
    return function()


_with_room = FunctionType(_call.__code__.replace(co_stacksize=SLOTS), globals())


def with_room(function: Callable[[], T]) -> T:
    """Call a function where no stack chunk ends, however deep the caller is, and return its result."""
    result: T = _with_room(function)
    return result
