"""Python's own stack, whose end may lie anywhere in what is timed.

CPython 3.11 and later keep frames in chunks of 16 KiB. Where a chunk is full, the next call maps another, and its return
unmaps it (``push_chunk`` and ``_PyThreadState_PopFrame`` in ``Python/pystate.c``). Which calls of a model those are depends
on how deep its caller is, and if they are ones that it makes often, it takes up to three quarters as long again
(docs/costs.md). One frame too large for a chunk has a larger one mapped, and all that is called from it fits in the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TypeVar

T = TypeVar("T")

SLOTS = 100_000
"""Of 8 bytes. The chunk is the next power of two, 1 MiB: some 240 KiB are left, for over a thousand calls."""


def _call(function: Callable[[], T]) -> T:
    return function()


_with_room = FunctionType(_call.__code__.replace(co_stacksize=SLOTS), globals())


def with_room(function: Callable[[], T]) -> T:
    """What a function returns, called where no chunk of the stack ends, however deep the caller is."""
    result: T = _with_room(function)
    return result
