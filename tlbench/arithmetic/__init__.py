"""The arithmetic that figures are computed in: one that all machines share, or this machine's own.

torch picks its kernels by processor, so the same forward pass gives different bits on another machine. Three environment
variables make every x86-64 processor with AVX2 compute the same bits, except in the square root: MKL's is not correctly
rounded and differs by processor, so tlbench replaces it. A hash of torch's results, the probe, then verifies that this
process computes the shared arithmetic.

Errors are measured in the ``shared`` lane unless ``$TLBENCH_ARITHMETIC`` is ``native``. Times are always native.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from importlib.metadata import version

from tlbench.arithmetic.processor import processor_name
from tlbench.exceptions import BadInput, CellFailed

LANE_VARIABLE = "TLBENCH_ARITHMETIC"
SHARED_MACHINE = "shared-x86-64"  # asv's machine name for all figures of the shared lane, whichever machine computes them


class Lane(StrEnum):
    """Which arithmetic computes the figures."""

    SHARED = "shared"  # the same bits on every x86-64 processor with AVX2
    NATIVE = "native"  # whatever torch picks for this processor: figures are comparable only on the same machine


SETTINGS: Mapping[str, str] = {
    # MKL picks its matrix-product kernels by vendor and instruction set. This is its one code path for all processors.
    "MKL_CBWR": "COMPATIBLE",
    # torch has its own kernels for three instruction sets and picks one at the first call. AVX2 is the widest in common.
    "ATEN_CPU_CAPABILITY": "avx2",
    # oneDNN generates 16-bit matrix products for AVX-512 or AMX if it can, and those sum in another order.
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}
"""Environment variables that a process of the shared lane must have before it imports torch."""

SHARED_PROBES: Mapping[str, str] = {
    "2.13.0": "98a101b1c23ed2f6c5baba211ca1aa4fc911df6637191472653623b0dc16c2e6",
}
"""The shared lane's probe for each torch release. Pin a new one by hand, once ``python -m tools.processors`` has shown that
it is the same on every processor."""


class WrongArithmetic(CellFailed):
    """This process does not compute in the requested lane."""


@dataclass(frozen=True)
class Arithmetic:
    """The arithmetic of this process: its lane, and the hash from :func:`tlbench.arithmetic.probing.probe`."""

    lane: Lane
    probe: str

    @property
    def name(self) -> str:
        """``shared``, or ``native-`` and the start of the probe. Machines with the same name compute the same bits."""
        return self.lane.value if self.lane is Lane.SHARED else f"{self.lane}-{self.probe[:12]}"


@dataclass(frozen=True)
class Found:
    """What a process computes with.

    Attributes:
        has_avx2: whether the processor has AVX2 and FMA, even if torch does not use them.
        capability: the instruction set of torch's own kernels.
        torch: the torch release, without the local version part.
    """

    machine: str
    has_avx2: bool
    capability: str
    torch: str
    environment: Mapping[str, str]


def is_shared(machine: str) -> bool:
    """Whether asv's machine of this name holds results of the shared lane."""
    return machine == SHARED_MACHINE or machine.startswith(f"{SHARED_MACHINE}-")


def wanted() -> Lane:
    """The lane requested by ``$TLBENCH_ARITHMETIC``, by default shared. Raises BadInput if that names no lane."""
    name = os.environ.get(LANE_VARIABLE) or Lane.SHARED.value
    try:
        return Lane(name)
    except ValueError:
        raise BadInput(f"invalid {LANE_VARIABLE}={name!r}: choose {' or '.join(Lane)}") from None


def environment(lane: Lane, base: Mapping[str, str]) -> dict[str, str]:
    """A copy of an environment for starting a process of this lane, with the lane's settings added or removed."""
    settings = SETTINGS if lane is Lane.SHARED else {}
    others = {name: value for name, value in base.items() if name not in SETTINGS}
    return {**others, LANE_VARIABLE: lane.value, **settings}


