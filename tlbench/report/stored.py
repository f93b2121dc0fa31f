"""asv's stored results as typed rows, read through asv's own library."""

from __future__ import annotations

import itertools
import math
import subprocess
from collections.abc import Callable, Collection, Mapping
from contextlib import chdir
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

BENCHMARKS = {space: f"accuracy.{space.capitalize()}" for space in Space}
CHANGED_WEIGHTS = "accuracy.Processing.track_changed_weights"
TRUTH = "truth.TransformerLens"
NOISE_FLOOR = "noise_floor.NoiseFloor"
COSTS = "runtime."
"""Prefix of all benchmarks of costs. All others measure errors."""

K = TypeVar("K")


class Figure(StrEnum):
    """The stored figures against the golden, by the name of their track."""

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
    """Whether asv stores a figure. null is a failure; for NaN the kept ending says why, without one nobody has run it."""

    MEASURED = "measured"
    FAILED = "failed"
    UNJUDGED = "unjudged"
    """HuggingFace's own logits are not finite, so there is no error."""
    NOT_APPLICABLE = "n/a"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Row:
    """One cell in one space at one commit.

    Attributes:
        commit: the full hash.
        tag: the release's name, or "".
        values: the figure of each statistic; empty unless measured.
        no_op: whether the option changed no weight.
    """

    commit: str
    tag: str
    cell: Cell
    space: Space
    state: State
    values: dict[Statistic, float] = field(default_factory=dict)
    no_op: bool = False


