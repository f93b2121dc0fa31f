"""The device that models run on: ``$TLBENCH_DEVICE``, by default ``cpu``. Goldens are always computed on the CPU."""

from __future__ import annotations

import os
import time
from typing import Any, Protocol

from tlbench import arithmetic
from tlbench.exceptions import BadInput, CellFailed, NotApplicable

DEVICE_VARIABLE = "TLBENCH_DEVICE"
ROOM = 1.25
"""What a model takes on a GPU, in sizes of its parameters: a quarter is for activations and temporaries."""


def current() -> str:
    """The device's name as torch spells it. Raises BadInput for any but ``cpu`` in the shared arithmetic.

    This does not initialise the device, because forks cannot use CUDA once their parent has initialised it.
    """
    name = os.environ.get(DEVICE_VARIABLE) or "cpu"
    if name != "cpu" and arithmetic.wanted() is arithmetic.Lane.SHARED:
        raise BadInput(
            f"cannot use {DEVICE_VARIABLE}={name} with the shared arithmetic, which only a CPU computes: set "
            f"{arithmetic.LANE_VARIABLE}={arithmetic.Lane.NATIVE}, whose figures are comparable only on this machine"
        )
    return name


def require(name: str) -> None:
    """Check that a device works, by using it. Raises NotApplicable if there is none, and CellFailed if it fails."""
    if name == "cpu":
        return
    import torch

    backend: Any = getattr(torch, name.split(":", maxsplit=1)[0], None)
    is_there = hasattr(backend, "is_available") and backend.is_available()
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        if is_there:
            raise CellFailed(f"the device {name!r} exists but fails: {reason}") from None
        raise NotApplicable(f"cannot use the device {name!r} ({reason}): use cpu, or a machine that has it") from None


class Counted(Protocol):
    """A checkpoint, as far as its size matters."""

    @property
    def parameters(self) -> int:
        """How many there are."""


def placement(checkpoint: Counted, dtype: str) -> dict[str, str]:
    """Where a loader puts a model: on the current device, as ``{"device": NAME}``, or if too little of its memory is free,
    over all GPUs, as ``{"device_map": "auto"}``.

    A numbered GPU, such as ``cuda:1``, is never left. This initialises the device.
    """
    name = current()
    if name == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info()
        if torch.cuda.device_count() > 1 and ROOM * checkpoint.parameters * getattr(torch, dtype).itemsize > free:
            return {"device_map": "auto"}
    return {"device": name}


def synchronized_clock() -> float:
    """The time in seconds, after waiting for the current device to finish its work."""
    if (name := current()) != "cpu":
        import torch

        getattr(torch, name.split(":")[0]).synchronize()
    return time.perf_counter()
