"""Every cell's history: the stored figures of the logits at each measured commit, as runs of equal states.

Figures repeat from commit to commit to the last bit, so a history is a few runs. Files are read one at a time, and only
arrays are kept: five hundred commits of three thousand cells fit in a few hundred megabytes.

Results are drawn as one line only if they come from one arithmetic: all machines of the shared arithmetic whose probe is the
same, or one machine of its own. That is a lane.
"""

from __future__ import annotations

import itertools
import math
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from tlbench.arithmetic import SHARED_MACHINE, is_shared
from tlbench.environments.metadata import SUFFIX, Metadata
from tlbench.environments.metadata import read as read_metadata
from tlbench.exceptions import BadInput
from tlbench.grid import Attention, Cell, Dtype, Option, Space, Statistic, Wrapper, in_order
from tlbench.metrics.verdict import SEVERITIES, Verdict
from tlbench.questions.registry import ACCURACY
from tlbench.records import endings
from tlbench.records.outcome import Kind
from tlbench.report.stored import BENCHMARKS, CHANGED_WEIGHTS, NOISE_FLOOR, TRUTH, Figure

MEANS = f"{BENCHMARKS[Space.LOGIT]}.track_"
VERDICT = f"{TRUTH}.track_verdict"
TRACKS = (
    *(f"{MEANS}{statistic}" for statistic in Statistic),
    *(
        f"{TRUTH}.track_{figure}"
        for figure in (
            Figure.RATIO,
            Figure.BITS_LOST,
            Figure.KL_NATS,
            Figure.TOTAL_RMS,
            Figure.DIFFERENCE_RMS,
            Figure.DIFFERENCE_P99,
        )
    ),
    VERDICT,
    CHANGED_WEIGHTS,
)
"""What a history holds of each cell."""
MEAN, MAX, BITS, RATIO, TOTAL = (
    f"{MEANS}{Statistic.MEAN}",
    f"{MEANS}{Statistic.MAX}",
    f"{TRUTH}.track_{Figure.BITS_LOST}",
    f"{TRUTH}.track_{Figure.RATIO}",
    f"{TRUTH}.track_{Figure.TOTAL_RMS}",
)
REFERENCE_BITS = "truth.HuggingFace.track_bits_lost"
FLOORS = tuple(f"{NOISE_FLOOR}.track_{name}" for name in ("repeat", "threads", "batch"))
VERDICTS = tuple(Verdict)
KNOWN_MODULES = ("accuracy.", "truth.", "noise_floor.", "depth.", "context_length.", "hooks.", "gradients.", "runtime.")
"""The benchmark modules whose figures have a page."""

ORDER = {str(word): i for kind in (Dtype, Option, Wrapper) for i, word in enumerate(kind)}

MODEL = re.compile(r"[A-Za-z0-9][\w.-]*")
"""What a model may be called: it names files of the site."""
Words = tuple[tuple[str, ...], ...]
"""The words of each parameter of a grid, in asv's order."""
Key = tuple[str, str, str, str]
"""A cell's words: model, dtype, option, wrapper."""


@dataclass(frozen=True)
class Lane:
    """One arithmetic: a machine's own, or the one that machines share, proved by its probe."""

    name: str
    probe: str = ""

    @property
    def is_shared(self) -> bool:
        """Whether its figures belong to no machine."""
        return is_shared(self.name)

    def __str__(self) -> str:
        return f"{self.name} (probe {self.probe[:8]})" if self.probe else self.name


@dataclass
class Sheet:
    """What one results file holds of the logits."""

    commit: str
    date_ms: int
    machine: str
    lane: Lane
    started_ms: float
    grids: tuple[Words, ...]
    values: np.ndarray
    """[track, cell]; NaN where there is no figure."""
    failed: np.ndarray
    """Whether the cell failed."""
    ended: dict[str, endings.Ending]
    """How cells without a figure of the logits ended."""
    reference_bits: dict[tuple[str, str], float]
    floors: dict[Key, tuple[str, float]]
    metadata: Metadata

    @property
    def cells(self) -> list[Key]:
        """Its cells, in the order of ``values``."""
        return _cells(self.grids)


