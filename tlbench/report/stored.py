"""asv's stored results as typed rows, read through asv's own library."""

from __future__ import annotations

import itertools
import math
import subprocess
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import chdir, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from packaging.version import InvalidVersion, Version

from tlbench.arithmetic import SHARED_MACHINE, is_shared
from tlbench.environments.metadata import SUFFIX, Metadata, read
from tlbench.exceptions import BadInput, choices
from tlbench.grid import Cell, Space, Statistic, place, words_of
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
UNTAGGED = "0.0.0"
"""TransformerLens's version of itself wherever it is built from git."""
NEAREST = 2
"""How many commits to name beside one that has no results."""

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
class Absence:
    """Why a cell is not applicable, and the machine that noticed."""

    reason: str
    machine: str


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

    Each figure has one machine. Unless one is named it is chosen by what was measured when, as asv's results files say, and
    never by the times of files: of the machines with figures of that benchmark at that commit, the shared arithmetic's comes
    first if errors are asked for, then the one that measured it last.

    Args:
        config: the configuration file; by default asv's own choice in the current folder.
        machine: the only machine whose results to read; "" for all.

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
        self._set((config.resolve().parent if config else Path.cwd()).resolve(), machine, None)

    @classmethod
    def of(cls, conf: Any, folder: Path, results: Sequence[Any] | None = None) -> StoredResults:
        """The results of a configuration that asv has read, whose paths are relative to a folder.

        Args:
            results: asv's results that were read already, instead of all under that folder.
        """
        stored = cls.__new__(cls)
        stored._conf = conf
        stored._set(folder.resolve(), "", results)
        return stored

    def _set(self, folder: Path, machine: str, results: Sequence[Any] | None) -> None:
        self._folder, self._machine, self._read = folder, machine, results
        self._measured: dict[tuple[int, str], bool] = {}

    @property
    def folder(self) -> Path:
        """The folder of asv's configuration."""
        return self._folder

    @property
    def results_folder(self) -> Path:
        """Where asv keeps its results."""
        return self._folder / str(self._conf.results_dir)

    @cached_property
    def repository(self) -> Path | None:
        """The repository of the benchmarked project: itself if it is local, else asv's clone; None without either."""
        candidates = (self._folder / self._conf.repo, self._folder / self._conf.project)
        return next((candidate for candidate in candidates if candidate.is_dir()), None)

    @cached_property
    def _results(self) -> list[Any]:
        from asv.results import iter_results

        folder = self.results_folder
        if self._read is not None:
            results = [*self._read]
        else:
            with chdir(self._folder):  # asv reads its paths relative to the current folder
                results = list(iter_results(str(folder))) if folder.is_dir() else []
        if not results:
            raise BadInput(f"no results under {folder}: run `asv run` or `make bench` first")
        of_machine = [result for result in results if self._machine in ("", result.params["machine"])]
        if not of_machine:
            known = sorted({result.params["machine"] for result in results})
            raise BadInput(f"no results of machine {self._machine!r}: {choices(self._machine, known)}")
        return of_machine

    def tracks(self, commit: Commit, benchmark: str, machine: str) -> list[str]:
        """The tracks of a benchmark class that have a figure or a failure at a commit on a machine, without the class."""
        here = [r for r in self._results if (r.commit_hash, r.params["machine"]) == (commit.hash, machine)]
        names = sorted({name for r in here for name in r.get_all_result_keys() if name.startswith(f"{benchmark}.track_")})
        return [name.split(".track_")[1] for name in names if any(self._has(result, name) for result in here)]

    def classes(self, commit: Commit) -> list[str]:
        """The benchmark classes that have a figure or a failure at a commit on any machine."""
        here = [result for result in self._results if result.commit_hash == commit.hash]
        names = {_class(name) for result in here for name in result.get_all_result_keys() if ".track_" in name}
        return [name for name in sorted(names) if self.has(commit, name)]

    @cached_property
    def models(self) -> list[str]:
        """Every model that any result has a place for, measured or not."""
        tracks = [(result, name) for result in self._results for name in result.get_all_result_keys()]
        names = (result.get_result_params(name)[0] for result, name in tracks if result.get_result_params(name))
        return sorted({_plain(words).split()[0] for of_track in names for words in of_track})

    @cached_property
    def commits(self) -> list[Commit]:
        """The commits with results, oldest first."""
        unique = {result.commit_hash: int(result.date) for result in self._results}
        commits = [Commit(hash_, date, self.tags.get(hash_, "")) for hash_, date in unique.items()]
        return sorted(commits, key=lambda commit: (commit.date_ms, commit.hash))

    def commit(self, name: str | None) -> Commit:
        """The commit with that tag (with or without its v) or hash prefix; without a name, the newest.

        Raises:
            BadInput: if no commit with results has that name, with the nearest that have; or if several have.
        """
        if not name:
            return self.commits[-1]
        hashes = [c for c in self.commits if len(name) >= 4 and c.hash.startswith(name.lower())]
        matches = [c for c in self.commits if c.tag in (name, f"v{name}")] or hashes
        if len(matches) > 1:
            raise BadInput(f"{name!r} matches {len(matches)} commits: choose one of {_listed(c.hash[:12] for c in matches)}")
        if not matches:
            is_known = not {name, f"v{name}"}.isdisjoint(self.tags.values())
            problem = f"{name} was not measured" if is_known else f"{name!r} matches no commits with results"
            several = f", the nearest of {len(self.commits)}" if len(self.commits) > NEAREST else ""
            hint = "; `cd releases` has the releases" if (self._folder / "releases" / "asv.conf.json").is_file() else ""
            tag = name if name.startswith("v") else f"v{name}"
            words = f', or measure a part: `asv run --bench "(accuracy|truth).*zoo-gpt2" "{tag}^!"`' if is_known else ""
            raise BadInput(f"{problem}: choose one of {_listed(map(str, self._nearest(name)))}{several}{words}{hint}")
        return matches[0]

    def _nearest(self, name: str) -> list[Commit]:
        """The commits with results before and after a release; the newest ones if the name is no version."""
        with suppress(InvalidVersion):
            wanted, tagged = Version(name), [c for c in self.commits if version_of(c.tag)]
            before = [c for c in tagged if (version_of(c.tag) or wanted) < wanted]
            after = [c for c in tagged if c not in before]
            if tagged:
                return [*before[-1:], *after[:1]]
        return self.commits[-NEAREST:]

    def machine(self, commit: Commit, benchmark: str = "") -> str:
        """The machine whose results are read at a commit: the last of :meth:`machines`."""
        return self.machines(commit, benchmark)[-1]

    def machines(self, commit: Commit, benchmark: str = "") -> list[str]:
        """The machines with results of a commit, ordered so that the one to read is last.

        With a track, its class or module (``runtime.``), only those with a figure or a failure there. If none has, all.
        """
        here = [result for result in self._results if result.commit_hash == commit.hash]
        of_kind = [result for result in here if benchmark and self._has(result, _class(benchmark))]
        is_cost = benchmark.startswith(COSTS)

        def order(machine: str) -> tuple[bool, bool, float, str]:
            last = self._last_start(of_kind or here, machine, _class(benchmark) if of_kind else "")
            return not is_cost and is_shared(machine), not is_cost and machine == SHARED_MACHINE, last, machine

        return sorted({result.params["machine"] for result in of_kind or here}, key=order)

    def common_machine(self, commits: Collection[Commit], benchmark: str) -> str:
        """The machine to read for all these commits, so that no comparison mixes two.

        Raises:
            BadInput: if no machine has measured that benchmark at all of them.
        """
        *_, last = commits
        ordered = [name for name in self.machines(last, benchmark) if self.has(last, benchmark, name)]
        common = [name for name in ordered if all(self.has(commit, benchmark, name) for commit in commits)]
        if not common:
            words = [f"{commit}: {_listed(self._having(commit, benchmark)) or 'none'}" for commit in commits]
            problem = f"no machine has measured {_class(benchmark)} at each commit ({'; '.join(words)})"
            raise BadInput(f"{problem}: to compare two machines, write MACHINE:COMMIT for each")
        return common[-1]

    def has(self, commit: Commit, benchmark: str, machine: str = "") -> bool:
        """Whether a benchmark has a figure or a failure at a commit, on one machine or any."""
        return any(machine in ("", name) for name in self._having(commit, benchmark))

    def _having(self, commit: Commit, benchmark: str) -> list[str]:
        prefix = _class(benchmark)
        here = [result for result in self._results if result.commit_hash == commit.hash]
        return sorted({result.params["machine"] for result in here if self._has(result, prefix)})

    def _has(self, result: Any, prefix: str) -> bool:
        key = (id(result), prefix)
        if key not in self._measured:
            names = [name for name in result.get_all_result_keys() if name.startswith(prefix)]
            values = (result.get_result_value(name, result.get_result_params(name)) for name in names)
            self._measured[key] = any(not is_nan(value) for of_track in values for value in of_track)
        return self._measured[key]

    def measured_at(self, commit: Commit, benchmark: str, machine: str) -> datetime | None:
        """When a machine last started to measure a benchmark at a commit, as asv's results say; None if they do not."""
        here = [result for result in self._results if result.commit_hash == commit.hash]
        last = self._last_start(here, machine, _class(benchmark))
        return datetime.fromtimestamp(last / 1000, UTC) if last else None

    @staticmethod
    def _last_start(results: Iterable[Any], machine: str, prefix: str) -> float:
        """In ms since 1970; 0 if it is not known."""
        own = (result.started_at for result in results if result.params["machine"] == machine)
        return max((float(at) for starts in own for name, at in starts.items() if at and name.startswith(prefix)), default=0)

    def environments(self, commit: Commit, machine: str = "") -> list[Metadata]:
        """The environments that the results of a commit were measured in, last run last; BadInput if none is stored."""
        machine = machine or self.machine(commit)
        found = [metadata for path in self._beside(commit, SUFFIX, machine) for metadata in read(path)]
        if not found:
            raise BadInput(f"no environment is stored for the results of {commit} on {machine}: `asv run` it again")
        return found

    def endings(self, commit: Commit, benchmark: str = "", machine: str = "") -> Mapping[Asked, Ending]:
        """How cells without a figure ended, and notes on verdicts, on a machine or the one that is read for a benchmark."""
        found: dict[Asked, Ending] = {}
        for path in self._beside(commit, endings.SUFFIX, machine or self.machine(commit, benchmark)):
            found |= endings.read(path)
        return found

    def not_applicable(self, commit: Commit, machine: str) -> Mapping[str, Absence]:
        """Which cells are not applicable on a machine, and why: no such wrapper, option, architecture or device.

        Whichever question noticed. What was noticed in the shared arithmetic, which belongs to no machine, holds for each;
        what was noticed on another machine does not.
        """
        folders = (self._folder / self._conf.results_dir).iterdir()
        names = sorted((f.name for f in folders if is_shared(f.name) or f.name == machine), key=lambda name: name == machine)
        return {
            cell: Absence(ending.reason, name)
            for name in names
            for path in self._beside(commit, endings.SUFFIX, name)
            for (asked, cell), ending in endings.read(path).items()
            if ending.kind is Kind.NOT_APPLICABLE and endings.PART not in asked
        }

    def _beside(self, commit: Commit, suffix: str, machine: str) -> list[Path]:
        """The files with this suffix beside a commit's results."""
        folder = self._folder / self._conf.results_dir / machine
        return sorted(folder.glob(f"{commit.hash[:8]}-*{suffix}"))

    def rows(self, commit: Commit, space: Space, machine: str = "") -> list[Row]:
        """Every cell of a commit in one space, in grid order."""
        machine = machine or self.machine(commit, BENCHMARKS[space])
        tracks = {statistic: f"{BENCHMARKS[space]}.track_{statistic}" for statistic in Statistic}
        by_statistic = {statistic: self.values(commit, track, Cell, machine) for statistic, track in tracks.items()}
        ended, no_ops = self.endings(commit, machine=machine), self._no_ops(commit, machine)
        rows = []
        for cell in by_statistic[Statistic.MAX]:
            figures = {statistic: values.get(cell, math.nan) for statistic, values in by_statistic.items()}
            state = _state(figures.values(), ended.get((ACCURACY.name, str(cell))))
            values = {s: float(value) for s, value in figures.items() if state is State.MEASURED and is_figure(value)}
            rows.append(Row(commit.hash, commit.tag, cell, space, state, values, cell in no_ops))
        return rows

    def truth_rows(self, commit: Commit, machine: str = "") -> list[TruthRow]:
        """Every cell of a commit against the golden, in grid order."""
        machine = machine or self.machine(commit, TRUTH)

        def values(track: str) -> dict[Cell, float | None]:
            return self.values(commit, track, Cell, machine)

        by_figure = {figure: values(f"{TRUTH}.track_{figure}") for figure in Figure}
        floors = [values(f"{NOISE_FLOOR}.track_{name}") for name in ("repeat", "threads", "batch")]
        ended, no_ops = self.endings(commit, machine=machine), self._no_ops(commit, machine)
        rows = []
        for cell, severity in values(f"{TRUTH}.track_verdict").items():
            figures = {figure: float(value) for figure, values in by_figure.items() if is_figure(value := values.get(cell))}
            floor = max((float(value) for values in floors if is_figure(value := values.get(cell))), default=None)
            ending = ended.get((ACCURACY.name, str(cell)))
            basis = (ending.judged_by, ending.reason) if ending else (JudgedBy.GOLDEN, "")
            verdict = _verdict(severity, cell in no_ops, ending)
            rows.append(TruthRow(commit.hash, commit.tag, cell, figures, floor, verdict, *basis))
        return rows

    def _no_ops(self, commit: Commit, machine: str) -> set[Cell]:
        """The cells whose option should have changed weights and changed none."""
        changed = self.values(commit, CHANGED_WEIGHTS, Cell, machine)
        return {cell for cell, count in changed.items() if count == 0 and any(cell.option.flags().values())}

    def values(self, commit: Commit, name: str, cell: Callable[..., K], machine: str = "") -> dict[K, float | None]:
        """The values of a track at a commit, in the order of tables: None if failed, NaN if skipped or not run.

        ``cell`` makes a cell from the words of the benchmark's parameters.
        """
        found: dict[K, float | None] = {}
        machine = machine or self.machine(commit, name)
        for result in self._results:
            here = (result.commit_hash, result.params["machine"]) == (commit.hash, machine)
            if not here or name not in result.get_all_result_keys():
                continue
            # Parameters as stored with the result: today's catalogue may name others.
            params = result.get_result_params(name)
            stored = result.get_result_value(name, params)
            for i, key in _cells(cell, tuple(map(tuple, params))):
                if key not in found or is_nan(found[key]):
                    found[key] = stored[i]
        return found

    @cached_property
    def tags(self) -> dict[str, str]:
        """The tag of each commit hash, from the repository.

        Without one, as in a fresh clone before `tlbench history`, the releases that the results' metadata names.
        """
        if self.repository:
            command = ["git", "-C", str(self.repository), "for-each-ref", "refs/tags"]
            fields = "--format=%(refname:strip=2) %(objectname) %(*objectname)"
            done = subprocess.run([*command, fields], capture_output=True, text=True, check=False)
            return {words[-1]: words[0] for words in map(str.split, done.stdout.splitlines())}
        tags = {}
        for hash_ in {result.commit_hash for result in self._results}:
            paths = (self._folder / self._conf.results_dir).glob(f"*/{hash_[:8]}-*{SUFFIX}")
            versions = {metadata.get("transformer-lens", "") for path in paths for metadata in read(path)} - {"", UNTAGGED}
            if len(versions) == 1:
                tags[hash_] = f"v{versions.pop()}"
        return tags


@lru_cache(maxsize=64)
def _cells(cell: Callable[..., Any], params: tuple[tuple[str, ...], ...]) -> list[tuple[int, Any]]:
    """The cells of a benchmark's parameters in the order of tables, each with its place among asv's values.

    Dozens of tracks have the same parameters.
    """
    points = [words_of(*map(_plain, point)) if point else () for point in itertools.product(*params)]
    models = {model: i for i, model in enumerate(dict.fromkeys(model for model, *_ in filter(None, points)))}

    def order(i: int) -> tuple[Any, ...]:
        return (models[points[i][0]], *map(place, points[i][1:])) if points[i] else ()

    return [(i, cell(*points[i])) for i in sorted(range(len(points)), key=order)]


def _plain(text: str) -> str:
    """A parameter's value: asv stores its repr."""
    return text.strip("'\"")


def _class(benchmark: str) -> str:
    """The benchmark class of a track; a class or a module as it is."""
    return benchmark.split(".track_", maxsplit=1)[0]


def version_of(tag: str) -> Version | None:
    """The version that a tag names; None if it is no release."""
    with suppress(InvalidVersion):
        return Version(tag)
    return None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


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
