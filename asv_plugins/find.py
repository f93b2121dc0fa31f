"""Let `asv find` say how far its answer can be trusted.

To asv, a cell that failed in one commit is no difference, because the cells that were not asked for are NaN, which counts as
a figure, or have figures that an earlier run stored, which it compares too. So a commit that fails in the middle of a range
sends the search to the wrong side, without a word, and another cell's change is found instead. Here only the cells that were
asked for have figures, and absent ones are failures, past which asv moves an end of its range. A commit that does not build
is a failure too, at which asv would stop. Afterwards the output says which commits failed, what the figure was before and at
the commit that asv names, and which commits in between have none.

asv has no hook for this, so this module wraps the function of the command, and those with which it prepares environments and
measures a commit.
"""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from unittest.mock import patch

from asv.commands import find
from asv.commands.find import Find
from asv.console import log
from asv.util import ProcessError

from tlbench.metrics.change import HALF_A_BIT
from tlbench.report.stored import is_nan

NAMED = re.compile(r"Greatest \w+ found: (\w+)")
"""What asv logs at the end."""

Figures = Sequence[float | None]
"""A commit's figures, one a cell; None failed, is not applicable or was not asked for."""

_run, _run_benchmarks = Find.run.__func__, find.run_benchmarks


class Search(logging.Handler):
    """What a search measured and named.

    Attributes:
        figures: by commit.
        named: the first characters of the hash that asv names, or "".
        unbuilt: the commits that could not be built or installed.
    """

    def __init__(self, figures: Mapping[str, Figures] | None = None, named: str = "", unbuilt: Iterable[str] = ()) -> None:
        super().__init__()
        self.figures, self.named, self.unbuilt = dict(figures or {}), named, set(unbuilt)

    def emit(self, record: logging.LogRecord) -> None:
        """Read the commit from asv's log."""
        if match := NAMED.match(str(record.msg)):
            self.named = match[1]

    def goes_on(self, install: Callable[..., None]) -> Callable[..., None]:
        """Install a commit like an environment's own function does, and remember it if that fails."""

        def install_project(conf: Any, repo: Any, commit: str) -> None:
            try:
                install(conf, repo, commit)
            except ProcessError:
                log.error(f"{repo.get_decorated_hash(commit, 8)} does not build, so the search moves past it")
                self.unbuilt.add(commit)

        return install_project

    def run_benchmarks(self, benchmarks: Any, env: Any, results: Any, **named: Any) -> Any:
        """Measure a commit like asv's function does. Figures that are absent or were not asked for are None."""
        ((name, benchmark),) = benchmarks.items()
        is_unbuilt = results.commit_hash in self.unbuilt
        done = results if is_unbuilt else _run_benchmarks(benchmarks, env, results=results, **named)
        measured = _Measured(done, benchmarks.benchmark_selection.get(name), is_unbuilt)
        self.figures[results.commit_hash] = measured.get_result_value(name, benchmark["params"])
        return measured


class _Measured:
    """asv's results of a commit, in which only the cells that were asked for have figures, and a NaN is None.

    Args:
        asked: the indices of those cells; None for all.
        is_unbuilt: whether the commit could not be built, so that no cell has a figure and nothing is saved.
    """

    def __init__(self, results: Any, asked: Sequence[int] | None, is_unbuilt: bool) -> None:
        self._results, self._asked, self._is_unbuilt = results, asked, is_unbuilt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._results, name)

    @property
    def errcode(self) -> Mapping[str, int]:
        return defaultdict(int) if self._is_unbuilt else self._results.errcode

    def save(self, folder: str) -> None:
        if not self._is_unbuilt:
            self._results.save(folder)

    def get_result_value(self, key: str, params: Any) -> list[float | None]:
        if self._is_unbuilt:
            return [None] * math.prod(map(len, params))
        values = enumerate(self._results.get_result_value(key, params))
        return [
            None if is_nan(value) or (self._asked is not None and i not in self._asked) else value for i, value in values
        ]


def run(cls: Any, /, conf: Any, range_spec: str, bench: str, invert: bool = False, **named: Any) -> Any:
    """Search like asv's function does, then say what its answer rests on."""
    repo, set_up = find.get_repo(conf), find.Setup.run
    search = Search()

    def prepare(**named: Any) -> Any:
        environments = set_up(**named)
        for environment in environments:
            environment.install_project = search.goes_on(environment.install_project)
        return environments

    logger = logging.getLogger()
    logger.addHandler(search)
    if note := about_range(range_spec):
        log.warning(note)
    try:
        with patch.object(find, "run_benchmarks", search.run_benchmarks), patch.object(find.Setup, "run", prepare):
            return _run(cls, conf, range_spec, bench, invert=invert, **named)
    finally:
        logger.removeHandler(search)
        commits = repo.get_hashes_from_range(range_spec)[::-1] if search.figures or search.named else []
        for sentence in grounds(commits, search, lambda commit: repo.get_decorated_hash(commit, 8), invert):
            log.warning(sentence)