def prepare() -> None:
    """Set the shared lane's variables, if it is requested and torch is not imported yet. :func:`establish` verifies it."""
    if "torch" not in sys.modules and os.environ.get(LANE_VARIABLE, Lane.SHARED) == Lane.SHARED:
        os.environ.update(SETTINGS)


@lru_cache(maxsize=1)
def establish() -> Arithmetic:
    """Put this process into the requested lane and verify it. Call this before measuring anything.

    Raises:
        BadInput: if ``$TLBENCH_ARITHMETIC`` does not name a lane.
        WrongArithmetic: if the shared lane is requested and this process cannot compute in it.
    """
    from tlbench.arithmetic.probing import probe
    from tlbench.arithmetic.roots import install_square_root

    if wanted() is Lane.NATIVE:
        return Arithmetic(Lane.NATIVE, probe())
    setup = find()
    require_shared(setup)
    install_square_root()
    require_same_bits(setup, probe())
    return Arithmetic(Lane.SHARED, probe())


def key() -> dict[str, str]:
    """The lane and its probe: the arithmetic's part in the key of everything stored. Raises what :func:`establish` raises.

    In the shared lane this is the pinned probe, so a process that only reads need not compute it. A process that writes has
    already verified it with :func:`establish`.
    """
    if wanted() is Lane.NATIVE:
        return {"lane": Lane.NATIVE.value, "probe": establish().probe}
    release = version("torch").split("+")[0]
    if release not in SHARED_PROBES:
        raise _no_probe(release)
    return {"lane": Lane.SHARED.value, "probe": SHARED_PROBES[release]}


def find() -> Found:
    """What this process computes with. Imports torch."""
    import torch

    processor = torch.cpu.get_capabilities()
    return Found(
        machine=platform.machine(),
        has_avx2=bool(processor.get("avx2") and processor.get("fma3")),
        capability=torch.backends.cpu.get_cpu_capability(),
        torch=torch.__version__.split("+")[0],
        environment=dict(os.environ),
    )


def require_shared(setup: Found) -> None:
    """Raise WrongArithmetic if the processor, the settings or the torch release rule out the shared lane."""
    if setup.machine not in ("x86_64", "AMD64"):
        raise _refusal(f"it needs an x86-64 processor and this one is {setup.machine}")
    if not setup.has_avx2:
        raise _refusal(f"it needs a processor with AVX2 and FMA and {processor_name()} lacks them")
    missing = " ".join(f"{name}={value}" for name, value in SETTINGS.items() if setup.environment.get(name) != value)
    if missing:
        raise _refusal(f"this process was started without {missing}", "set these variables before starting it")
    if setup.capability != "AVX2":
        reason = f"torch uses {setup.capability}, because it was imported before the variables were set"
        raise _refusal(reason, f"set {', '.join(SETTINGS)} before anything imports torch")
    if setup.torch not in SHARED_PROBES:
        raise _no_probe(setup.torch)


def require_same_bits(setup: Found, probed: str) -> None:
    """Raise WrongArithmetic unless a probe equals the shared lane's pinned one."""
    if probed != (pinned := SHARED_PROBES[setup.torch]):
        difference = f"probe {probed[:12]}, expected {pinned[:12]}"
        where = f"on {processor_name()} with {setup.capability}"
        raise _refusal(f"torch {setup.torch} computes different bits {where} ({difference})")


def _no_probe(release: str) -> WrongArithmetic:
    return _refusal(
        f"torch {release} has no pinned probe; those with one are {', '.join(SHARED_PROBES)}",
        "install one of those, or pin this one's probe in tlbench/arithmetic/__init__.py",
    )


def _refusal(reason: str, advice: str = "") -> WrongArithmetic:
    native = f"measure with {LANE_VARIABLE}={Lane.NATIVE}, whose figures are comparable only on this machine"
    advice = f"{advice}, or {native}" if advice else native
    return WrongArithmetic(f"cannot compute in the shared arithmetic ({LANE_VARIABLE}={Lane.SHARED}): {reason}; {advice}")
