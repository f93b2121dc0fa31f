"""Choose the arithmetic by asv's machine name.

Figures in the shared arithmetic (:mod:`tlbench.arithmetic`) belong to no machine. They are stored under ``shared-x86-64``,
which any machine may extend and which is asv's default here, or privately under ``shared-x86-64-WORD``. Any other name
selects the machine's native arithmetic, and only such machines measure times. So no folder mixes two arithmetics. Before a
run in the shared arithmetic, the probe verifies that this machine computes it.

asv has no hook for this, so this module wraps the function that loads a machine, and the one that compares two commits:
without ``--machine``, asv would refuse if there are results of several.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from asv.commands.compare import Compare
from asv.console import log
from asv.machine import Machine
from asv.util import UserError

from tlbench.arithmetic import LANE_VARIABLE, SHARED_MACHINE, Lane, environment, is_shared
from tlbench.arithmetic.processor import cpu_field
from tlbench.environments.sources import code_digest, libraries
from tlbench.exceptions import BadInput
from tlbench.files import canonical_json, write_json
from tlbench.paths import MACHINE_VARIABLE, cache_dir

CPU = "any with AVX2, in tlbench's shared arithmetic"
DESCRIPTION = {"os": "Linux", "arch": "x86_64", "cpu": CPU, "num_cpu": "any", "ram": "any"}

_load, _compare = Machine.load, Compare.run.__func__


def lane_of(machine: str | None, requested: str) -> Lane:
    """The arithmetic of a run, by machine name and ``$TLBENCH_ARITHMETIC``. Raises UserError if they contradict."""
    by_name = None if machine is None else Lane.SHARED if is_shared(machine) else Lane.NATIVE
    lane = by_name or (Lane.NATIVE if requested == Lane.NATIVE else Lane.SHARED)
    if requested and requested != lane:
        raise UserError(
            f"{LANE_VARIABLE}={requested} contradicts machine {machine!r}, whose results are in the {lane} arithmetic: "
            f"leave one of the two out (machines with the shared arithmetic are {SHARED_MACHINE} and {SHARED_MACHINE}-WORD)"
        )
    return lane


def prove() -> None:
    """Check that this machine computes the shared arithmetic. Raises UserError, with the reason, if it does not.

    A success is kept until the machine restarts or anything changes that the probe depends on. It only makes asv start
    faster: the processes that measure compute the probe themselves.
    """
    proof = proof_path()
    if proof.exists():
        return
    # In a subprocess, because torch reads its settings at import.
    command = [sys.executable, "-m", "tlbench.cli", "arithmetic"]
    done = subprocess.run(command, env=environment(Lane.SHARED, os.environ), capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["the process that computes the probe failed without a message"]
        raise UserError(last[0].removeprefix("tlbench: "))
    with suppress(BadInput):  # a cache that cannot be written
        write_json(proof, {"arithmetic": done.stdout.strip()})


def proof_path() -> Path:
    """Where a success is kept. The name hashes the processor, the boot, the code of the probe, torch and what it needs."""
    torch = find_spec("torch")
    files = sorted(Path(str(torch.origin)).parent.glob("lib/*.so*")) if torch else []
    boot = Path("/proc/sys/kernel/random/boot_id")
    state = {
        "processor": [cpu_field(name) for name in ("model name", "microcode", "flags")],
        "boot": boot.read_text() if boot.exists() else "",
        "code": code_digest("tlbench.arithmetic.probing"),
        "libraries": libraries("torch", "transformers"),
        "files": [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files],
    }
    return cache_dir() / "proofs" / f"{hashlib.sha256(canonical_json(state).encode()).hexdigest()[:16]}.json"


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


def run_compare(cls: Any, /, conf: Any, *args: Any, machine: str | None = None, **kwargs: Any) -> Any:
    """Compare like asv's function does, by default the figures in the shared arithmetic."""
    if machine is None and (Path(conf.results_dir) / SHARED_MACHINE / "machine.json").is_file():
        machine = SHARED_MACHINE
        log.info(f"Comparing the results of {machine}; name another one with --machine")
    return _compare(cls, conf, *args, machine=machine, **kwargs)


Machine.load = load
Compare.run = classmethod(run_compare)