def about_range(text: str) -> str:
    """A note if a range leaves out the commit that it begins with, as ``A..B`` does. "" otherwise."""
    begin, dots, end = text.partition("..")
    if not dots or not begin or re.search(r"[\^~]\d*$", begin):
        return ""
    return (
        f"{text} leaves out {begin} itself, which is not measured: if the first commit after it is the cause, "
        f"another one is named. Search {begin}^..{end} instead"
    )


def grounds(commits: Sequence[str], search: Search, name: Callable[[str], str], invert: bool) -> list[str]:
    """What was measured around the commit that asv names, in sentences.

    Args:
        commits: the range, oldest first.
        name: spells a commit.
        invert: whether the search was for a decrease.
    """
    figures = {commit: found for commit, found in search.figures.items() if any(value is not None for value in found)}
    unbuilt = [commit for commit in commits if commit in search.unbuilt]
    failed = [commit for commit in commits if commit in search.figures and commit not in (*figures, *unbuilt)]
    sentences = []
    if unbuilt:
        sentences.append(f"No figure at {_listed(map(name, unbuilt))}: it does not build, and the search moved past")
    if failed:
        sentences.append(
            f"No figure at {_listed(map(name, failed))}: it failed there or is not applicable, and the search moved past"
        )
    position = next((i for i, commit in enumerate(commits) if search.named and commit.startswith(search.named)), None)
    if position is None:  # asv gave up
        position = _of_largest_step(commits, figures, invert)
        if position is None:
            return sentences
    culprit = commits[position]
    before = [i for i in range(position) if commits[i] in figures]
    if culprit not in figures or not before:
        what = "itself" if culprit not in figures else "and no commit before it"
        return [*sentences, f"Not verified: asv named {name(culprit)} {what} without a figure. Search a longer range"]
    last = commits[before[-1]]
    unknown = commits[before[-1] + 1 : position]
    bits, cell = _largest(figures[last], figures[culprit], invert)
    values = f"{figures[last][cell]:.6g} at {name(last)} and {figures[culprit][cell]:.6g} at {name(culprit)}"
    if bits < HALF_A_BIT:
        conclusion = f"No cause found: the figure is {values}, which is no change of half a bit{_hint(figures, commits)}"
    elif unknown:
        conclusion = (
            f"The figure is {values}; {len(unknown)} commits in between have none, so the cause is {name(culprit)} or one "
            f"of them: {_listed(map(name, unknown))}"
        )
    else:
        conclusion = f"Verified: the figure is {values}, and no commit lies in between"
    return [*sentences, conclusion]


def _of_largest_step(commits: Sequence[str], figures: Mapping[str, Figures], invert: bool) -> int | None:
    """The index of the commit whose figure differs most from that of the last commit before it that has one."""
    measured = [i for i, commit in enumerate(commits) if commit in figures]
    steps = {j: _largest(figures[commits[i]], figures[commits[j]], invert)[0] for i, j in itertools.pairwise(measured)}
    return max(steps, key=steps.__getitem__, default=None)


def _largest(before: Figures, after: Figures, invert: bool) -> tuple[float, int]:
    """The largest change of a cell in bits, upwards or downwards, and the cell's index. -inf if no cell has both figures."""
    pairs = {i: (a, b) for i, (a, b) in enumerate(zip(before, after, strict=True)) if a is not None and b is not None}
    changes = {i: (_bits(b, a) if invert else _bits(a, b)) for i, (a, b) in pairs.items()} or {0: -math.inf}
    cell = max(changes, key=changes.__getitem__)
    return changes[cell], cell


def _bits(before: float, after: float) -> float:
    if before == after:
        return 0.0
    if min(before, after) <= 0:
        return math.copysign(math.inf, after - before)
    return math.log2(after / before)


def _hint(figures: Mapping[str, Figures], commits: Sequence[str]) -> str:
    if commits[0] in figures and commits[-1] in figures and figures[commits[0]] == figures[commits[-1]]:
        return ". The range ends as it begins: does it begin before the cause?"
    return ""


def _listed(names: Any, most: int = 5) -> str:
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


Find.run = classmethod(run)