@lru_cache
def _points(words: Words) -> list[Key]:
    """The cells of a grid, in asv's order."""
    return [(m, d, o, w) for m, d, o, w in itertools.starmap(in_order, itertools.product(*words))]


@lru_cache
def _cells(grids: tuple[Words, ...]) -> list[Key]:
    """The cells of all grids."""
    return list(dict.fromkeys(itertools.chain.from_iterable(map(_points, grids))))


@dataclass(frozen=True)
class State:
    """What is stored of a cell at a commit: its word, its figures by track, and why it has none."""

    verdict: Verdict
    figures: Mapping[str, float]
    reason: str = ""

    @property
    def has_run(self) -> bool:
        """Whether somebody measured it, or tried to."""
        return self.verdict not in (Verdict.NOT_APPLICABLE, Verdict.NOT_MEASURED)


ABSENT = State(Verdict.NOT_MEASURED, {})


@dataclass(frozen=True)
class Run:
    """A state, from one measured commit to another, both included."""

    first: int
    last: int
    state: State
    number: int
    """Equal states of a cell have the same number."""
    machine: str


@dataclass
class CellHistory:
    """All runs of a cell, oldest first."""

    cell: Cell
    runs: list[Run]

    @cached_property
    def _starts(self) -> list[int]:
        return [run.first for run in self.runs]

    def at(self, commit: int) -> Run:
        """The run that holds at a commit."""
        return self.runs[bisect_right(self._starts, commit) - 1]

    @property
    def has_run(self) -> bool:
        """Whether any commit measured it, or tried to."""
        return any(run.state.has_run for run in self.runs)


@dataclass
class History:
    """The histories of all cells in one lane.

    Attributes:
        hashes: the measured commits, oldest first; every other field counts them from zero.
        machines: which machines measured the commits.
        started_ms: when each commit was last measured; 0 if asv does not say.
        metadata: what each commit was last measured in; empty if nobody kept it.
        reference_bits: the bits that HuggingFace itself loses, by commit, model and dtype.
        floors: a cell's largest noise floor in nats: commit, track and figure.
    """

    lane: Lane | None
    hashes: list[str] = field(default_factory=list)
    dates_ms: list[int] = field(default_factory=list)
    started_ms: list[float] = field(default_factory=list)
    machines: list[list[str]] = field(default_factory=list)
    metadata: list[Metadata] = field(default_factory=list)
    cells: list[CellHistory] = field(default_factory=list)
    reference_bits: dict[tuple[int, str, str], float] = field(default_factory=dict)
    floors: dict[Key, tuple[int, str, float]] = field(default_factory=dict)

    @cached_property
    def models(self) -> list[str]:
        """The models with any result, those that need no Hub first, in alphabetical order."""
        return sorted({history.cell.model for history in self.cells if history.has_run})

    @cached_property
    def by_model(self) -> dict[str, list[CellHistory]]:
        """The cells of each model."""
        found: dict[str, list[CellHistory]] = defaultdict(list)
        for history in self.cells:
            found[history.cell.model].append(history)
        return dict(found)


@dataclass
class Read:
    """What was read: one sheet a file, and in sentences what could not be read."""

    sheets: list[Sheet] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def results_files(folder: Path) -> Iterator[Path]:
    """Every results file, by machine."""
    for path in sorted(folder.glob("*/*.json")):
        if path.name != "machine.json":
            yield path


