"""One arithmetic for all machines, or this machine's own.

torch chooses its kernels by processor, so the same forward pass has other bits elsewhere. Three environment variables make
every x86-64 processor with AVX2 compute alike, except for the square root: MKL's is not correctly rounded and differs by
processor, and no variable changes that, so torch's is replaced here. A hash of what torch then computes proves the result.

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
SHARED_MACHINE = "shared-x86-64"
"""The name of asv's machine under which figures of the shared lane are stored, whichever machine computes them."""


class Lane(StrEnum):
    """Whose arithmetic computes the figures."""

    SHARED = "shared"
    """The same bits on every x86-64 processor with AVX2."""
    NATIVE = "native"
    """Whatever torch chooses for this processor: the figures stay with this machine."""


SETTINGS: Mapping[str, str] = {
    # MKL's matrix products, else chosen by vendor and instruction set: its one code path that every processor has.
    "MKL_CBWR": "COMPATIBLE",
    # torch's own kernels, else compiled three times over and chosen at the first call. AVX2 is the widest in common.
    "ATEN_CPU_CAPABILITY": "avx2",
    # oneDNN's 16-bit products, else generated for AVX-512 or AMX, which sum in another order.
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}
"""What a process of the shared lane has in its environment before torch starts."""

SHARED_PROBES: Mapping[str, str] = {
    "2.13.0": "98a101b1c23ed2f6c5baba211ca1aa4fc911df6637191472653623b0dc16c2e6",
}
"""The shared lane's probe for each release of torch. Pin a new release by hand once ``python -m tools.processors`` has shown
that its probe is the same on every processor."""


class WrongArithmetic(CellFailed):
    """The process does not compute in the lane that was asked for."""


@dataclass(frozen=True)
class Arithmetic:
    """The arithmetic of this process.

    Attributes:
        lane: shared or native.
        probe: what :func:`tlbench.arithmetic.probing.probe` found.
    """

    lane: Lane
    probe: str

    @property
    def name(self) -> str:
        """``shared``, or ``native-`` and the start of the probe: two machines of one name compute the same bits."""
        return self.lane.value if self.lane is Lane.SHARED else f"{self.lane}-{self.probe[:12]}"


@dataclass(frozen=True)
class Found:
    """What a process computes with.

    Attributes:
        machine: the architecture, as :func:`platform.machine` names it.
        has_avx2: whether the processor has AVX2 and FMA, whatever torch uses of it.
        capability: the instruction set of torch's own kernels.
        torch: its release, without the local part.
        environment: the environment variables.
    """

    machine: str
    has_avx2: bool
    capability: str
    torch: str
    environment: Mapping[str, str]


def is_shared(machine: str) -> bool:
    """Whether results under a name of asv's machines are of the shared lane."""
    return machine == SHARED_MACHINE or machine.startswith(f"{SHARED_MACHINE}-")


def wanted() -> Lane:
    """The lane that ``$TLBENCH_ARITHMETIC`` asks for, by default shared.

    Raises:
        BadInput: if it names no lane.
    """
    name = os.environ.get(LANE_VARIABLE) or Lane.SHARED.value
    try:
        return Lane(name)
    except ValueError:
        raise BadInput(f"invalid {LANE_VARIABLE}={name!r}: choose {' or '.join(Lane)}") from None


def variables(lane: Lane) -> dict[str, str]:
    """The environment variables that a process of this lane must be started with."""
    settings = SETTINGS if lane is Lane.SHARED else {}
    return {LANE_VARIABLE: lane.value, **settings}


def environment(lane: Lane, base: Mapping[str, str]) -> dict[str, str]:
    """A copy of an environment in which a process of this lane can be started: the settings added, or taken out."""
    return {name: value for name, value in base.items() if name not in SETTINGS} | variables(lane)


def prepare() -> None:
    """Set the variables of the shared lane in this process, if it is wanted and torch has not read them yet.

    Whether that was in time is for :func:`establish` to tell.
    """
    if "torch" not in sys.modules and os.environ.get(LANE_VARIABLE, Lane.SHARED) == Lane.SHARED:
        os.environ.update(SETTINGS)


@lru_cache(maxsize=1)
def establish() -> Arithmetic:
    """Bring this process into the wanted lane and prove it. Call it before anything is measured.

    Raises:
        BadInput: if ``$TLBENCH_ARITHMETIC`` names no lane.
        WrongArithmetic: if the shared lane is wanted and this process cannot compute in it.
    """
    from tlbench.arithmetic.probing import probe
    from tlbench.arithmetic.roots import install_square_root

    if wanted() is Lane.NATIVE:
        return Arithmetic(Lane.NATIVE, probe())
    found = find()
    require_shared(found)
    install_square_root()
    require_same_bits(found, probe())
    return Arithmetic(Lane.SHARED, probe())


def key() -> dict[str, str]:
    """What of the arithmetic stands in the key of everything that is kept: the lane and its probe.

    In the shared lane it is the pinned probe, so that a process that only reads need not compute; one that writes has
    established it.

    Raises:
        BadInput: if ``$TLBENCH_ARITHMETIC`` names no lane.
        WrongArithmetic: if the shared lane is wanted and no probe is pinned for this torch.
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


def require_shared(found: Found) -> None:
    """Make sure that a process can be of the shared lane, as far as can be told without computing.

    Raises:
        WrongArithmetic: if the processor, the settings or the release of torch rule it out.
    """
    if found.machine not in ("x86_64", "AMD64"):
        raise _refusal(f"it needs an x86-64 processor, and this one is {found.machine}")
    if not found.has_avx2:
        raise _refusal(f"it needs a processor with AVX2 and FMA, and {processor_name()} has not both")
    missing = " ".join(f"{name}={value}" for name, value in SETTINGS.items() if found.environment.get(name) != value)
    if missing:
        raise _refusal(f"this process was started without {missing}", "start it with these variables")
    if found.capability != "AVX2":
        raise _refusal(
            f"torch computes with {found.capability}: it was imported before the variables were set",
            f"set {', '.join(SETTINGS)} before anything imports torch",
        )
    if found.torch not in SHARED_PROBES:
        raise _no_probe(found.torch)


def require_same_bits(found: Found, probed: str) -> None:
    """Make sure that a probe is the pinned one of the shared lane.

    Raises:
        WrongArithmetic: if it is not.
    """
    if probed != (pinned := SHARED_PROBES[found.torch]):
        raise _refusal(
            f"torch {found.torch} computes other bits on {processor_name()} with {found.capability}: the probe is "
            f"{probed[:12]} instead of {pinned[:12]}"
        )


def _no_probe(release: str) -> WrongArithmetic:
    return _refusal(
        f"no probe is pinned for torch {release}, only for {', '.join(SHARED_PROBES)}",
        "install one of these, or pin this one's in tlbench/arithmetic/__init__.py",
    )


def _refusal(reason: str, advice: str = "") -> WrongArithmetic:
    native = f"measure with {LANE_VARIABLE}={Lane.NATIVE}, whose figures stay with this machine"
    advice = f"{advice}, or {native}" if advice else native
    return WrongArithmetic(f"the shared arithmetic was asked for ({LANE_VARIABLE}={Lane.SHARED}), but {reason}: {advice}")
