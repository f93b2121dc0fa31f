"""Stored costs: the tables of `tlbench costs`, and what `tlbench slower` finds between two commits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, TypeVar

from rich.console import Console

from tlbench.grid import Device, Import, Operation, Option, RuntimeCell, Wrapper
from tlbench.metrics.paired import FALSE_ALARMS, Change, slower
from tlbench.report import render
from tlbench.report.render import COMMIT, Column, Format, Value
from tlbench.report.stored import COSTS, Commit, State, StoredResults, is_figure, is_nan

THRESHOLD = 0.05
"""The smallest growth to report, as for asv's regressions."""
RUNS = (Operation.FORWARD, Operation.HOOKS, Operation.CACHE, Operation.BACKWARD, Operation.GENERATION)
OF_MEMORY = (Operation.FORWARD, Operation.CACHE, Operation.BACKWARD, Operation.GENERATION)
EXPONENTS = ("time_by_length", "time_by_batch", "time_by_depth", "memory_by_length", "memory_by_batch")
MEMORY_RATIO, LEAK = "memory, TL / HF", "leak per run, bytes"
FAILED = "failed"
CELL = (
    Column("operation", is_key=True),
    *render.CELL,
    Column("shape", is_key=True),
    Column("device", is_key=True),
)
HALF_WIDTH = Column("99 %", lambda half_width: f"± {100 * half_width:.1f} %", csv="half_width")
FIGURES = {"slowdown": Column("TL / HF", "{:.3f}".format, csv="slowdown"), "half_width": HALF_WIDTH} | {
    name: Column(name.replace("_", " "), "{:.2f}".format, csv=name) for name in (MEMORY_RATIO, LEAK, *EXPONENTS)
}
C = TypeVar("C", bound=RuntimeCell | Import)


class What(StrEnum):
    """Which costs to show."""

    TIME = "time"
    """TransformerLens's time over HuggingFace's."""
    MEMORY = "memory"
    """The memory that a run holds beyond the model, over HuggingFace's, and the memory that it never gives back."""
    GROWTH = "growth"
    """The exponents of time and memory over length, batch and depth."""


TITLES = {
    What.TIME: "time over HuggingFace's (eager)",
    What.MEMORY: "memory of a run beyond the model, over HuggingFace's (eager)",
    What.GROWTH: "growth exponents of time and memory",
}
BENCHMARKS = {What.TIME: "(Slowdown|Interval)", What.MEMORY: "Memory", What.GROWTH: "Growth"}
READ = {What.TIME: f"{COSTS}Slowdown", What.MEMORY: f"{COSTS}Memory", What.GROWTH: f"{COSTS}Growth"}
"""The benchmark class whose machine is read."""


@dataclass(frozen=True)
class CostRow:
    """One stored slowdown.

    Attributes:
        ratio: TransformerLens's time over HuggingFace's.
        half_width: half-width of the 99 % interval for a repeated run, relative to the ratio.
        reference_seconds: HuggingFace's own time; None if it is not stored.
    """

    cell: RuntimeCell | Import
    ratio: float
    half_width: float
    reference_seconds: float | None = None

    @property
    def figures(self) -> dict[str, float]:
        """The figures to show, by name."""
        return {"slowdown": self.ratio, "half_width": self.half_width}


@dataclass(frozen=True)
class FigureRow:
    """Stored figures of one cell without intervals: memory, which is exact on a CPU, and exponents. None is a failure."""

    cell: RuntimeCell
    figures: dict[str, float | None]


@dataclass(frozen=True)
class ChangedRow:
    """A slowdown at two commits.

    Attributes:
        later: None if the later commit has no such figure; ``absent`` then says why.
    """

    earlier: CostRow
    later: CostRow | None
    absent: State = State.NOT_MEASURED

    @property
    def change(self) -> Change | None:
        """The change of the ratio."""
        return Change.between(self.earlier, self.later) if self.later else None

    @property
    def reference_factor(self) -> float | None:
        """HuggingFace's own time, later over earlier. It compares seconds of two runs, so it is rough."""
        if self.later is None or self.earlier.reference_seconds is None or self.later.reference_seconds is None:
            return None
        return self.later.reference_seconds / self.earlier.reference_seconds


def rows(stored: StoredResults, commit: Commit, machine: str = "") -> list[CostRow]:
    """Every slowdown stored for a commit by one machine, by default the one that measured them last."""
    machine = machine or stored.machine(commit, READ[What.TIME])
    found: list[CostRow] = []
    for operation in RUNS:
        tracks = [f"{kind}.track_{operation}" for kind in ("Slowdown", "Interval", "HuggingFace")]
        found += _rows(stored, commit, machine, _of(operation), *tracks)
    found += _rows(stored, commit, machine, _loading, "Loading.track_slowdown", "Loading.track_interval")
    found += _rows(stored, commit, machine, Import, "Imports.track_slowdown", "Imports.track_interval")
    return found


