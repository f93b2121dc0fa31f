"""asv's stored results as typed rows, read through asv's own library."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from tlbench.arithmetic import SHARED_MACHINE, is_shared
from tlbench.environments.metadata import SUFFIX, Metadata, read
from tlbench.exceptions import BadInput
from tlbench.grid import Cell, Space, Statistic
from tlbench.metrics.verdict import JudgedBy, Verdict, word_of
from tlbench.questions.registry import ACCURACY
from tlbench.records import endings
from tlbench.records.endings import Asked, Ending
from tlbench.records.outcome import Kind

BENCHMARKS: dict[Space, str] = {
    Space.ORIGIN: "accuracy.Origin",
    Space.PROBABILITY: "accuracy.Probability",
    Space.LOGIT: "accuracy.Logit",
}
CHANGED_WEIGHTS = "accuracy.Processing.track_changed_weights"


K = TypeVar("K")

TRUTH = "truth.TransformerLens"
NOISE_FLOOR = "noise_floor.NoiseFloor"


class Figure(StrEnum):
    """What is stored of a cell against the golden, by the name of its track."""

    RATIO = "error_ratio"
    CORRELATION = "error_correlation"
    BITS_LOST = "bits_lost"
    KL_NATS = "kl_nats"
    TOP1_FLIPS = "top1_flips"
    TOP1_TIES = "top1_ties"
    NONFINITE = "nonfinite"
    SHIFT_SPREAD = "shift_spread"
    TOTAL_RMS = "total_rms"
    DIFFERENCE_RMS = "difference_rms"
    DIFFERENCE_P99 = "difference_p99"


class State(StrEnum):
    """How a cell stands in asv's results: null is a failure, and NaN what the kept ending says, else not measured."""

    MEASURED = "measured"
    FAILED = "failed"
    UNJUDGED = "unjudged"
    """HuggingFace's own logits are not finite, so that there is no error to state."""
    NOT_APPLICABLE = "n/a"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Row:
    """One cell in one space at one commit.

    Attributes:
        commit: the full hash.
        tag: the release's name, or "".
        cell: which cell.
        space: which space the errors are in.
        state: whether there is a figure.
        values: the figure of each statistic; empty unless measured.
        no_op: whether the option was found to change no weight; None where that was not measured.
    """

    commit: str
    tag: str
    cell: Cell
    space: Space
    state: State
    values: dict[Statistic, float] = field(default_factory=dict)
    no_op: bool | None = None


@dataclass(frozen=True)
class TruthRow:
    """One cell against the golden at one commit.

    Attributes:
        commit: the full hash.
        tag: the release's name, or "".
        cell: which cell.
        figures: those that there are.
        floor: the largest of the cell's own noise floors, in nats; None where it was not measured.
        verdict: one word.
        judged_by: what the verdict rests on.
        reason: why it does not rest on a golden and a reference that is right, or why there is no figure; else "".
    """

    commit: str
    tag: str
    cell: Cell
    figures: dict[Figure, float]
    floor: float | None
    verdict: Verdict
    judged_by: JudgedBy = JudgedBy.GOLDEN
    reason: str = ""


@dataclass(frozen=True)
class Commit:
    """A commit that has results: its hash, the time in ms since 1970, and its tag or ""."""

    hash: str
    date_ms: int
    tag: str

    def __str__(self) -> str:
        return self.tag or self.hash[:8]


