"""The name of asv's machine says in which arithmetic errors are measured.

Figures of the shared arithmetic (:mod:`tlbench.arithmetic`) belong to no machine, so they are stored under one name,
``shared-x86-64``, that any machine may extend. asv takes it unless it is told another. What is not for everyone goes under
``shared-x86-64-`` and a word of one's own. Under any other name the arithmetic is the machine's own, and times are measured
there too. So results of two arithmetics never lie in one folder. Before a run in the shared one, the probe proves that this
machine computes it.

asv offers no hook for that, so its one function that finds a machine is wrapped.
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


def lane_of(machine: str | None, asked: str) -> Lane:
    """The arithmetic of a run.

    Args:
        machine: the name that asv was given, if any.
        asked: what ``$TLBENCH_ARITHMETIC`` says, or "".

    Raises:
        UserError: if the two contradict each other.
    """
    by_name = None if machine is None else Lane.SHARED if is_shared(machine) else Lane.NATIVE
    lane = by_name or (Lane.NATIVE if asked == Lane.NATIVE else Lane.SHARED)
    if asked and asked != lane:
        raise UserError(
            f"{LANE_VARIABLE}={asked} asks for that arithmetic, and results of machine {machine!r} are in the {lane} one: "
            f"leave one of the two out (machines of the shared one are {SHARED_MACHINE} and {SHARED_MACHINE}-WORD)"
        )
    return lane


def prove() -> None:
    """Make sure that this machine computes the shared arithmetic, in a process of its own: torch reads it at its start.

    Raises:
        UserError: if it does not, and why.
    """
    command = [sys.executable, "-m", "tlbench.cli", "arithmetic"]
    done = subprocess.run(command, env=environment(Lane.SHARED, os.environ), capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["the process that computes the probe ended without a word"]
        raise UserError(last[0].removeprefix("tlbench: "))


def load(*args: Any, machine_name: str | None = None, **kwargs: Any) -> Machine:
    """As asv's, with the shared arithmetic's machine known without being asked for."""
    lane = lane_of(machine_name, os.environ.get(LANE_VARIABLE, ""))
    # What asv starts inherits it: the benchmarks, and the servers that measure for them.
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