def absences(stored: StoredResults, commit: Commit, machine: str) -> dict[RuntimeCell, State]:
    """Why cells have no slowdown: they failed, are not applicable there, or were not measured."""
    absent, failed = stored.not_applicable(commit, machine), failed_cells(stored, commit, machine)
    cells = (
        cell
        for operation in RUNS
        for cell in stored.values(commit, f"{COSTS}Slowdown.track_{operation}", _of(operation), machine)
    )
    unmeasured = {c: State.NOT_APPLICABLE if str(c.cell) in absent else State.NOT_MEASURED for c in cells}
    return unmeasured | dict.fromkeys(failed, State.FAILED)


def failed_cells(stored: StoredResults, commit: Commit, machine: str) -> list[RuntimeCell]:
    """The cells whose slowdown failed."""
    return [
        cell
        for operation in RUNS
        for cell, value in stored.values(commit, f"{COSTS}Slowdown.track_{operation}", _of(operation), machine).items()
        if value is None
    ]


def time_rows(stored: StoredResults, commit: Commit, machine: str = "") -> list[CostRow | FigureRow]:
    """Every slowdown stored for a commit, and the cells in which it failed."""
    machine = machine or stored.machine(commit, READ[What.TIME])
    failed = [FigureRow(cell, {"slowdown": None}) for cell in failed_cells(stored, commit, machine)]
    return [*rows(stored, commit, machine), *failed]


def memory_rows(stored: StoredResults, commit: Commit, machine: str = "") -> list[FigureRow]:
    """The memory ratios and leaks stored for a commit."""
    machine = machine or stored.machine(commit, READ[What.MEMORY])
    found: list[FigureRow] = []
    for operation in OF_MEMORY:
        tracks = {MEMORY_RATIO: f"Memory.track_{operation}"}
        if operation is Operation.CACHE:  # the run whose leak is measured
            tracks[LEAK] = "Memory.track_leak"
        found += [FigureRow(*item) for item in _figures(stored, commit, machine, _of(operation), tracks).items()]
    return found


def growth_rows(stored: StoredResults, commit: Commit, machine: str = "") -> list[FigureRow]:
    """The exponents stored for a commit."""
    machine = machine or stored.machine(commit, READ[What.GROWTH])
    tracks = {name: f"Growth.track_{name}" for name in EXPONENTS}
    return [FigureRow(*item) for item in _figures(stored, commit, machine, _of(Operation.FORWARD), tracks).items()]


READERS: dict[What, Callable[[StoredResults, Commit, str], Sequence[CostRow | FigureRow]]] = {
    What.TIME: time_rows,
    What.MEMORY: memory_rows,
    What.GROWTH: growth_rows,
}


def changes(
    earlier: Sequence[CostRow], later: Sequence[CostRow], absent: Mapping[RuntimeCell, State] = MappingProxyType({})
) -> list[ChangedRow]:
    """Pair each slowdown of the earlier commit with the later commit's.

    Where the two commits have no wrapper in common, one follows the other: HookedTransformer's slowdown is then paired with
    TransformerBridge's in the same configuration.
    """
    follows = _follows(earlier, later)
    by_cell = {follows(row.cell): row for row in later}
    words: dict[RuntimeCell | Import, State] = {follows(cell): word for cell, word in absent.items()}
    return [
        ChangedRow(row, by_cell.get(cell), words.get(cell, State.NOT_MEASURED))
        for row in earlier
        for cell in [follows(row.cell)]
    ]


def _follows(earlier: Sequence[CostRow], later: Sequence[CostRow]) -> Callable[[RuntimeCell | Import], RuntimeCell | Import]:
    """What pairs a cell of one commit with one of the other: itself, or itself whatever its wrapper."""
    wrappers = [{row.cell.wrapper for row in rows if isinstance(row.cell, RuntimeCell)} for rows in (earlier, later)]
    if wrappers[0] & wrappers[1] or not all(wrappers):
        return lambda cell: cell
    return lambda cell: replace(cell, wrapper=Wrapper.TRANSFORMER_BRIDGE) if isinstance(cell, RuntimeCell) else cell


def slower_rows(compared: Sequence[ChangedRow], threshold: float) -> list[ChangedRow]:
    """The rows that grew by at least ``threshold``, such as 0.05, and by more than chance, given how many are compared."""
    both = [(row, change) for row in compared if (change := row.change)]
    flags = slower([change for _, change in both], threshold)
    return [row for (row, _), is_slower in zip(both, flags, strict=True) if is_slower]


