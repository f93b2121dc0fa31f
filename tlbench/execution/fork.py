"""Run a function in a process of its own, forked from this one, in which torch has not computed anything yet."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

from tlbench.exceptions import CellFailed, TlbenchError

P = ParamSpec("P")
T = TypeVar("T")


def apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function of some module returns, or raises, in a process that ends with it.

    Raises:
        TlbenchError: as the function does.
        CellFailed: if it raises anything else, or the process dies.
    """
    try:
        with ProcessPoolExecutor(1, get_context("fork")) as processes:
            return processes.submit(function, *args, **kwargs).result()
    except TlbenchError:
        raise
    except BrokenProcessPool:
        raise CellFailed("a process that was timed died: it may have run out of memory") from None
    except Exception as error:
        raise CellFailed(f"what was timed raised {type(error).__name__}: {error}") from None
