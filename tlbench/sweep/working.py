"""Do one job of a sweep, in a process of its own on whichever machine."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tlbench import arithmetic, catalogue, checkpoints
from tlbench.device import DEVICE_VARIABLE
from tlbench.environments import reference_python
from tlbench.environments.commits import Clone
from tlbench.environments.workshop import Workshop
from tlbench.exceptions import BadInput, CellFailed, CheckpointUnavailable, TlbenchError
from tlbench.execution.client import Server
from tlbench.files import locked, sha256_of, write_json
from tlbench.grid import Device
from tlbench.paths import cache_dir
from tlbench.questions.answers import kept_names, proved
from tlbench.questions.registry import ACCURACY, QUESTIONS
from tlbench.questions.stations import Station
from tlbench.records.outcome import Kind
from tlbench.records.serial import plain, restored
from tlbench.reference.preload import before_computing, reference_server
from tlbench.sweep.planning import Plan
from tlbench.sweep.tasks import Cost, Keys, Receipt, Task, cell_path, is_done, read_receipt, receipt_path

Say = Callable[[str], None]


def read_plan(path: Path) -> Plan:
    """Read a plan. Raises BadInput if it is missing or damaged."""
    try:
        return restored(Plan, json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read the plan {path} ({error}): run `tlbench sweep` again") from error


def work(plan: Plan, name: str, say: Say) -> None:
    """Do the tasks of a job that are not done, one after the other, and leave a receipt for each.

    A task that another process does at the same time is waited for, and then it is done.

    Raises:
        BadInput: if there is no such job, or a disk is full.
        CellFailed: if this machine cannot compute in the arithmetic of the plan: another may.
    """
    job = next((job for job in plan.jobs if job.name == name), None)
    if job is None:
        raise BadInput(f"no job {name} in the plan {plan.folder}: run `tlbench sweep` again")
    if plan.grid.device is not Device.CPU:
        os.environ |= {DEVICE_VARIABLE: plan.grid.device, arithmetic.LANE_VARIABLE: arithmetic.Lane.NATIVE}
    keys = Keys(plan.grid)
    do = _measure if job.tasks[0].commit else _prepare
    with locked(cache_dir() / "locks" / f"job-{keys.of(job.tasks[0])}.lock"):
        if missing := [task for task in job.tasks if not _is_done(keys.of(task))]:
            do(missing, plan, keys, say)


def _is_done(key: str) -> bool:
    receipt = read_receipt(receipt_path(key))
    kept = {name for name in receipt.kept if cell_path(name).is_file()} if receipt else ()
    return is_done(receipt, frozenset(kept))


def _prepare(tasks: Sequence[Task], plan: Plan, keys: Keys, say: Say) -> None:
    """Make models' checkpoints and their goldens. If a model is not to be had, its receipt says so."""
    models = catalogue.load()
    for task in tasks:
        _write(_prepared(task, models, plan, say), keys)


def _prepared(task: Task, models: catalogue.Catalogue, plan: Plan, say: Say) -> Receipt:
    """Prepare a model. A golden that cannot be computed is tried again by the cells that need it, which report why."""
    started = time.monotonic()
    try:
        checkpoint = checkpoints.ensure(models.get(task.model), models, lambda what: say(f"{task.model}: {what}"))
    except CheckpointUnavailable as reason:
        return _receipt(task, plan, reason=str(reason))
    weights = sum(path.stat().st_size for path in checkpoint.folder.iterdir() if path.is_file())
    before = _golden_bytes(task.model)
    say(f"{task.model}: goldens")
    with suppress(TlbenchError):
        server = reference_server(reference_python(Path(sys.executable)))
        server.call(ACCURACY.golden, [*plan.grid.dtypes], task.model, before=before_computing)
    added, seconds = _golden_bytes(task.model) - before, time.monotonic() - started
    made = {"seconds": seconds, "kept_bytes": weights + added} if added else {}
    return _receipt(task, plan, weights_bytes=weights, **made)


def _measure(tasks: Sequence[Task], plan: Plan, keys: Keys, say: Say) -> None:
    """Measure tasks of one commit. If it does not build, install or import, their receipts say so."""
    started, commit = time.monotonic(), tasks[0].commit
    workshop = Workshop(Clone(Path(plan.repository)))
    say(f"{commit[:8]}: preparing")
    with ExitStack() as stack:
        try:
            environment = workshop.environment(commit)
            package = Path(stack.enter_context(TemporaryDirectory(prefix="tlbench-package-", ignore_cleanup_errors=True)))
            workshop.write_package(commit, environment, package)
            station = Station(environment.python)
            stack.callback(station.close)
            server = stack.enter_context(station.serving(package))
        except CellFailed as error:
            for task in tasks:
                _write(_receipt(task, plan, reason=str(error)), keys)
            return
        start_s = time.monotonic() - started
        for task in tasks:
            _write(replace(_of_model(task, plan, station, server, say), start_s=start_s), keys)
            start_s = 0.0


def _of_model(task: Task, plan: Plan, station: Station, server: Server, say: Say) -> Receipt:
    """Measure those cells of a model whose figures are not kept."""
    questions = [QUESTIONS[name] for name in plan.grid.questions]
    cells = plan.grid.cells(task.model)
    names: list[list[str]] = server.call(kept_names, [one.address for one in questions], plain(cells))
    paths = {cell: [*map(cell_path, of_cell)] for cell, of_cell in zip(cells, names, strict=True)}
    missing = [cell for cell, of_cell in paths.items() if not all(path.is_file() for path in of_cell)]
    endings, reason, costs = Counter({Kind.MEASURED: len(cells) - len(missing)}), "", []
    for dtype in dict.fromkeys(cell.dtype for cell in missing):
        started = time.monotonic()
        of_dtype = [cell for cell in missing if cell.dtype is dtype]
        for answers in station.measure(server, questions, of_dtype, at_once=1):
            kinds = [outcome.kind for outcome in answers.outcomes.values()]
            endings.update(kinds)
            say(f"{task.commit[:8]} {answers.cell}: {', '.join(kinds)}")
            reason = reason or next((o.reason for o in answers.outcomes.values() if o.kind is Kind.NOT_MEASURED), "")
        costs.append(Cost(dtype, len(of_dtype), time.monotonic() - started))
    kept = [path for of_cell in paths.values() for path in of_cell if path.is_file()]
    new = {path for cell in missing for path in paths[cell]}.intersection(kept)
    return _receipt(
        task,
        plan,
        endings={str(kind): count for kind, count in endings.items()},
        kept={path.stem: sha256_of(path) for path in kept},
        arithmetic=server.call(proved),
        costs=tuple(costs),
        kept_bytes=sum(path.stat().st_size for path in new),
        reason=reason,
    )


def _receipt(task: Task, plan: Plan, **values: Any) -> Receipt:
    return Receipt(task, plan.grid, host=platform.node(), **values)


def _write(receipt: Receipt, keys: Keys) -> None:
    write_json(receipt_path(keys.of(receipt.task)), plain(receipt))


def _golden_bytes(model: str) -> int:
    return sum(path.stat().st_size for path in (cache_dir() / "golden").glob(f"{model}-*"))