@dataclass(frozen=True)
class TruthRow:
    """One cell against the golden at one commit.

    Attributes:
        commit: the full hash.
        tag: the release's name, or "".
        figures: the stored figures; failed, not applicable and not measured ones are missing.
        floor: the largest of the cell's own noise floors, in nats; None if they were not measured.
        judged_by: what the verdict is based on.
        reason: why it is not based on a golden and a correct reference, or why there are no figures; else "".
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
    """A commit with results: its hash, its time in ms since 1970, and its tag or ""."""

    hash: str
    date_ms: int
    tag: str

    def __str__(self) -> str:
        return self.tag or self.hash[:8]


class StoredResults:
    """The results that an asv configuration points to.

    Args:
        config: the configuration file; by default asv's own choice in the current folder.
        machine: the machine whose results to read. By default, at each commit: errors in the shared arithmetic, or of the
            machine that measured errors last; and the costs of the machine that measured costs last.

    Raises:
        BadInput: if there is no configuration. Every method: if there are no results, or a file beside them is damaged.
    """

    def __init__(self, config: Path | None = None, machine: str = "") -> None:
        from asv.config import Config
        from asv.util import UserError

        try:
            self._conf = Config.load(str(config) if config else None)
        except UserError as error:
            advice = "Run this in a folder with asv.conf.json, or name one with --config."
            raise BadInput(f"{str(error).strip()} {advice}") from error
        self._folder = (config.resolve().parent if config else Path.cwd()).resolve()
        self._machine = machine

    @cached_property
    def _results(self) -> list[Any]:
        from asv.results import iter_results

        folder = self._folder / self._conf.results_dir
        with chdir(self._folder):  # asv reads its paths relative to the current folder
            results = list(iter_results(str(folder))) if folder.is_dir() else []
        if not results:
            raise BadInput(f"no results under {folder}: run `asv run` or `make bench` first")
        of_machine = [result for result in results if self._machine in ("", result.params["machine"])]
        if not of_machine:
            known = ", ".join(sorted({result.params["machine"] for result in results}))
            raise BadInput(f"no results of machine {self._machine!r}: choose one of {known}")
        return of_machine

    @cached_property
    def commits(self) -> list[Commit]:
        """The commits with results, oldest first."""
        tags = self._tags()
        unique = {result.commit_hash: int(result.date) for result in self._results}
        commits = [Commit(hash_, date, tags.get(hash_, "")) for hash_, date in unique.items()]
        return sorted(commits, key=lambda commit: (commit.date_ms, commit.hash))

    def commit(self, name: str | None) -> Commit:
        """The commit with that tag or hash prefix, else BadInput; without a name, the newest."""
        if not name:
            return self.commits[-1]
        matches = [c for c in self.commits if c.tag == name or (len(name) >= 4 and c.hash.startswith(name.lower()))]
        if len(matches) != 1:
            known = ", ".join(map(str, self.commits))
            raise BadInput(f"{name!r} matches {len(matches) or 'no'} commits with results: choose one of {known}")
        return matches[0]

    def machine(self, commit: Commit, benchmark: str = "") -> str:
        """The machine whose results are read at a commit: the last of :meth:`machines`."""
        return self.machines(commit, benchmark)[-1]

    def machines(self, commit: Commit, benchmark: str = "") -> list[str]:
        """The machines with results of a commit, ordered so that the one to read is last.

        With a benchmark, only those with results of its kind, errors or costs. If none has any, all of them.
        """
        here = [result for result in self._results if result.commit_hash == commit.hash]
        is_cost = benchmark.startswith(COSTS)
        of_kind = [r for r in here if benchmark and any(is_cost is n.startswith(COSTS) for n in r.get_all_result_keys())]

        def order(machine: str) -> tuple[bool, bool, int, str]:
            own = [result for result in here if result.params["machine"] == machine]
            last = max((int(start) for result in own for start in result.started_at.values() if start), default=0)
            return not is_cost and is_shared(machine), not is_cost and machine == SHARED_MACHINE, last, machine

        return sorted({result.params["machine"] for result in of_kind or here}, key=order)

    def environments(self, commit: Commit) -> list[Metadata]:
        """The environments that the results of a commit were measured in, last run last; BadInput if none is stored."""
        found = [metadata for path in self._beside(commit, SUFFIX) for metadata in read(path)]
        if not found:
            machine = self.machine(commit)
            raise BadInput(f"no environment is stored for the results of {commit} on {machine}: `asv run` it again")
        return found

    def endings(self, commit: Commit, benchmark: str) -> Mapping[Asked, Ending]:
        """How cells without a figure ended, and notes on verdicts, on the machine that is read for a benchmark."""
        found: dict[Asked, Ending] = {}
        for path in self._beside(commit, endings.SUFFIX, benchmark):
            found |= endings.read(path)
        return found

    def _beside(self, commit: Commit, suffix: str, benchmark: str = "") -> list[Path]:
        """The files with this suffix beside a commit's results."""
        folder = self._folder / self._conf.results_dir / self.machine(commit, benchmark)
        return sorted(folder.glob(f"{commit.hash[:8]}-*{suffix}"))

    def rows(self, commit: Commit, space: Space) -> list[Row]:
        """Every cell of a commit in one space, in grid order."""
        tracks = {statistic: f"{BENCHMARKS[space]}.track_{statistic}" for statistic in Statistic}
        by_statistic = {statistic: self.values(commit, track, Cell) for statistic, track in tracks.items()}
        ended, no_ops = self.endings(commit, tracks[Statistic.MAX]), self._no_ops(commit)
        rows = []
        for cell in by_statistic[Statistic.MAX]:
            figures = {statistic: values.get(cell, math.nan) for statistic, values in by_statistic.items()}
            state = _state(figures.values(), ended.get((ACCURACY.name, str(cell))))
            values = {s: float(value) for s, value in figures.items() if state is State.MEASURED and is_figure(value)}
            rows.append(Row(commit.hash, commit.tag, cell, space, state, values, cell in no_ops))
        return rows

    def truth_rows(self, commit: Commit) -> list[TruthRow]:
        """Every cell of a commit against the golden, in grid order."""
        track = f"{TRUTH}.track_verdict"
        by_figure = {figure: self.values(commit, f"{TRUTH}.track_{figure}", Cell) for figure in Figure}
        floors = [self.values(commit, f"{NOISE_FLOOR}.track_{name}", Cell) for name in ("repeat", "threads", "batch")]
        ended, no_ops = self.endings(commit, track), self._no_ops(commit)
        rows = []
        for cell, severity in self.values(commit, track, Cell).items():
            figures = {figure: float(value) for figure, values in by_figure.items() if is_figure(value := values.get(cell))}
            floor = max((float(value) for values in floors if is_figure(value := values.get(cell))), default=None)
            ending = ended.get((ACCURACY.name, str(cell)))
            basis = (ending.judged_by, ending.reason) if ending else (JudgedBy.GOLDEN, "")
            verdict = _verdict(severity, cell in no_ops, ending)
            rows.append(TruthRow(commit.hash, commit.tag, cell, figures, floor, verdict, *basis))
        return rows

    def _no_ops(self, commit: Commit) -> set[Cell]:
        """The cells whose option should have changed weights and changed none."""
        changed = self.values(commit, CHANGED_WEIGHTS, Cell)
        return {cell for cell, count in changed.items() if count == 0 and any(cell.option.flags().values())}

    def values(self, commit: Commit, name: str, cell: Callable[..., K]) -> dict[K, float | None]:
        """The values of a benchmark at a commit: None if failed, NaN if skipped or not run.

        ``cell`` makes a cell from the benchmark's parameters, which are all text.
        """
        found: dict[K, float | None] = {}
        machine = self.machine(commit, name)
        for result in self._results:
            here = (result.commit_hash, result.params["machine"]) == (commit.hash, machine)
            if not here or name not in result.get_all_result_keys():
                continue
            # Parameters as stored with the result: today's catalogue may name others.
            params = result.get_result_params(name)
            points = itertools.product(*params)
            for point, value in zip(points, result.get_result_value(name, params), strict=True):
                key = cell(*(text.strip("'\"") for text in point))
                if key not in found or is_nan(found[key]):
                    found[key] = value
        return found

    def _tags(self) -> dict[str, str]:
        """The tag of each commit hash, from the repository itself if it is local, else from asv's clone."""
        for candidate in (self._folder / self._conf.repo, self._folder / self._conf.project):
            if candidate.is_dir():
                command = ["git", "-C", str(candidate), "for-each-ref", "refs/tags"]
                fields = "--format=%(refname:strip=2) %(objectname) %(*objectname)"
                done = subprocess.run([*command, fields], capture_output=True, text=True, check=False)
                return {words[-1]: words[0] for words in map(str.split, done.stdout.splitlines())}
        return {}


def is_figure(value: float | None) -> TypeGuard[float]:
    """Whether a stored value is a number, not a failure or a skip."""
    return value is not None and not is_nan(value)


def is_nan(value: float | None) -> bool:
    """Whether a stored value is a skip, or was not run."""
    return isinstance(value, float) and math.isnan(value)


def _state(figures: Collection[float | None], ending: Ending | None) -> State:
    if any(value is None for value in figures):
        return State.FAILED
    if not any(is_nan(value) for value in figures):
        return State.MEASURED
    states = {Kind.NOT_APPLICABLE: State.NOT_APPLICABLE, Kind.MEASURED: State.UNJUDGED}
    return states.get(ending.kind, State.NOT_MEASURED) if ending else State.NOT_MEASURED


def _verdict(severity: float | None, no_op: bool, ending: Ending | None) -> Verdict:
    if severity is None:
        return Verdict.FAILED
    if is_nan(severity):
        return Verdict.NOT_APPLICABLE if ending and ending.kind is Kind.NOT_APPLICABLE else Verdict.NOT_MEASURED
    word = word_of(severity)
    return Verdict.NO_OP if no_op and word.passes else word
