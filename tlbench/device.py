"""On which device models run: ``$TLBENCH_DEVICE``, by default ``cpu``. Exact answers are always computed on the CPU."""

from __future__ import annotations

import os

from tlbench import arithmetic
from tlbench.exceptions import BadInput

DEVICE_VARIABLE = "TLBENCH_DEVICE"


def current() -> str:
    """The device's name as torch spells it.

    Raises:
        BadInput: if torch does not know it, it is not there, or the arithmetic that all machines share is asked for, which
            only processors compute.
    """
    name = os.environ.get(DEVICE_VARIABLE) or "cpu"
    if name != "cpu" and arithmetic.wanted() is arithmetic.Lane.SHARED:
        raise BadInput(
            f"{DEVICE_VARIABLE}={name} and the shared arithmetic exclude each other, since no GPU computes it: set "
            f"{arithmetic.LANE_VARIABLE}={arithmetic.Lane.NATIVE}, whose figures stay with this machine"
        )
    require(name)
    return name


def require(name: str) -> None:
    """Make sure that a device can be used.

    Raises:
        BadInput: if torch does not know it or it is not there.
    """
    if name == "cpu":
        return
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise BadInput(f"the device {name!r} cannot be used ({reason}): choose cpu, or a machine that has it") from None


def synchronized_clock() -> float:
    """Seconds, once the device in use has done all that it was given."""
    import time

    if (name := current()) != "cpu":
        import torch

        getattr(torch, name.split(":")[0]).synchronize()
    return time.perf_counter()
