"""How much memory does one run need beyond its model, and does it give it all back?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from tlbench import device
from tlbench.costs.operations import prepare
from tlbench.costs.slowdown import located, settle
from tlbench.costs.turns import Candidate
from tlbench.exceptions import NotApplicable
from tlbench.grid import Operation, RuntimeCell
from tlbench.records.costs import Memory

REPEATS = 3
"""Leaks are averaged over this many runs, after a few runs that fill whatever is filled only once."""


def measure_memory(cell: RuntimeCell) -> Memory:
    """Count what torch's allocator hands out during one run. On a CPU the count is exact and repeatable.

    Raises what :func:`tlbench.costs.slowdown.measure_slowdown` raises, and NotApplicable if the operation loads a model.
    """
    if cell.operation in (Operation.LOADING, Operation.PROCESSING):
        raise NotApplicable("loading is measured as a process's peak: see runtime.ProcessLoading and ProcessProcessing")
    checkpoint = located(cell)
    settle(cell, checkpoint)
    pair = prepare(cell, checkpoint)
    assert pair.default is not None
    tl_peak, eager_peak, default_peak = (peak_of(candidate) for candidate in (pair.tl, pair.eager, pair.default))
    leak = sum(allocated(partial(_run_and_clear, pair.tl)).kept for _ in range(REPEATS)) / REPEATS
    return Memory(cell, tl_peak, eager_peak, default_peak, leak)


class Allocated:
    """The effect of a call on the allocator, in bytes beyond what was held before: the ``peak``, and what is ``kept``."""

    def __init__(self, changes: list[int]) -> None:
        self.peak = self.kept = 0
        for change in changes:
            self.kept += change
            self.peak = max(self.peak, self.kept)


def allocated(call: Callable[[], object]) -> Allocated:
    """Run a call, drop its result, and return its effect on the current device's allocator."""
    if device.current() != "cpu":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
        return Allocated([peak - before, torch.cuda.memory_allocated() - peak])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    return Allocated([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])


def peak_of(candidate: Candidate) -> int:
    """The peak memory of one run, after two runs that fill whatever is filled only once."""
    for _ in range(2):
        candidate.run(candidate.prepare())
    return allocated(partial(candidate.run, candidate.prepare())).peak


def _run_and_clear(candidate: Candidate) -> None:
    candidate.run(candidate.prepare())
    candidate.prepare()  # drops gradients, which are no leak