def read(folder: Path, cache: Path | None = None) -> Read:
    """Read every results file of asv's folder. What was read is kept in ``cache``, under a hash of its files."""
    found, current = Read(), set[Path | None]()
    for path in results_files(folder):
        kept = Cached.place(cache, path) if cache else None
        current.add(kept)
        if kept and (cached := Cached.read(kept)):
            found.sheets.append(cached.sheet)
            found.problems += cached.problems
            continue
        try:
            results, problems = load(path), list[str]()
        except BadInput as error:
            found.problems.append(str(error))
            continue
        sheet = _sheet(path, results, problems)
        found.sheets.append(sheet)
        found.problems += problems
        if kept:
            Cached(sheet, problems).write(kept)
    found.problems[:] = dict.fromkeys(found.problems)
    if cache:
        for other in set(cache.glob("*.msgpack")) - current:
            other.unlink()  # of files that are gone or have changed since
    return found


@dataclass(frozen=True)
class Cached:
    """A sheet and what was wrong with it, as kept between two publications."""

    sheet: Sheet
    problems: list[str]

    @staticmethod
    def place(cache: Path, path: Path) -> Path:
        """Where the sheet of a results file is kept: under a hash of that file, of those beside it, and of this module."""
        digest = xxhash.xxh3_128(Path(__file__).read_bytes())
        for part in (path, path.with_suffix(endings.SUFFIX), path.with_suffix(SUFFIX)):
            digest.update(part.read_bytes() if part.is_file() else b"")
            digest.update(b"/")
        return cache / f"{path.parent.name}+{path.stem}+{digest.hexdigest()}.msgpack"

    @classmethod
    def read(cls, kept: Path) -> Cached | None:
        """None if it is not there, or damaged."""
        try:
            return _DECODER.decode(kept.read_bytes())
        except (OSError, msgspec.MsgspecError):
            return None

    def write(self, kept: Path) -> None:
        """Keep it. Half a file is noticed when it is read, and a lost one is made again, so nothing waits for the disk."""
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(_ENCODER.encode(self))


def _encoded(value: Any) -> Any:
    return {"shape": value.shape, "type": value.dtype.str, "bytes": value.tobytes()}


def _decoded(kind: type, value: Any) -> Any:
    return np.frombuffer(value["bytes"], dtype=value["type"]).reshape(value["shape"])


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_encoded)
_DECODER = msgspec.msgpack.Decoder(Cached, dec_hook=_decoded)


def load(path: Path) -> Any:
    """A results file, through asv's library. Raises BadInput, in a sentence, whatever is wrong with it."""
    from asv.results import Results
    from asv.util import UserError

    where = f"{path.parent.name}/{path.name}"
    try:
        results = Results.load(str(path))
    except (UserError, ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError):
        raise BadInput(
            f"{where} is not a whole results file of asv, so nothing of it is shown: restore or delete it"
        ) from None
    machine = results.params.get("machine") if isinstance(results.params, dict) else None
    if machine != path.parent.name:
        raise BadInput(f"{where} says that it is of machine {machine!r}, so nothing of it is shown: move or delete it")
    if not str(results.commit_hash).startswith(path.name[:8]):
        raise BadInput(
            f"{where} is of commit {str(results.commit_hash)[:8]}, so nothing of it is shown: rename or delete it"
        )
    return results


