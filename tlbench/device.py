"""On which device models run: ``$TLBENCH_DEVICE``, by default ``cpu``. Exact answers are always computed on the CPU."""

from __future__ import annotations

import os

from tlbench.exceptions import BadInput

DEVICE_VARIABLE = "TLBENCH_DEVICE"


def current() -> str:
    """The device's name as torch spells it.

    Raises:
        BadInput: if torch does not know it or it is not there.
    """
    name = os.environ.get(DEVICE_VARIABLE) or "cpu"
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
