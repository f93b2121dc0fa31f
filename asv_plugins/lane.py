"""Choose the arithmetic by asv's machine name.

Figures in the shared arithmetic (:mod:`tlbench.arithmetic`) belong to no machine. They are stored under one name,
``shared-x86-64``, which any machine may extend and which is asv's default here. For private results, use
``shared-x86-64-WORD`` with a word of your own. Any other name selects the machine's native arithmetic, and only such
machines measure times. So results of two arithmetics are never in the same folder. Before a run in the shared arithmetic,
the probe verifies that this machine computes it.

asv has no hook for this, so this module wraps the one function that loads a machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from asv.machine import Machine
from asv.util import UserError

from tlbench.arithmetic import LANE_VARIABLE, SHARED_MACHINE, Lane, environment, is_shared
from tlbench.paths import MACHINE_VARIABLE

DESCRIPTION = {
    "os": "Linux",
    "arch": "x86_64",
    "cpu": "any with AVX2, in tlbench's shared arithmetic",
    "num_cpu": "any",
    "ram": "any",
}

_load = Machine.load


def lane_of(machine: str | None, requested: str) -> Lane:
    """The arithmetic of a run.

    Args:
        machine: the machine name passed to asv, if any.
        requested: the value of ``$TLBENCH_ARITHMETIC``, or "".

    Raises:
        UserError: if the two contradict each other.
    """
    by_name = None if machine is None else Lane.SHARED if is_shared(machine) else Lane.NATIVE
    lane = by_name or (Lane.NATIVE if requested == Lane.NATIVE else Lane.SHARED)
    if requested and requested != lane:
        raise UserError(
            f"{LANE_VARIABLE}={requested} contradicts machine {machine!r}, whose results are in the {lane} arithmetic: "
            f"leave one of the two out (machines with the shared arithmetic are {SHARED_MACHINE} and {SHARED_MACHINE}-WORD)"
        )
    return lane


def prove() -> None:
    """Check that this machine computes the shared arithmetic, in a subprocess because torch reads its settings at import.

    Raises:
        UserError: if it does not, with the reason.
    """
    command = [sys.executable, "-m", "tlbench.cli", "arithmetic"]
    done = subprocess.run(command, env=environment(Lane.SHARED, os.environ), capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["the process that computes the probe failed without a message"]
        raise UserError(last[0].removeprefix("tlbench: "))


def load(*args: Any, machine_name: str | None = None, **kwargs: Any) -> Machine:
    """Load a machine like asv's function does. The shared arithmetic's machines need no entry in ``~/.asv-machine.json``."""
    lane = lane_of(machine_name, os.environ.get(LANE_VARIABLE, ""))
    # Processes that asv starts inherit this: the benchmarks, and the servers that measure for them.
    inherited = environment(lane, os.environ)
    os.environ.clear()
    os.environ.update(inherited)
    if lane is Lane.NATIVE:
        machine = _load(*args, machine_name=machine_name, **kwargs)
    else:
        prove()
        machine = Machine()
        machine.__dict__.update(DESCRIPTION | {"machine": machine_name or SHARED_MACHINE})
    os.environ[MACHINE_VARIABLE] = machine.machine
    return machine


Machine.load = load