class StoredResults:
    """The results that a configuration of asv points to.

    Args:
        config: the configuration file; by default asv's own choice in the current folder.
        machine: whose results; by default, at each commit, the errors in the shared arithmetic if there are any, else those
            of the machine that measured errors last, and the costs of the one that measured costs last.

    Raises:
        BadInput: if there is no configuration, or no results.
    """

    def __init__(self, config: Path | None = None, machine: str = "") -> None:
        from asv.config import Config
        from asv.util import UserError

        try:
            self._conf = Config.load(str(config) if config else None)
        except UserError as error:
            raise BadInput(
                f"{str(error).strip()} Run this in a folder with asv.conf.json, or name one with --config."
            ) from error
        self._folder = (config.resolve().parent if config else Path.cwd()).resolve()
        self._machine = machine

    @cached_property
    def _results(self) -> list[Any]:
        from asv.results import iter_results

        folder = self._folder / self._conf.results_dir
        with _inside(self._folder):
            found = list(iter_results(str(folder))) if folder.is_dir() else []
        if not found:
            raise BadInput(f"there are no results under {folder}: run `asv run` or `make bench` first")
        if not self._machine:
            return found
        of_machine = [result for result in found if result.params["machine"] == self._machine]
        if not of_machine:
            known = ", ".join(sorted({result.params["machine"] for result in found}))
            raise BadInput(f"there are no results of machine {self._machine!r}: choose one of {known}")
        return of_machine

    @cached_property
    def commits(self) -> list[Commit]:
        """The commits that have results, oldest first."""
        tags = self._tags()
        unique = {result.commit_hash: int(result.date) for result in self._results}
        commits = [Commit(hash_, date, tags.get(hash_, "")) for hash_, date in unique.items()]
        return sorted(commits, key=lambda commit: (commit.date_ms, commit.hash))

    def commit(self, name: str | None) -> Commit:
        """The commit of that tag or hash prefix; without a name, the newest.

        Raises:
            BadInput: if there is none, or more than one.
        """
        if name is None:
            return self.commits[-1]
        found = [c for c in self.commits if c.tag == name or (len(name) >= 4 and c.hash.startswith(name.lower()))]
        if len(found) != 1:
            known = ", ".join(map(str, self.commits))
            many = "no results" if not found else "more than one commit with results"
            raise BadInput(f"{name!r} names {many}: choose one of {known}")
        return found[0]

    def machine(self, commit: Commit, benchmark: str = "") -> str:
        """The machine whose results are read at a commit; with a benchmark, of those that have any of its kind."""
        return self.machines(commit, benchmark)[-1]

    def machines(self, commit: Commit, benchmark: str = "") -> list[str]:
        """The machines that have results of a commit, the one to read at the end: the shared arithmetic or the last.

        Args:
            commit: which.
            benchmark: its name. Machines that have any of its kind, errors or costs; where none has, all of them.
        """

        def order(machine: str) -> tuple[bool, bool, int, str]:
            started = (
                start for result in here if result.params["machine"] == machine for start in result.started_at.values()
            )
            ranks = (False, False) if _is_cost(benchmark) else (is_shared(machine), machine == SHARED_MACHINE)
            return *ranks, max((int(start) for start in started if start), default=0), machine

        here = [result for result in self._results if result.commit_hash == commit.hash]
        kind = _is_cost(benchmark)
        of_kind = [r for r in here if benchmark and any(_is_cost(name) is kind for name in r.get_all_result_keys())]
        return sorted({result.params["machine"] for result in of_kind or here}, key=order)

    def environments(self, commit: Commit) -> list[Metadata]:
        """What the results of a commit were measured in, the last at the end.

        Raises:
            BadInput: if that was not kept.
        """
        folder = self._folder / self._conf.results_dir / self.machine(commit)
        found = [metadata for path in sorted(folder.glob(f"{commit.hash[:8]}-*{SUFFIX}")) for metadata in read(path)]
        if not found:
            raise BadInput(
                f"the results of {commit} on {folder.name} were stored before environments were kept: `asv run` it again"
            )
        return found

    def rows(self, commit: Commit, space: Space) -> list[Row]:
        """Every cell of a commit in one space, in the grid's order."""
        names = {statistic: f"{BENCHMARKS[space]}.track_{statistic}" for statistic in Statistic}
        values_of = names[Statistic.MAX]
        values: dict[Statistic, dict[Cell, float | None]] = {
            statistic: self._values(commit, name) for statistic, name in names.items()
        }
        changed = self._values(commit, CHANGED_WEIGHTS)
        ended = self.endings(commit, values_of)
        rows = []
        for cell in values[Statistic.MAX]:
            figures = {statistic: found.get(cell, math.nan) for statistic, found in values.items()}
            count = changed.get(cell)
            no_op = None if count is None or math.isnan(count) else count == 0 and any(cell.option.flags().values())
            rows.append(_row(commit, cell, space, figures, no_op, ended.get((ACCURACY.name, str(cell)))))
        return rows

    def truth_rows(self, commit: Commit) -> list[TruthRow]:
        """Every cell of a commit against the golden, in the grid's order."""
        severities = self._values(commit, f"{TRUTH}.track_verdict")
        figures = {figure: self._values(commit, f"{TRUTH}.track_{figure}") for figure in Figure}
        floors = [self._values(commit, f"{NOISE_FLOOR}.track_{name}") for name in ("repeat", "threads", "batch")]
        changed = self._values(commit, CHANGED_WEIGHTS)
        ended = self.endings(commit, f"{TRUTH}.track_verdict")
        rows = []
        for cell, severity in severities.items():
            own = {figure: float(value) for figure, of_all in figures.items() if is_figure(value := of_all.get(cell))}
            floor = [float(value) for of_all in floors if is_figure(value := of_all.get(cell))]
            no_op = changed.get(cell) == 0 and any(cell.option.flags().values())
            ending = ended.get((ACCURACY.name, str(cell)))
            verdict = _verdict(severity, no_op, ending)
            judged_by = ending.judged_by if ending else JudgedBy.GOLDEN
            reason = ending.reason if ending else ""
            rows.append(TruthRow(commit.hash, commit.tag, cell, own, max(floor, default=None), verdict, judged_by, reason))
        return rows

    def endings(self, commit: Commit, benchmark: str) -> Mapping[Asked, Ending]:
        """How cells ended that have no figure or need a word, on the machine whose values of a benchmark are read.

        Raises:
            BadInput: if what was kept is damaged.
        """
        folder = self._folder / self._conf.results_dir / self.machine(commit, benchmark)
        found: dict[Asked, Ending] = {}
        for path in sorted(folder.glob(f"{commit.hash[:8]}-*{endings.SUFFIX}")):
            found |= endings.read(path)
        return found

    def _values(self, commit: Commit, name: str) -> dict[Cell, float | None]:
        return self.values(commit, name, Cell)

    def values(self, commit: Commit, name: str, cell: Callable[..., K]) -> dict[K, float | None]:
        """What a benchmark found at a commit: None where it failed, NaN where it was skipped or not run.

        Args:
            commit: at which commit.
            name: the benchmark's.
            cell: what makes a cell of its parameters, which are all text.
        """
        found: dict[K, float | None] = {}
        machine = self.machine(commit, name)
        for result in self._results:
            here = (result.commit_hash, result.params["machine"]) == (commit.hash, machine)
            if not here or name not in result.get_all_result_keys():
                continue
            # The parameters are those that the result was stored with: what a catalogue names today was not measured then.
            params = result.get_result_params(name)
            points = itertools.product(*params)
            for point, value in zip(points, result.get_result_value(name, params), strict=True):
                key = cell(*(text.strip("'\"") for text in point))
                if key not in found or _is_nan(found[key]):
                    found[key] = value
        return found

    def _tags(self) -> dict[str, str]:
        """Commit hash to tag, from the clone that asv keeps or the repository itself if it is local."""
        for candidate in (self._folder / self._conf.repo, self._folder / self._conf.project):
            if candidate.is_dir():
                command = ["git", "-C", str(candidate), "for-each-ref", "refs/tags"]
                wanted = "--format=%(refname:strip=2) %(objectname) %(*objectname)"
                done = subprocess.run([*command, wanted], capture_output=True, text=True, check=False)
                pairs = [line.split() for line in done.stdout.splitlines()]
                return {words[-1]: words[0] for words in pairs}
        return {}