def _sheet(path: Path, results: Any, problems: list[str]) -> Sheet:
    machine = path.parent.name
    where = f"{machine}/{path.name}"
    names = set(results.get_all_result_keys())
    if unknown := sorted({name for name in names if not name.startswith(KNOWN_MODULES)}):
        problems.append(f"{where}: no page shows {', '.join(unknown)}, which the benchmarks here do not have")
    grids = {name: grid for name in TRACKS if name in names and (grid := _grid(results, name)) is not None}
    if bad := [name for name in TRACKS if name in names and name not in grids]:
        problems.append(f"{where}: the parameters of {', '.join(bad)} are not model, dtype, option and wrapper; not shown")
    different = tuple(dict.fromkeys(words for words, _ in grids.values()))
    cells = _cells(different)
    places = {cell: i for i, cell in enumerate(cells)}
    values = np.full((len(TRACKS), len(cells)), np.nan)
    failed = np.zeros(len(cells), dtype=bool)
    for t, name in enumerate(TRACKS):
        if name not in grids:
            continue
        own, stored = grids[name]
        at: Any = slice(None) if len(different) == 1 else [places[cell] for cell in _points(own)]
        try:
            values[t, at] = np.array(stored, dtype=np.float64)  # None becomes NaN
        except (TypeError, ValueError):
            problems.append(f"{where}: {name} holds something that is no number; not shown")
            continue
        if name in (VERDICT, MEAN):
            failed[at] |= np.fromiter((value is None for value in stored), bool, len(stored))
    metadata = _metadata(path, problems)
    try:
        ended = endings.read(beside) if (beside := path.with_suffix(endings.SUFFIX)).is_file() else {}
    except BadInput as error:
        problems.append(_relative(error, path))
        ended = {}
    started = results.started_at
    last = max((float(at) for name, at in started.items() if at and name in names), default=0.0)
    probe = metadata.get("probe", "") if is_shared(machine) else ""
    lane = Lane(SHARED_MACHINE, probe) if probe else Lane(machine)
    return Sheet(
        str(results.commit_hash),
        int(results.date),
        machine,
        lane,
        last,
        different,
        values,
        failed,
        {cell: ending for (question, cell), ending in ended.items() if question == ACCURACY.name},
        _reference_bits(results, names),
        _floors(results, names),
        metadata,
    )


def _relative(error: BadInput, path: Path) -> str:
    return str(error).replace(f"{path.parent.parent}/", "")


def _metadata(path: Path, problems: list[str]) -> Metadata:
    beside = path.with_suffix(SUFFIX)
    try:
        runs = read_metadata(beside) if beside.is_file() else []
    except BadInput as error:
        problems.append(_relative(error, path))
        return {}
    probes = {run.get("probe", "") for run in runs}
    if len(probes) > 1:
        problems.append(
            f"{path.parent.name}/{path.name} was measured under {len(probes)} probes: only the last one's is named"
        )
    return runs[-1] if runs else {}


def _grid(results: Any, name: str) -> tuple[Words, list[float | None]] | None:
    """The parameters' words and the values of a track; None if its parameters are others."""
    words = tuple(tuple(word.strip("'\"") for word in words) for words in results.get_result_params(name) or ())
    if len([word for of_parameter in words for word in " ".join(of_parameter[:1]).split()]) != 4:
        return None
    # As stored. asv's get_result_value maps them to other parameters, which takes most of the time of reading a file.
    stored = results._results[name]
    if stored is None:  # the whole benchmark failed
        return words, [None] * len(_points(words))
    return (words, stored) if len(stored) == len(_points(words)) else None


def _reference_bits(results: Any, names: set[str]) -> dict[tuple[str, str], float]:
    if REFERENCE_BITS not in names:
        return {}
    params = results.get_result_params(REFERENCE_BITS)
    points = itertools.product(*([word.strip("'\"") for word in words] for words in params))
    values = zip(points, results.get_result_value(REFERENCE_BITS, params), strict=True)
    return {
        (point[0], point[1]): value
        for point, value in values
        if point[2] == Attention.EAGER and value is not None and np.isfinite(value)
    }


def _floors(results: Any, names: set[str]) -> dict[Key, tuple[str, float]]:
    found: dict[Key, tuple[str, float]] = {}
    for name in FLOORS:
        if name in names and (grid := _grid(results, name)):
            for cell, value in zip(_points(grid[0]), grid[1], strict=True):
                if value is not None and np.isfinite(value) and value >= found.get(cell, ("", -1.0))[1]:
                    found[cell] = (name, value)
    return found