def correction(n: int) -> str:
    """How :func:`slower_rows` allows for chance among ``n`` rows, for a title."""
    alarms = f"at most {100 * FALSE_ALARMS:g} % of comparisons raise a false alarm"
    return f"corrected for {n} cells by Holm's method: {alarms}; the 99 % column holds for one cell alone"


def machine_of(stored: StoredResults, commits: Collection[Commit], what: What = What.TIME) -> str:
    """The machine with costs of this kind of all these commits that measured the last commit's last.

    Raises:
        BadInput: if there is none.
    """
    *_, last = commits
    return stored.common_machine(commits, READ[what] if stored.has(last, READ[what]) else COSTS)


def show(
    console: Console, style: Format, commit: Commit, machine: str, what: What, rows: Sequence[CostRow | FigureRow]
) -> None:
    """One row per cell."""
    names = [name for name in FIGURES if any(name in row.figures for row in rows)]
    lines = [[commit.hash, commit.tag, *_words(row.cell), *(_figure(row.figures, name) for name in names)] for row in rows]
    columns = [*COMMIT, *CELL, *(FIGURES[name] for name in names)]
    render.show(console, style, f"TransformerLens {commit} on {machine}: {TITLES[what]}", columns, lines)


def show_changes(console: Console, style: Format, title: str, changed: Sequence[ChangedRow]) -> None:
    """One row per slowdown."""
    columns = [
        *CELL,
        Column("earlier", "{:.3f}".format),
        Column("later", "{:.3f}".format),
        Column("change", lambda factor: f"{100 * (factor - 1):+.1f} %", csv="factor"),
        HALF_WIDTH,
        Column("HF itself", lambda factor: f"{100 * (factor - 1):+.0f} %", csv="reference_factor", drop=1),
        Column("then", csv="later_wrapper", short=render.short_wrapper, is_key=True),
    ]
    lines: list[list[Value]] = [[*_words(row.earlier.cell), *_changed(row), _later_wrapper(row)] for row in changed]
    if style is not Format.CSV and not any(line[-1] for line in lines):
        columns, lines = columns[:-1], [line[:-1] for line in lines]
    render.show(console, style, title, columns, lines)


@lru_cache
def _of(operation: Operation) -> Callable[..., RuntimeCell]:
    return partial(RuntimeCell, operation=operation)


def _loading(model: str, dtype: Any, option: Any, wrapper: Any) -> RuntimeCell:
    operation = Operation.LOADING if option == Option.UNPROCESSED else Operation.PROCESSING
    return RuntimeCell(model, dtype, option, wrapper, "1x64", Device.CPU, operation)


def _later_wrapper(row: ChangedRow) -> str:
    """The later commit's wrapper, where another one follows."""
    earlier, later = row.earlier.cell, row.later.cell if row.later else None
    if isinstance(earlier, Import) or not isinstance(later, RuntimeCell) or earlier.wrapper is later.wrapper:
        return ""
    return later.wrapper


def _rows(stored: StoredResults, commit: Commit, machine: str, cell: Callable[..., C], *tracks: str) -> list[CostRow]:
    """The tracks are of the ratio, its interval and, if stored, HuggingFace's time."""
    figures = _figures(stored, commit, machine, cell, dict(zip(("ratio", "half_width", "seconds"), tracks, strict=False)))
    return [
        CostRow(key, ratio, half_width, own.get("seconds"))
        for key, own in figures.items()
        if is_figure(ratio := own.get("ratio")) and is_figure(half_width := own.get("half_width"))
    ]


def _figures(
    stored: StoredResults, commit: Commit, machine: str, cell: Callable[..., C], tracks: dict[str, str]
) -> dict[C, dict[str, float | None]]:
    """The figures of each cell by name: None if failed. Not applicable and not measured figures are missing."""
    values = {name: stored.values(commit, f"{COSTS}{track}", cell, machine) for name, track in tracks.items()}
    figures: dict[C, dict[str, float | None]] = {key: {} for by_cell in values.values() for key in by_cell}
    for name, by_cell in values.items():
        for key, value in by_cell.items():
            if not is_nan(value):
                figures[key][name] = value
    return {key: own for key, own in figures.items() if own}


def _changed(row: ChangedRow) -> list[Value]:
    if row.later is None or row.change is None:
        return [row.earlier.ratio, row.absent, None, None, None]
    return [row.earlier.ratio, row.later.ratio, row.change.factor, row.change.half_width, row.reference_factor]


def _figure(figures: Mapping[str, float | None], name: str) -> Value:
    value = figures.get(name, "")
    return FAILED if value is None else value


def _words(cell: RuntimeCell | Import) -> list[Value]:
    if isinstance(cell, Import):
        return ["import", *[""] * (len(CELL) - 1)]
    return [cell.operation, cell.model, cell.dtype, cell.option, cell.wrapper, cell.shape, cell.device]
