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

from tlbench.checkpoints import Checkpoint, locate
from tlbench.costs.turns import Candidate, take_turns
from tlbench.device import DEVICE_VARIABLE, require, synchronized_clock
from tlbench.exceptions import BadInput, CellFailed, NotApplicable
from tlbench.execution.client import Server, beside
from tlbench.grid import Import, Operation, RuntimeCell
from tlbench.metrics.paired import INTERPRETERS, PROCESSES, paired
from tlbench.questions.answers import PRELOAD
from tlbench.records.costs import Slowdown
from tlbench.records.serial import plain, restored

BUDGET_S = 0.4
"""What the rounds of one process take together, where five take less."""
NAMES = [f"timing-{number}" for number in range(1, INTERPRETERS + 1)]
"""The servers that timed processes are forked from."""
IMPORTS = ("import transformer_lens", "import torch, transformers.models.auto.modeling_auto, transformers.generation.utils")
"""TransformerLens's import, and that of what it stands on and a user of HuggingFace imports too."""

Times = Sequence[Sequence[Sequence[float]]]
"""Of one interpreter: ``[process][round][candidate]``."""


def measure_slowdown(cell: RuntimeCell) -> Slowdown:
    """Time a cell on both sides, in processes forked from several interpreters by turns.

    The interpreters are fork servers. They are started if they do not run, and live as long as the server that this process
    was forked from, or as this process.

    Raises:
        BadInput: if the model is not in the catalogue, or its checkpoint is missing or altered.
        CheckpointUnavailable: if it is a hub model that is not on this machine.
        NotApplicable: if this TransformerLens has no such wrapper, option, architecture or operation, the model no such
            length, or this machine no such device.
        CellFailed: if loading or running raised, or an interpreter cannot be started.
    """
    located(cell)  # what cannot be measured at all is said before the interpreters start
    servers = [beside(name, preload=PRELOAD) for name in NAMES]
    with ThreadPoolExecutor() as starting:
        list(starting.map(Server.start, servers))
    interpreters: list[list[list[list[float]]]] = [[] for _ in NAMES]
    for _ in range(PROCESSES):
        for server, own in zip(servers, interpreters, strict=True):
            own.append(server.call(time_rounds, plain(cell), before=hash_checkpoint))
    return _slowdown(cell, interpreters)


def time_rounds(fields: dict[str, str]) -> list[tuple[float, ...]]:
    """Time a cell in this process, in which nothing else may have been measured: ``[round][candidate]``, in seconds.

    Raises:
        BadInput, CheckpointUnavailable, NotApplicable, CellFailed: as :func:`measure_slowdown`, but for what it starts.
    """
    cell = restored(RuntimeCell, fields)
    return _time(cell, located(cell))


def hash_checkpoint(fields: dict[str, str]) -> None:
    """In a server, so that no fork hashes the checkpoint again."""
    located(restored(RuntimeCell, fields))


def measure_import(cell: Import) -> Slowdown:
    """Time the import in fresh interpreters, TransformerLens and HuggingFace by turns.

    Raises:
        CellFailed: if either does not import.
    """
    candidates = [Candidate(partial(_import, code)) for code in IMPORTS]
    rounds = take_turns(candidates, time.perf_counter, budget=0, fewest=INTERPRETERS, warm_up=1)
    return _slowdown(None, [[[pair]] for pair in rounds])  # each import is an interpreter of its own


def located(cell: RuntimeCell) -> Checkpoint:
    """A cell's checkpoint, verified, on a machine that has the device.

    Raises:
        BadInput, CheckpointUnavailable: as :func:`tlbench.checkpoints.locate`.
        NotApplicable: if this machine has no such device.
    """
    from tlbench import catalogue as catalogues

    try:
        require(cell.device.value)
    except BadInput as error:
        raise NotApplicable(str(error)) from None
    catalogue = catalogues.load()
    return locate(catalogue.get(cell.model), catalogue)


def settle(cell: RuntimeCell, checkpoint: Checkpoint) -> None:
    """Fix what two runs could differ in, and put everything on the cell's device. For a process of one cell."""
    from tlbench.questions.loading import make_deterministic

    os.environ[DEVICE_VARIABLE] = cell.device.value
    make_deterministic(checkpoint.model.threads)


def _time(cell: RuntimeCell, checkpoint: Checkpoint) -> list[tuple[float, ...]]:
    from tlbench.costs.operations import prepare

    settle(cell, checkpoint)
    candidates = prepare(cell, checkpoint).candidates
    loads = cell.operation in (Operation.LOADING, Operation.PROCESSING)
    gc.collect()
    gc.freeze()
    gc.disable()  # as timeit and pyperf do: a collection would fall on whoever's turn it is
    return take_turns(candidates, synchronized_clock, BUDGET_S, *((3, 1) if loads else ()))


def _slowdown(cell: RuntimeCell | None, interpreters: Sequence[Times]) -> Slowdown:
    processes = [rounds for own in interpreters for rounds in own]
    seconds = [statistics.median(side) for side in zip(*(times for rounds in processes for times in rounds), strict=True)]
    has_default = len(seconds) > 2
    return Slowdown(
        cell=cell,
        eager=paired(interpreters, 1),
        default=paired(interpreters, 2) if has_default else None,
        seconds=seconds[0],
        eager_seconds=seconds[1],
        default_seconds=seconds[2] if has_default else None,
        rounds=tuple(map(len, processes)),
    )


def _import(code: str, _: object) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise CellFailed(f"`{code}` failed: {last[0]}")