def lanes(sheets: Sequence[Sheet]) -> dict[Lane, list[Sheet]]:
    """The sheets with figures of the logits by lane: the shared arithmetic first, then the lane of the newest commit."""
    found: dict[Lane, list[Sheet]] = defaultdict(list)
    for sheet in sheets:
        if sheet.failed.any() or not np.isnan(sheet.values).all():
            found[sheet.lane].append(sheet)

    def order(item: tuple[Lane, list[Sheet]]) -> tuple[bool, bool, int, int, str]:
        lane, own = item
        return lane.is_shared, bool(lane.probe), max(s.date_ms for s in own), len(own), str(lane)

    return dict(sorted(found.items(), key=order, reverse=True))


def build(lane: Lane | None, sheets: Sequence[Sheet], problems: list[str]) -> History:
    """The histories of a lane's cells. What cannot be shown as it is becomes a sentence in ``problems``."""
    history = History(lane)
    if not sheets:
        return history
    by_commit: dict[str, list[Sheet]] = defaultdict(list)
    for sheet in sorted(sheets, key=lambda s: (s.date_ms, s.commit, s.machine != SHARED_MACHINE, -s.started_ms)):
        by_commit[sheet.commit].append(sheet)
    history.hashes = list(by_commit)
    named = sorted({cell for sheet in sheets for cell in sheet.cells}, key=_order)
    keys = [key for key in named if MODEL.fullmatch(key[0]) and all(word in ORDER for word in key[1:])]
    if len(keys) < len(named):
        foreign = {word for key in named for word in key[1:] if word not in ORDER}
        foreign |= {key[0] for key in named if not MODEL.fullmatch(key[0])}
        problems.append(
            f"cells of {', '.join(sorted(foreign))} are not shown: no model, dtype, option or wrapper is called so"
        )
    places = {key: i for i, key in enumerate(keys)}
    machines = sorted({sheet.machine for sheet in sheets})
    n, reasons = len(history.hashes), [""]
    values = np.full((len(keys), n, len(TRACKS)), np.nan)
    codes = np.full((len(keys), n), VERDICTS.index(Verdict.NOT_MEASURED), dtype=np.uint8)
    why = np.zeros((len(keys), n), dtype=np.int32)
    machine_of = np.zeros((len(keys), n), dtype=np.uint8)
    numbers: dict[str, int] = {"": 0}
    for i, own in enumerate(by_commit.values()):
        history.dates_ms.append(own[0].date_ms)
        history.started_ms.append(max(sheet.started_ms for sheet in own))
        history.machines.append([sheet.machine for sheet in own])
        history.metadata.append(own[0].metadata)
        for sheet in reversed(own):  # the first overwrites the others
            at = np.fromiter((places.get(cell, -1) for cell in sheet.cells), np.intp, len(sheet.cells))
            code, because = _codes(sheet, problems)
            is_known = (at >= 0) & ((code != VERDICTS.index(Verdict.NOT_MEASURED)) | ~np.isnan(sheet.values).all(axis=0))
            to = at[is_known]
            values[to, i] = sheet.values.T[is_known]
            codes[to, i] = code[is_known]
            machine_of[to, i] = machines.index(sheet.machine)
            why[to, i] = 0
            for place, reason in because.items():
                if at[place] < 0:
                    continue
                if reason not in numbers:
                    numbers[reason] = len(reasons)
                    reasons.append(reason)
                why[at[place], i] = numbers[reason]
            history.reference_bits |= {(i, *of): bits for of, bits in sheet.reference_bits.items()}
            history.floors |= {cell: (i, *floor) for cell, floor in sheet.floors.items()}
    grids = _Grids(values, codes, why, machine_of)
    for k, key in enumerate(keys):
        model, dtype, option, wrapper = key
        cell = Cell(model, Dtype(dtype), Option(option), Wrapper(wrapper))
        history.cells.append(CellHistory(cell, grids.runs(k, reasons, machines)))
    return history


