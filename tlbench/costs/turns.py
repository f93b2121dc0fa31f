"""Candidates take turns in one process, so a machine that slows down slows all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tlbench.costs.stack import with_room


@dataclass(frozen=True)
class Candidate:
    """One of the things timed in turn. ``run`` is timed and gets the result of ``prepare``, which runs first, untimed."""

    run: Callable[[Any], object]
    prepare: Callable[[], Any] = lambda: None


Clock = Callable[[], float]
"""Returns the time, after waiting for any asynchronous device."""
Rounds = list[tuple[float, ...]]
"""Times, ``[round][candidate]``, in the clock's unit."""


def take_turns(candidates: Sequence[Candidate], clock: Clock, budget: float, fewest: int = 5, warm_up: int = 2) -> Rounds:
    """Time each candidate in each round. Every other round runs in reverse, so none always follows the same one.

    Args:
        budget: no new round starts once the timed runs have taken this long.
        fewest: the minimum number of rounds, however long they take.
        warm_up: number of rounds to run first and discard.
    """
    return with_room(partial(_take_turns, candidates, clock, budget, fewest, warm_up))


def _take_turns(candidates: Sequence[Candidate], clock: Clock, budget: float, fewest: int, warm_up: int) -> Rounds:
    rounds: Rounds = []
    spent = 0.0
    while len(rounds) < warm_up + fewest or spent < budget:
        order = range(len(candidates)) if len(rounds) % 2 == 0 else reversed(range(len(candidates)))
        times = {i: _timed(candidates[i], clock) for i in order}
        rounds.append(tuple(times[i] for i in range(len(candidates))))
        if len(rounds) > warm_up:
            spent += sum(rounds[-1])
    return rounds[warm_up:]


def _timed(candidate: Candidate, clock: Clock) -> float:
    prepared = candidate.prepare()
    started = clock()
    result = candidate.run(prepared)
    ended = clock()
    del result  # freed only now, so that freeing it is not timed
    return ended - started