def _is_cost(benchmark: str) -> bool:
    return benchmark.startswith("runtime.")


def _row(
    commit: Commit,
    cell: Cell,
    space: Space,
    figures: dict[Statistic, float | None],
    no_op: bool | None,
    ending: Ending | None,
) -> Row:
    state = State.MEASURED
    if any(value is None for value in figures.values()):
        state = State.FAILED
    elif any(_is_nan(value) for value in figures.values()):
        states = {Kind.NOT_APPLICABLE: State.NOT_APPLICABLE, Kind.MEASURED: State.UNJUDGED}
        state = states.get(ending.kind, State.NOT_MEASURED) if ending else State.NOT_MEASURED
    values = {s: float(v) for s, v in figures.items() if v is not None} if state is State.MEASURED else {}
    return Row(commit.hash, commit.tag, cell, space, state, values, no_op)


def _verdict(severity: float | None, no_op: bool, ending: Ending | None) -> Verdict:
    if severity is None:
        return Verdict.FAILED
    if _is_nan(severity):
        return Verdict.NOT_APPLICABLE if ending and ending.kind is Kind.NOT_APPLICABLE else Verdict.NOT_MEASURED
    word = word_of(severity)
    return Verdict.NO_OP if no_op and word.passes else word


def is_figure(value: float | None) -> TypeGuard[float]:
    """Whether a stored value is neither a failure nor a skip."""
    return value is not None and not _is_nan(value)


def _is_nan(value: float | None) -> bool:
    return isinstance(value, float) and math.isnan(value)


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """asv reads its paths relative to the current folder, which its own commands change to."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
