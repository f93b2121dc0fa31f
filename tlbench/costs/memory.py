"""How much memory does one run hold beyond its model, and does it give it all back?"""

from __future__ import annotations

from collections.abc import Callable

import torch

from tlbench import device
from tlbench.costs.operations import prepare
from tlbench.costs.slowdown import located, settle
from tlbench.costs.turns import Candidate
from tlbench.exceptions import NotApplicable
from tlbench.grid import Operation, RuntimeCell
from tlbench.records.costs import Memory

REPEATS = 3
"""Runs over which a leak is averaged; some runs before them fill what is filled once."""


def measure_memory(cell: RuntimeCell) -> Memory:
    """Count what torch's allocator hands out during one run. On a CPU the count is exact and does not vary.

    Raises:
        BadInput: if the model is not in the catalogue, or its checkpoint is missing or altered.
        CheckpointUnavailable: if it is a hub model that is not on this machine.
        NotApplicable: if this TransformerLens has no such wrapper, option, architecture or operation, the model no such
            length, this machine no such device, or the operation loads a model.
        CellFailed: if loading or running raised.
    """
    if cell.operation in (Operation.LOADING, Operation.PROCESSING):
        raise NotApplicable("what loading needs is a process's peak: see runtime.ProcessLoading and ProcessProcessing")
    checkpoint = located(cell)
    settle(cell, checkpoint)
    pair = prepare(cell, checkpoint)
    assert pair.default is not None
    own, eager, default = (peak_of(candidate) for candidate in (pair.tl, pair.eager, pair.default))
    kept = sum(allocated(_and_let_go(pair.tl)).kept for _ in range(REPEATS)) / REPEATS
    return Memory(cell, own, eager, default, kept)


class Allocated:
    """What a call did to the allocator, in bytes.

    Attributes:
        peak: the most that was held at once beyond what was there before.
        kept: what is still held after it.
    """

    def __init__(self, changes: list[int]) -> None:
        self.peak = self.kept = 0
        for change in changes:
            self.kept += change
            self.peak = max(self.peak, self.kept)


def allocated(call: Callable[[], object]) -> Allocated:
    """What a call, whose result is dropped, does to the allocator of the device in use."""
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
    """The most that one run holds, once the runs before it have filled what is filled once."""
    _once(candidate)()
    _once(candidate)()
    return allocated(_once(candidate)).peak


def _once(candidate: Candidate) -> Callable[[], object]:
    given = candidate.prepare()

    def call() -> None:
        candidate.run(given)

    return call


def _and_let_go(candidate: Candidate) -> Callable[[], object]:
    def call() -> None:
        candidate.run(candidate.prepare())
        candidate.prepare()  # gradients, for one, are no leak

    return call
