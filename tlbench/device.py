"""On which device models run: ``$TLBENCH_DEVICE``, by default ``cpu``. Exact answers are always computed on the CPU."""

from __future__ import annotations

import os

from tlbench import arithmetic
from tlbench.exceptions import BadInput, CellFailed

DEVICE_VARIABLE = "TLBENCH_DEVICE"


def current() -> str:
    """The device's name as torch spells it. It is not touched: a process that touched CUDA cannot fork others that use it.

    Raises:
        BadInput: if the shared arithmetic is wanted too, which only processors compute.
    """
    name = os.environ.get(DEVICE_VARIABLE) or "cpu"
    if name != "cpu" and arithmetic.wanted() is arithmetic.Lane.SHARED:
        raise BadInput(
            f"{DEVICE_VARIABLE}={name} and the shared arithmetic exclude each other, since no GPU computes it: set "
            f"{arithmetic.LANE_VARIABLE}={arithmetic.Lane.NATIVE}, whose figures stay with this machine"
        )
    return name


def require(name: str) -> None:
    """Make sure that a device can be used, by using it.

    Raises:
        BadInput: if torch does not know it, or this machine has none.
        CellFailed: if there is one and it fails.
    """
    if name == "cpu":
        return
    import torch

    kind = getattr(torch, name.split(":", maxsplit=1)[0], None)
    is_there = kind is not None and hasattr(kind, "is_available") and kind.is_available()
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        if is_there:
            raise CellFailed(f"the device {name!r} is there and fails: {reason}") from None
        raise BadInput(f"the device {name!r} cannot be used ({reason}): choose cpu, or a machine that has it") from None


def synchronized_clock() -> float:
    """Seconds, once the device in use has done all that it was given."""
    import time

    if (name := current()) != "cpu":
        import torch

        getattr(torch, name.split(":")[0]).synchronize()
    return time.perf_counter()