@dataclass(frozen=True)
class _Grids:
    """What is stored of each cell at each commit: ``values`` is [cell, commit, track], all others [cell, commit]."""

    values: np.ndarray
    codes: np.ndarray
    reasons: np.ndarray
    machines: np.ndarray

    @cached_property
    def _differs(self) -> np.ndarray:
        """Whether anything differs from the commit before, to the last bit."""
        bits = self.values.view(np.int64)
        differs = np.ones(self.codes.shape, dtype=bool)
        differs[:, 1:] = (bits[:, 1:] != bits[:, :-1]).any(axis=2)
        for grid in (self.codes, self.reasons, self.machines):
            differs[:, 1:] |= grid[:, 1:] != grid[:, :-1]
        return differs

    def runs(self, cell: int, reasons: Sequence[str], machines: Sequence[str]) -> list[Run]:
        """A cell's runs; ``reasons`` and ``machines`` are what the grids number."""
        starts = np.flatnonzero(self._differs[cell]).tolist()
        states: dict[tuple[bytes, int, int], tuple[int, State]] = {}
        runs = []
        for first, end in zip(starts, [*starts[1:], self.codes.shape[1]], strict=True):
            row, code, why = self.values[cell, first], int(self.codes[cell, first]), int(self.reasons[cell, first])
            identity = (row.tobytes(), code, why)
            if identity not in states:
                pairs = zip(TRACKS, row.tolist(), strict=True)
                figures = {name: value for name, value in pairs if not math.isnan(value)}
                states[identity] = len(states), State(VERDICTS[code], figures, reasons[why])
            number, state = states[identity]
            runs.append(Run(first, end - 1, state, number, machines[self.machines[cell, first]]))
        return runs


def _order(key: Key) -> tuple[Any, ...]:
    return (key[0], *(ORDER.get(word, len(ORDER)) for word in key[1:]))


def _codes(sheet: Sheet, problems: list[str]) -> tuple[npt.NDArray[np.uint8], dict[int, str]]:
    """Each cell's verdict, as :func:`tlbench.report.stored.StoredResults.truth_rows` words it, and the kept reasons."""
    severity, mean, changed = (sheet.values[TRACKS.index(name)] for name in (VERDICT, MEAN, CHANGED_WEIGHTS))
    code = np.full(len(sheet.cells), VERDICTS.index(Verdict.NOT_MEASURED), dtype=np.uint8)
    code[~np.isnan(mean)] = VERDICTS.index(Verdict.UNJUDGED)  # measured against HuggingFace alone
    unknown = ~np.isnan(severity)
    for word, number in SEVERITIES.items():
        code[severity == number] = VERDICTS.index(word)
        unknown &= severity != number
    if unknown.any():
        problems.append(f"{sheet.machine}: {sheet.commit[:8]} has severities that are no verdict; shown as unjudged")
        code[unknown] = VERDICTS.index(Verdict.UNJUDGED)
    if (changed == 0).any():
        passes = np.isin(code, [VERDICTS.index(word) for word in Verdict if word.passes])
        processed = np.fromiter((cell[2] != "unprocessed" for cell in sheet.cells), bool, len(sheet.cells))
        code[(changed == 0) & processed & passes] = VERDICTS.index(Verdict.NO_OP)
    code[sheet.failed] = VERDICTS.index(Verdict.FAILED)
    because: dict[int, str] = {}
    if sheet.ended:
        places = {" ".join(cell): i for i, cell in enumerate(sheet.cells)}
        absent = VERDICTS.index(Verdict.NOT_MEASURED)
        for cell, ending in sheet.ended.items():
            place = places.get(cell)
            if place is None:
                continue
            because[place] = ending.reason.split("\n")[0]
            if ending.kind is Kind.NOT_APPLICABLE and code[place] == absent:
                code[place] = VERDICTS.index(Verdict.NOT_APPLICABLE)
    return code, because
