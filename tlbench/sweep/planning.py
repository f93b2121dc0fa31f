"""Which jobs a sweep needs: the tasks that are not done, those of a commit put together."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tlbench import catalogue
from tlbench.grid import Device
from tlbench.paths import cache_dir
from tlbench.sweep.costs import UnitCosts
from tlbench.sweep.tasks import Grid, Keys, Task, all_kept, is_done, read_receipt, receipt_path

PREPARE, MEASURE = "prepare", {Device.CPU: "measure", Device.CUDA: "gpu"}
"""How the names of jobs begin. A profile gives each kind its machines."""
LONGEST_S, SHORTEST_S = 900.0, 120.0
"""How long a job should take: long beside its start, short beside what a preempted one loses."""
UNKNOWN_S = 30.0
"""What a task of unknown cost is taken for when jobs are put together; no estimate contains it."""
LARGE_BYTES = 2**30
"""A model with files this large has its jobs for itself: it takes all memory."""
MIB = 2**20
LEAST_MEMORY_MB = 4096
"""For a job of small models: interpreters with torch and transformers."""
MEMORY_PER_WEIGHT = 8
"""Bytes of memory per byte of a large model's files. docs/large-models.md has up to 14.2 bytes a parameter for all options,
which is 7 of a file in 16 bits."""


@dataclass(frozen=True)
class Job:
    """Tasks of one commit, or the preparation of models.

    Attributes:
        name: its kind of machine, and a hash of the keys of its tasks.
        needs: the jobs to be done before.
        threads: the cores that it takes.
        memory_mb: an allowance, not a measurement; None if the models' sizes are unknown.
        seconds: what it will take; None if that is unknown.
    """

    name: str
    tasks: tuple[Task, ...]
    needs: tuple[str, ...]
    threads: int
    memory_mb: int | None
    seconds: float | None

    def __str__(self) -> str:
        others = f" and {len(self.tasks) - 1} more" if len(self.tasks) > 1 else ""
        return f"{self.tasks[0]}{others}"


@dataclass(frozen=True)
class Plan:
    """What a sweep does.

    Attributes:
        folder: where its jobs leave their marks and logs.
        repository: the clone that has the commits.
        jobs: what is to be done, preparations first.
        commits: how many asv reads.
        done: how many tasks are done already.
        results: the name of the last step, which writes asv's files; it hashes the keys of all tasks.
    """

    folder: str
    repository: str
    grid: Grid
    jobs: tuple[Job, ...]
    commits: int
    done: int
    results: str


@dataclass(frozen=True)
class Estimate:
    """What jobs will take.

    Attributes:
        job_s: seconds of all jobs, one after the other.
        wall_s: the same with several at once, and what a sweep takes beside them.
        added_bytes: what they add to the cache.
        unknown: the tasks of unknown cost, which the figures leave out.
    """

    job_s: float
    wall_s: float
    added_bytes: float
    unknown: tuple[Task, ...]


def make_plan(
    repository: Path,
    commits: Sequence[str],
    models: Sequence[str],
    grid: Grid,
    threads: dict[str, int],
    costs: UnitCosts,
    at_once: int = 1,
) -> Plan:
    """Plan a sweep.

    Args:
        threads: the cores that each model takes.
        at_once: how many jobs there should be at least.
    """
    keys, kept = Keys(grid), all_kept()
    every = [Task(model) for model in models] + [Task(model, commit) for commit in commits for model in models]
    key_of = {task: keys.of(task) for task in every}
    missing = [task for task in every if not is_done(read_receipt(receipt_path(key_of[task])), kept)]

    def job(tasks: Sequence[Task], needs: Iterable[str] = ()) -> Job:
        rule = PREPARE if not tasks[0].commit else MEASURE[grid.device]
        seconds = [costs.seconds_of(task, grid) for task in tasks]
        start = costs.start_s.get(grid.device) if tasks[0].commit else 0.0
        known = [one for one in (start, *seconds) if one is not None]
        return Job(
            f"{rule}-{_hash(key_of[task] for task in tasks)}",
            tuple(tasks),
            tuple(needs),
            max(threads[task.model] for task in tasks),
            _memory_mb([costs.weights_bytes.get(task.model) for task in tasks]),
            sum(known) if len(known) == len(seconds) + 1 else None,
        )

    preparing, measuring = [task for task in missing if not task.commit], [task for task in missing if task.commit]
    jobs = [job(group) for group in grouped(preparing, grid, costs, _target_s(preparing, grid, costs, at_once))]
    prepared_by = {task.model: one.name for one in jobs for task in one.tasks}
    target = _target_s(measuring, grid, costs, at_once)
    for commit in commits:
        for group in grouped([task for task in measuring if task.commit == commit], grid, costs, target):
            needs = dict.fromkeys(prepared_by[task.model] for task in group if task.model in prepared_by)
            jobs.append(job(group, needs))
    results = _hash([*key_of.values()])
    folder = cache_dir() / "sweeps" / results
    return Plan(str(folder), str(repository), grid, tuple(jobs), len(commits), len(every) - len(missing), results)


def grouped(tasks: Sequence[Task], grid: Grid, costs: UnitCosts, target_s: float) -> list[list[Task]]:
    """Split tasks into jobs of about ``target_s``, in order.

    A large model is alone, and so is one of unknown size, unless tlbench draws it: those are small.
    """
    drawn = {model.name for model in catalogue.load().models if model.source.is_zoo}
    groups: list[list[Task]] = []
    left = 0.0
    for task in tasks:
        seconds = costs.seconds_of(task, grid)
        needed = UNKNOWN_S if seconds is None else seconds
        is_large = costs.weights_bytes.get(task.model, 0 if task.model in drawn else LARGE_BYTES) >= LARGE_BYTES
        if not groups or is_large or needed > left:
            groups.append([])
            left = target_s
        groups[-1].append(task)
        left = 0.0 if is_large else left - needed
    return groups


def estimate(plan: Plan, costs: UnitCosts, at_once: int) -> Estimate:
    """What a plan's jobs will take, ``at_once`` at a time. Measurements wait for all preparations."""
    tasks = [task for job in plan.jobs for task in job.tasks]
    unknown = [task for task in tasks if costs.seconds_of(task, plan.grid) is None]
    wall = plan.commits * (costs.commit_s or 0.0)
    for is_measuring in (False, True):
        ends = [0.0] * at_once
        for job in plan.jobs:
            if bool(job.tasks[0].commit) is is_measuring:
                heapq.heapreplace(ends, ends[0] + (job.seconds or 0.0))
        wall += max(ends)
    added = sum(costs.bytes_of(task, plan.grid) or 0.0 for task in tasks)
    return Estimate(sum(job.seconds or 0.0 for job in plan.jobs), wall, added, tuple(unknown))


def _target_s(tasks: Sequence[Task], grid: Grid, costs: UnitCosts, at_once: int) -> float:
    """The length of a job: short enough that all who work have one, and that the last ones end at about the same time."""
    total = sum(UNKNOWN_S if (one := costs.seconds_of(task, grid)) is None else one for task in tasks)
    return min(LONGEST_S, max(min(SHORTEST_S, total / at_once), total / (4 * at_once)))


def _memory_mb(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return max([LEAST_MEMORY_MB, *(MEMORY_PER_WEIGHT * size // MIB for size in known)]) if len(known) == len(sizes) else None


def _hash(keys: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(keys).encode()).hexdigest()[:24]
