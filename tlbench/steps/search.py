"""Find every step in a graph of commits with few measurements.

Cells are deterministic: if a cell's logits have the same bits at two commits, no step is taken to lie between them. Where
they differ, the path between the two commits is split, for all cells at once. A step that came with a merge is searched on
the merged branch. A commit that cannot be measured is skipped, as by ``git bisect skip``: if only such commits are left, the
step is the set of them.
"""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Generic, TypeVar

C = TypeVar("C")
"""A cell."""
States = Mapping[C, str]
"""By cell: equal strings for "no step between"."""
Measure = Callable[[str, frozenset[C]], States[C] | None]
"""Measure cells at a commit. None if the commit cannot be measured."""


@dataclass(frozen=True)
class Graph:
    """Commits and their parents.

    Attributes:
        parents: of every commit, parents before children.
        content: what decides a commit's states. Commits with equal content are measured once.
    """

    parents: Mapping[str, Sequence[str]]
    content: Callable[[str], str] = str

    def has(self, ancestor: str | None, commit: str) -> bool:
        """Whether a commit is another one or its ancestor."""
        return ancestor in self._numbers and bool(self._behind[commit] >> self._numbers[ancestor] & 1)

    def between(self, earlier: str, later: str) -> list[str]:
        """The commits of ``earlier..later``, parents first."""
        return [commit for commit in self.parents if self.has(commit, later) and not self.has(commit, earlier)]

    def path(self, earlier: str, later: str) -> list[str]:
        """A path from a commit to a descendant, both included. It follows first parents where they lead there."""
        path = [later]
        while path[-1] != earlier:
            path.append(next(parent for parent in self.parents[path[-1]] if self.has(earlier, parent)))
        return path[::-1]

    def branch(self, tip: str, trunk: str) -> list[str]:
        """The first parents of a tip back to the last that is behind the trunk, that one first. [] if there is none."""
        path = [tip]
        while not self.has(path[-1], trunk):
            if not (parents := self.parents[path[-1]]):
                return []
            path.append(parents[0])
        return path[::-1]

    @cached_property
    def _numbers(self) -> dict[str | None, int]:
        return {commit: number for number, commit in enumerate(self.parents)}

    @cached_property
    def _behind(self) -> dict[str, int]:
        """For each commit, a bit for itself and for each ancestor."""
        behind: dict[str, int] = {}
        for number, (commit, parents) in enumerate(self.parents.items()):
            bits = 1 << number
            for parent in parents:
                bits |= behind[parent]
            behind[commit] = bits
        return behind


@dataclass(frozen=True)
class Step(Generic[C]):
    """A step of some cells.

    Attributes:
        commits: the commit that made it, or all that may have made it, because no others between can be measured.
        before: the last commit measured without it.
        after: the first commit measured with it.
    """

    commits: tuple[str, ...]
    before: str
    after: str
    cells: frozenset[C]


class Effort(StrEnum):
    """How much of a range is measured."""

    SEARCH = "search"
    """What lies between two commits with the same bits is not."""
    THOROUGH = "thorough"
    """Also all cells at both sides of each step: a fault that was undone is seen if it is there at one of them."""
    EXHAUSTIVE = "exhaustive"
    """Every commit."""


class Unmeasurable(Exception):
    """An end of the range cannot be measured. Its argument is the commit."""


