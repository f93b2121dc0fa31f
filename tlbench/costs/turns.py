"""Candidates take turns in one process, so that a machine that slows down slows all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tlbench.costs.stack import with_room


@dataclass(frozen=True)
class Candidate:
    """One of those that take turns.

    Attributes:
        run: what is timed. It is given what ``prepare`` returned.
        prepare: what comes before it each time, and is not timed.
    """

    run: Callable[[Any], object]
    prepare: Callable[[], Any] = lambda: None


def take_turns(
    candidates: Sequence[Candidate], clock: Callable[[], float], budget: float, fewest: int = 5, warm_up: int = 2
) -> list[tuple[float, ...]]:
    """The time of each candidate in each round, ``[round][candidate]``, in the clock's unit.

    Every other round goes through them backwards, so that none always comes after the same one.

    Args:
        candidates: who takes turns.
        clock: tells the time; it also waits for a device that works on its own.
        budget: no new round is begun once the timed runs have taken this long.
        fewest: rounds that are run whatever they take.
        warm_up: rounds before these that are not kept.
    """
    return with_room(partial(_take_turns, candidates, clock, budget, fewest, warm_up))


def _take_turns(
    candidates: Sequence[Candidate], clock: Callable[[], float], budget: float, fewest: int, warm_up: int
) -> list[tuple[float, ...]]:
    rounds: list[tuple[float, ...]] = []
    spent = 0.0
    while len(rounds) < warm_up + fewest or spent < budget:
        order = range(len(candidates)) if len(rounds) % 2 == 0 else reversed(range(len(candidates)))
        times = {i: _timed(candidates[i], clock) for i in order}
        rounds.append(tuple(times[i] for i in range(len(candidates))))
        if len(rounds) > warm_up:
            spent += sum(rounds[-1])
    return rounds[warm_up:]


def _timed(candidate: Candidate, clock: Callable[[], float]) -> float:
    given = candidate.prepare()
    started = clock()
    result = candidate.run(given)
    ended = clock()
    del result  # freed only now: what it holds on to is not part of the time
    return ended - started
