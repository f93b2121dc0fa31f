"""How many times longer does TransformerLens take than HuggingFace?"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tlbench.checkpoints import Checkpoint, named
from tlbench.costs.operations import prepare
from tlbench.costs.turns import Candidate, Rounds, take_turns
from tlbench.device import DEVICE_VARIABLE, require, synchronized_clock
from tlbench.exceptions import CellFailed
from tlbench.execution.client import Server, beside
from tlbench.grid import Import, Operation, RuntimeCell
from tlbench.metrics.paired import INTERPRETERS, PROCESSES, paired
from tlbench.questions.answers import PRELOAD
from tlbench.questions.loading import make_deterministic
from tlbench.records.costs import Slowdown
from tlbench.records.serial import plain, restored

BUDGET_S = 0.4
"""Total time for the rounds of one process, unless the minimum of five takes longer."""
NAMES = [f"timing-{number}" for number in range(1, INTERPRETERS + 1)]
"""The fork servers that timed processes come from."""
IMPORTS = ("import transformer_lens", "import torch, transformers.models.auto.modeling_auto, transformers.generation.utils")
"""TransformerLens's import, and the imports it is built on, which a HuggingFace user needs too."""


def measure_slowdown(cell: RuntimeCell) -> Slowdown:
    """Time a cell on both sides, in processes forked from several interpreters in turn.

    The interpreters are fork servers that live as long as the server this process was forked from, or else as this process.

    Raises:
        BadInput: if the model is not in the catalogue, or its checkpoint is missing or altered.
        CheckpointUnavailable: if it is a hub model that is not on this machine.
        NotApplicable: if this TransformerLens has no such wrapper, option, architecture or operation, the model's context
            is too short, or this machine lacks the device.
        CellFailed: if loading or running raised, or an interpreter cannot be started.
    """
    located(cell)  # raise before the interpreters start if the cell cannot be measured
    servers = [beside(name, preload=PRELOAD) for name in NAMES]
    with ThreadPoolExecutor() as starting:
        list(starting.map(Server.start, servers))
    interpreters: list[list[Rounds]] = [[] for _ in NAMES]
    for _ in range(PROCESSES):
        for server, processes in zip(servers, interpreters, strict=True):
            processes.append(server.call(time_rounds, plain(cell), before=hash_checkpoint))
    return _slowdown(cell, interpreters)


def time_rounds(fields: dict[str, str]) -> Rounds:
    """Time a cell in this process, which must not have measured anything else. Raises as :func:`measure_slowdown` does."""
    cell = restored(RuntimeCell, fields)
    checkpoint = located(cell)
    settle(cell, checkpoint)
    candidates = prepare(cell, checkpoint).candidates
    loads = cell.operation in (Operation.LOADING, Operation.PROCESSING)
    gc.collect()
    gc.freeze()
    gc.disable()  # as in timeit and pyperf: a collection would count for whichever candidate is running
    return take_turns(candidates, synchronized_clock, BUDGET_S, *((3, 1) if loads else ()))


def hash_checkpoint(fields: dict[str, str]) -> None:
    """Hash the checkpoint in a server, so that no fork has to. The device is not touched."""
    named(restored(RuntimeCell, fields).model)


def measure_import(cell: Import) -> Slowdown:
    """Time imports in fresh interpreters, TransformerLens and HuggingFace in turn. Raises CellFailed if either fails."""
    candidates = [Candidate(partial(_import, code)) for code in IMPORTS]
    rounds = take_turns(candidates, time.perf_counter, budget=0, fewest=INTERPRETERS, warm_up=1)
    return _slowdown(None, [[[pair]] for pair in rounds])  # each import has its own interpreter


def located(cell: RuntimeCell) -> Checkpoint:
    """A cell's verified checkpoint. Raises as :func:`locate` does, and NotApplicable if this machine lacks the device."""
    require(cell.device.value)
    return named(cell.model)


def settle(cell: RuntimeCell, checkpoint: Checkpoint) -> None:
    """Fix what could make two runs differ, and select the cell's device. For a process that measures a single cell."""
    os.environ[DEVICE_VARIABLE] = cell.device.value
    make_deterministic(checkpoint.model.threads)


def _slowdown(cell: RuntimeCell | None, interpreters: Sequence[Sequence[Rounds]]) -> Slowdown:
    processes = [rounds for interpreter in interpreters for rounds in interpreter]
    seconds = [statistics.median(side) for side in zip(*(times for rounds in processes for times in rounds), strict=True)]
    eager, n_rounds = paired(interpreters, 1), tuple(map(len, processes))
    if len(seconds) == 2:
        return Slowdown(cell, eager, None, seconds[0], seconds[1], None, n_rounds)
    return Slowdown(cell, eager, paired(interpreters, 2), seconds[0], seconds[1], seconds[2], n_rounds)


def _import(code: str, _: object) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise CellFailed(f"`{code}` failed: {last[0]}")