@dataclass
class Search(Generic[C]):
    """A search of one range, for some cells.

    Attributes:
        good: the range's start, which is measured and is not part of it.
        probes: how many times a commit was measured.
        skipped: the commits that could not be measured.
    """

    graph: Graph
    measure: Measure[C]
    good: str
    bad: str
    cells: frozenset[C]
    probes: int = 0
    skipped: list[str] = field(default_factory=list)
    _known: dict[str, dict[C, str]] = field(default_factory=dict)
    _unmeasurable: set[str] = field(default_factory=set)
    _found: dict[tuple[tuple[str, ...], str, str], set[C]] = field(default_factory=dict)
    _done: dict[tuple[str, str], set[C]] = field(default_factory=lambda: defaultdict(set))
    """The cells whose step between a commit and a parent was named."""

    def steps(self, effort: Effort = Effort.SEARCH) -> list[Step[C]]:
        """Every step that shows between two measured commits, parents first.

        One that was undone between two commits that are measured is not seen.

        Raises Unmeasurable if an end of the range cannot be measured.
        """
        self._measure_ends()
        if effort is Effort.EXHAUSTIVE:
            return self._every_step()
        self._split(self.graph.path(self.good, self.bad), self.cells)
        found = self._sorted()
        while effort is Effort.THOROUGH:
            for before, after in self._stretches(found):
                self._split(self.graph.path(before, after), self.cells)
            known, found = found, self._sorted()
            if found == known:
                break
        return found

    def _stretches(self, steps: Sequence[Step[C]]) -> Iterator[tuple[str, str]]:
        """Neighbouring sides of the steps on the range's path, and both sides of each step that came with a merge."""
        sides = {side for step in steps for side in (step.before, step.after)}
        path = self.graph.path(self.good, self.bad)
        yield from itertools.pairwise([path[0], *(commit for commit in path[1:-1] if commit in sides), path[-1]])
        for step in steps:
            if not {step.before, step.after} <= {*path} and step.before in self.graph.parents[step.after]:
                yield step.before, step.after

    def _every_step(self) -> list[Step[C]]:
        """The steps from a measurement of every commit."""
        inside = self.graph.between(self.good, self.bad)
        for commit in inside:
            self.states(commit)
        for commit in inside:
            if self.graph.content(commit) not in self._unmeasurable:
                self._step_to_measured(commit)
        return self._sorted()

    @property
    def named(self) -> set[tuple[str, ...]]:
        """The commits of each step that was found so far."""
        return {commits for commits, _, _ in self._found}

    def states(self, commit: str, cells: Iterable[C] | None = None) -> States[C] | None:
        """The states of cells, by default of all. None if the commit cannot be measured."""
        content = self.graph.content(commit)
        if content in self._unmeasurable:
            return None
        known = self._known.setdefault(content, {})
        if missing := frozenset(self.cells if cells is None else cells) - known.keys():
            self.probes += 1
            measured = self.measure(commit, missing)
            if measured is None:
                self._unmeasurable.add(content)
                self.skipped.append(commit)
                return None
            known.update(measured)
        return known

    def _measure_ends(self) -> None:
        for end in (self.good, self.bad):
            if self.states(end) is None:
                raise Unmeasurable(end)

    def _differing(self, before: str, after: str, cells: Collection[C]) -> frozenset[C]:
        """The cells whose states differ between two commits that can be measured."""
        was, now = self.states(before, cells) or {}, self.states(after, cells) or {}
        return frozenset(cell for cell in cells if was[cell] != now[cell])

    def _split(self, path: Sequence[str], cells: frozenset[C], trunk: str = "") -> None:
        """Find the steps of cells on a path whose ends can be measured. None of them is behind ``trunk``."""
        waiting = deque([(0, len(path) - 1, cells)])
        while waiting:
            low, high, candidates = waiting.popleft()
            if not (moved := self._differing(path[low], path[high], candidates)):
                continue
            if (middle := self._middle(path, low, high, moved)) is None:
                if high - low == 1:
                    self._step_of(path[low], path[high], moved)
                else:
                    between = self.graph.between(path[low], path[high])
                    side = [commit for commit in between if not trunk or not self.graph.has(commit, trunk)]
                    self._name(side, path[low], path[high], moved)
            elif self.states(path[middle], moved) is None:
                waiting.appendleft((low, high, moved))
            else:
                waiting += [(low, middle, moved), (middle, high, moved)]

    def _middle(self, path: Sequence[str], low: int, high: int, cells: Collection[C]) -> int | None:
        """Where to split next: at what is known already, else in the middle of what lies farthest from skipped commits."""
        between = range(low + 1, high)
        contents = {i: self.graph.content(path[i]) for i in between}
        possible = [i for i in between if contents[i] not in self._unmeasurable]
        known = [i for i in possible if all(cell in self._known.get(contents[i], ()) for cell in cells)]
        if known:
            return min(known, key=lambda i: abs(2 * i - low - high))
        borders = [low, *(i for i in between if i not in possible), high]
        start, end = max(itertools.pairwise(borders), key=lambda gap: gap[1] - gap[0])
        return (start + end) // 2 if end - start > 1 else None

    def _step_of(self, before: str, commit: str, cells: frozenset[C]) -> None:
        """Name the step between a commit and one of its parents: the commit, unless it is a merge that brought the step."""
        cells -= self._done[before, commit]
        self._done[before, commit] |= cells
        brought: frozenset[C] = frozenset()
        for parent in self.graph.parents[commit]:
            if parent != before:
                brought |= self._brought(parent, before, commit, cells)
        if own := cells - brought:
            self._name([commit], before, commit, own)

    def _brought(self, tip: str, trunk: str, merge: str, cells: frozenset[C]) -> frozenset[C]:
        """The cells that a merged branch moved, whose steps are searched on the branch as far as it is in the range."""
        branch = self.graph.branch(tip, trunk)
        if len(branch) < 2:
            return frozenset()
        fork = branch[0]
        if self.states(fork, cells) is None:
            self._name([*self.graph.between(trunk, tip), merge], trunk, merge, cells)
            return cells
        path = branch if self.states(tip, cells) is not None else [*branch, merge]
        moved = self._differing(fork, path[-1], cells)
        outside = sum(self.graph.has(commit, self.good) for commit in path)
        start = max(outside - 1, 0)
        while self.states(path[start], moved) is None:  # the fork can be measured
            start -= 1
        if moved and len(path) - start > 1:
            self._split(path[start:], moved, trunk if path[-1] == merge else "")
        return moved

    def _step_to_measured(self, commit: str) -> None:
        """Name what changed between a commit and its parent or, behind skipped ones, its nearest measured first ancestor."""
        before = commit
        while (parents := self.graph.parents[before]) and not self.graph.has(before, self.good):
            before = parents[0]
            if self.states(before) is not None:
                if moved := self._differing(before, commit, self.cells):
                    self._step_here(before, commit, moved)
                return

    def _step_here(self, before: str, commit: str, moved: frozenset[C]) -> None:
        """The same, once the cells that moved are known. What a merge brought has its own step."""
        for parent in self.graph.parents[commit][1:]:
            branch = self.graph.branch(parent, before)
            if len(branch) > 1 and all(self.states(end) is not None for end in (branch[0], parent)):
                moved -= self._differing(branch[0], parent, moved)
        is_parent = before in self.graph.parents[commit]
        self._name([commit] if is_parent else self.graph.between(before, commit), before, commit, moved)

    def _name(self, commits: Sequence[str], before: str, after: str, cells: Collection[C]) -> None:
        if any(self.graph.has(commit, self.good) for commit in commits):
            # One of these may have done it before the range began. Then the range's start has it too.
            cells = self._differing(self.good, after, cells)
        if cells and not self.graph.has(after, self.good):
            self._found.setdefault((tuple(commits), before, after), set()).update(cells)

    def _sorted(self) -> list[Step[C]]:
        order = list(self.graph.parents)
        steps = [Step(*key, frozenset(cells)) for key, cells in self._found.items()]
        return sorted(steps, key=lambda step: order.index(step.after))
