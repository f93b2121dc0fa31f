"""Stored costs: the tables of `tlbench costs`, and what `tlbench slower` finds between two commits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from rich.console import Console

from tlbench.exceptions import BadInput
from tlbench.grid import Device, Import, Operation, Option, RuntimeCell
from tlbench.metrics.paired import FALSE_ALARMS, Change, slower
from tlbench.report import render
from tlbench.report.render import COMMIT, Column, Format, Value
from tlbench.report.stored import COSTS, Commit, StoredResults, is_figure, is_nan

THRESHOLD = 0.05
"""The smallest growth to report, as for asv's regressions."""
RUNS = (Operation.FORWARD, Operation.HOOKS, Operation.CACHE, Operation.BACKWARD, Operation.GENERATION)
OF_MEMORY = (Operation.FORWARD, Operation.CACHE, Operation.BACKWARD, Operation.GENERATION)
EXPONENTS = ("time_by_length", "time_by_batch", "time_by_depth", "memory_by_length", "memory_by_batch")
MEMORY_RATIO, LEAK = "memory, TL / HF", "leak per run, bytes"
FAILED = "failed"
CELL = tuple(Column(name) for name in ("operation", "model", "dtype", "options", "wrapper", "shape", "device"))
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
    """A slowdown at two commits. ``later`` is None if the later commit has no such figure."""

    earlier: CostRow
    later: CostRow | None

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


def rows(stored: StoredResults, commit: Commit) -> list[CostRow]:
    """Every slowdown stored for a commit."""
    found: list[CostRow] = []
    for operation in RUNS:
        tracks = [f"{kind}.track_{operation}" for kind in ("Slowdown", "Interval", "HuggingFace")]
        found += _rows(stored, commit, _of(operation), *tracks)
    found += _rows(stored, commit, _loading, "Loading.track_slowdown", "Loading.track_interval")
    found += _rows(stored, commit, Import, "Imports.track_slowdown", "Imports.track_interval")
    return found


def memory_rows(stored: StoredResults, commit: Commit) -> list[FigureRow]:
    """The memory ratios and leaks stored for a commit."""
    found: list[FigureRow] = []
    for operation in OF_MEMORY:
        tracks = {MEMORY_RATIO: f"Memory.track_{operation}"}
        if operation is Operation.CACHE:  # the run whose leak is measured
            tracks[LEAK] = "Memory.track_leak"
        found += [FigureRow(*item) for item in _figures(stored, commit, _of(operation), tracks).items()]
    return found


def growth_rows(stored: StoredResults, commit: Commit) -> list[FigureRow]:
    """The exponents stored for a commit."""
    tracks = {name: f"Growth.track_{name}" for name in EXPONENTS}
    return [FigureRow(*item) for item in _figures(stored, commit, _of(Operation.FORWARD), tracks).items()]


READERS: dict[What, Callable[[StoredResults, Commit], Sequence[CostRow | FigureRow]]] = {
    What.TIME: rows,
    What.MEMORY: memory_rows,
    What.GROWTH: growth_rows,
}


def changes(earlier: Sequence[CostRow], later: Sequence[CostRow]) -> list[ChangedRow]:
    """Pair each slowdown of the earlier commit with the later commit's."""
    by_cell = {row.cell: row for row in later}
    return [ChangedRow(row, by_cell.get(row.cell)) for row in earlier]


def slower_rows(compared: Sequence[ChangedRow], threshold: float) -> list[ChangedRow]:
    """The rows that grew by at least ``threshold``, such as 0.05, and by more than chance, given how many are compared."""
    both = [(row, change) for row in compared if (change := row.change)]
    flags = slower([change for _, change in both], threshold)
    return [row for (row, _), is_slower in zip(both, flags, strict=True) if is_slower]


def correction(n: int) -> str:
    """How :func:`slower_rows` allows for chance among ``n`` rows, for a title."""
    alarms = f"at most {100 * FALSE_ALARMS:g} % of comparisons raise a false alarm"
    return f"corrected for {n} cells by Holm's method: {alarms}; the 99 % column holds for one cell alone"


def machine_of(stored: StoredResults, *commits: Commit) -> str:
    """The machine with costs of all these commits that measured the last commit's costs last.

    Raises:
        BadInput: if there is none.
    """
    ordered = stored.machines(commits[-1], COSTS)
    common = [name for name in ordered if all(name in stored.machines(commit, COSTS) for commit in commits)]
    if not common:
        names = " and ".join(map(str, commits))
        raise BadInput(f"no machine has costs of {names}: name one for each, e.g. {ordered[-1]}:{commits[-1]}")
    return common[-1]


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
        Column("HF itself", lambda factor: f"{100 * (factor - 1):+.0f} %", csv="reference_factor"),
    ]
    render.show(console, style, title, columns, [[*_words(row.earlier.cell), *_changed(row)] for row in changed])


def _of(operation: Operation) -> Callable[..., RuntimeCell]:
    return partial(RuntimeCell, operation=operation)


def _loading(model: str, dtype: Any, option: Any, wrapper: Any) -> RuntimeCell:
    operation = Operation.LOADING if option == Option.UNPROCESSED else Operation.PROCESSING
    return RuntimeCell(model, dtype, option, wrapper, "1x64", Device.CPU, operation)


def _rows(stored: StoredResults, commit: Commit, cell: Callable[..., C], *tracks: str) -> list[CostRow]:
    """The tracks are of the ratio, its interval and, if stored, HuggingFace's time."""
    figures = _figures(stored, commit, cell, dict(zip(("ratio", "half_width", "seconds"), tracks, strict=False)))
    return [
        CostRow(key, ratio, half_width, own.get("seconds"))
        for key, own in figures.items()
        if is_figure(ratio := own.get("ratio")) and is_figure(half_width := own.get("half_width"))
    ]


def _figures(
    stored: StoredResults, commit: Commit, cell: Callable[..., C], tracks: dict[str, str]
) -> dict[C, dict[str, float | None]]:
    """The figures of each cell by name: None if failed. Not applicable and not measured figures are missing."""
    values = {name: stored.values(commit, f"{COSTS}{track}", cell) for name, track in tracks.items()}
    figures: dict[C, dict[str, float | None]] = {key: {} for by_cell in values.values() for key in by_cell}
    for name, by_cell in values.items():
        for key, value in by_cell.items():
            if not is_nan(value):
                figures[key][name] = value
    return {key: own for key, own in figures.items() if own}


def _changed(row: ChangedRow) -> list[Value]:
    if row.later is None or row.change is None:
        return [row.earlier.ratio, "gone", None, None, None]
    return [row.earlier.ratio, row.later.ratio, row.change.factor, row.change.half_width, row.reference_factor]


def _figure(figures: Mapping[str, float | None], name: str) -> Value:
    value = figures.get(name, "")
    return FAILED if value is None else value


def _words(cell: RuntimeCell | Import) -> list[Value]:
    if isinstance(cell, Import):
        return ["import", *[""] * (len(CELL) - 1)]
    return [cell.operation, cell.model, cell.dtype, cell.option, cell.wrapper, cell.shape, cell.device]
