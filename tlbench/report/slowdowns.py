"""Stored costs: the tables of `tlbench costs`, and what `tlbench slower` finds between two commits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from rich.console import Console

from tlbench.exceptions import BadInput
from tlbench.grid import Device, Import, Operation, Option, RuntimeCell
from tlbench.metrics.paired import FALSE_ALARMS, Change, slower
from tlbench.report import render
from tlbench.report.render import COMMIT, Column, Format, Value
from tlbench.report.stored import Commit, StoredResults, is_figure

RUNS = (Operation.FORWARD, Operation.HOOKS, Operation.CACHE, Operation.BACKWARD, Operation.GENERATION)
COSTS = "runtime."
"""How the names of all their benchmarks begin."""
THRESHOLD = 0.05
"""asv's own, for its regressions."""
OF_MEMORY = (Operation.FORWARD, Operation.CACHE, Operation.BACKWARD, Operation.GENERATION)
EXPONENTS = ("time_by_length", "time_by_batch", "time_by_depth", "memory_by_length", "memory_by_batch")
MEMORY_RATIO, LEAK = "memory, TL / HF", "kept a run, bytes"
FAILED = "failed"
CELL = tuple(Column(name) for name in ("operation", "model", "dtype", "options", "wrapper", "shape", "device"))


class What(StrEnum):
    """What of the costs is asked for."""

    TIME = "time"
    """How many times longer TransformerLens takes than HuggingFace."""
    MEMORY = "memory"
    """How many times more memory a run holds beyond the model, and what it never gives back."""
    GROWTH = "growth"
    """The exponents of time and memory over length, batch and depth."""


@dataclass(frozen=True)
class CostRow:
    """One stored slowdown.

    Attributes:
        cell: what was run.
        ratio: TransformerLens's time over HuggingFace's.
        half_width: of the 99 % interval of a repeated run, relative to the ratio.
        reference_seconds: HuggingFace's own time, where it is stored.
    """

    cell: RuntimeCell | Import
    ratio: float
    half_width: float
    reference_seconds: float | None = None


@dataclass(frozen=True)
class FigureRow:
    """Stored figures of one cell that have no interval: of memory, which is exact on a CPU, or exponents.

    Attributes:
        cell: what was run.
        figures: by name; None where it failed. What could not be, or was not run, has none.
    """

    cell: RuntimeCell
    figures: dict[str, float | None]


@dataclass(frozen=True)
class ChangedRow:
    """A slowdown at two commits; ``later`` is None where it failed or could not be there any more."""

    earlier: CostRow
    later: CostRow | None

    @property
    def change(self) -> Change | None:
        """What changed."""
        return Change.between(self.earlier, self.later) if self.later else None

    @property
    def reference_factor(self) -> float | None:
        """HuggingFace's own time, later over earlier: what of the change is its. Seconds of two runs, so roughly."""
        if self.later is None or self.earlier.reference_seconds is None or self.later.reference_seconds is None:
            return None
        return self.later.reference_seconds / self.earlier.reference_seconds


def rows(stored: StoredResults, commit: Commit) -> list[CostRow]:
    """Every slowdown that is stored of a commit."""
    found: list[CostRow] = []
    for operation in RUNS:
        names = (f"{kind}.track_{operation}" for kind in ("Slowdown", "Interval", "HuggingFace"))
        found += _rows(stored, commit, *names, cell=_of(operation))
    found += _rows(stored, commit, "Loading.track_slowdown", "Loading.track_interval", cell=_loading)
    found += _rows(stored, commit, "Imports.track_slowdown", "Imports.track_interval", cell=Import)
    return found


def memory_rows(stored: StoredResults, commit: Commit) -> list[FigureRow]:
    """What runs hold beyond the model that is stored of a commit, over HuggingFace's; and what is never given back."""
    found: list[FigureRow] = []
    for operation in OF_MEMORY:
        tracks = {MEMORY_RATIO: f"Memory.track_{operation}"}
        if operation is Operation.CACHE:  # the run that a leak is looked for in
            tracks[LEAK] = "Memory.track_leak"
        found += _figure_rows(stored, commit, tracks, _of(operation))
    return found


def growth_rows(stored: StoredResults, commit: Commit) -> list[FigureRow]:
    """The exponents that are stored of a commit."""
    tracks = {name: f"Growth.track_{name}" for name in EXPONENTS}
    return _figure_rows(stored, commit, tracks, _of(Operation.FORWARD))


def _figure_rows(
    stored: StoredResults, commit: Commit, tracks: dict[str, str], cell: Callable[..., RuntimeCell]
) -> list[FigureRow]:
    values = {name: stored.values(commit, f"runtime.{track}", cell) for name, track in tracks.items()}
    cells = dict.fromkeys(key for of_track in values.values() for key in of_track)
    rows = [
        FigureRow(key, {n: found[key] for n, found in values.items() if key in found and not _is_absent(found[key])})
        for key in cells
    ]
    return [row for row in rows if row.figures]


def _is_absent(value: float | None) -> bool:
    """Whether there could be no figure, or none was asked for; a failure is None."""
    return value is not None and not is_figure(value)


def changes(earlier: Sequence[CostRow], later: Sequence[CostRow]) -> list[ChangedRow]:
    """Each slowdown of the earlier commit beside the later one's."""
    by_cell = {row.cell: row for row in later}
    return [ChangedRow(row, by_cell.get(row.cell)) for row in earlier]


def slower_rows(compared: Sequence[ChangedRow], threshold: float) -> list[ChangedRow]:
    """The rows that grew by at least ``threshold``, such as 0.05, and by more than chance moves any of them all."""
    both = [(row, change) for row in compared if (change := row.change)]
    flags = slower([change for _, change in both], threshold)
    return [row for (row, _), is_slower in zip(both, flags, strict=True) if is_slower]


def correction(n: int) -> str:
    """How :func:`slower_rows` allows for chance among ``n`` rows, for a title."""
    once = f"at most {100 * FALSE_ALARMS:g} % of comparisons raise a false alarm"
    return f"corrected for {n} cells by Holm's method: {once}; the 99 % column holds for one cell alone"


def _of(operation: Operation) -> Callable[..., RuntimeCell]:
    return partial(RuntimeCell, operation=operation)


def _loading(model: str, dtype: Any, option: Any, wrapper: Any) -> RuntimeCell:
    operation = Operation.LOADING if option == Option.UNPROCESSED else Operation.PROCESSING
    return RuntimeCell(model, dtype, option, wrapper, "1x64", Device.CPU, operation)


def _rows(
    stored: StoredResults,
    commit: Commit,
    ratio: str,
    interval: str,
    reference: str | None = None,
    *,
    cell: Callable[..., RuntimeCell | Import],
) -> list[CostRow]:
    ratios, half_widths = (stored.values(commit, f"runtime.{name}", cell) for name in (ratio, interval))
    of_reference = stored.values(commit, f"runtime.{reference}", cell) if reference else {}
    return [
        CostRow(key, value, half_width, seconds if is_figure(seconds := of_reference.get(key)) else None)
        for key, value in ratios.items()
        if is_figure(value) and is_figure(half_width := half_widths.get(key))
    ]


def machine_of(stored: StoredResults, *commits: Commit) -> str:
    """The machine that has costs of all these commits, and measured those of the last one last.

    Raises:
        BadInput: if there is none.
    """
    ordered = stored.machines(commits[-1], COSTS)
    common = [name for name in ordered if all(name in stored.machines(commit, COSTS) for commit in commits)]
    if not common:
        names = " and ".join(map(str, commits))
        raise BadInput(f"no machine has costs of {names}: name two, such as {ordered[-1]}:{commits[-1]}")
    return common[-1]


def show(console: Console, style: Format, commit: Commit, machine: str, found: Sequence[CostRow]) -> None:
    """One line a slowdown."""
    ratio = Column("TL / HF", "{:.3f}".format, csv="slowdown")
    columns = [*COMMIT, *CELL, ratio, Column("99 %", _plus_minus, csv="half_width")]
    lines = [[commit.hash, commit.tag, *_words(row.cell), row.ratio, row.half_width] for row in found]
    title = f"TransformerLens {commit} on {machine}: its time over HuggingFace's (eager)"
    render.show(console, style, title, columns, lines)


def show_figures(
    console: Console, style: Format, commit: Commit, machine: str, what: What, found: Sequence[FigureRow]
) -> None:
    """One line a cell."""
    names = list(dict.fromkeys(name for row in found for name in row.figures))
    if what is What.GROWTH:
        names = [name for name in EXPONENTS if name in names]
    title = {
        What.MEMORY: "what a run holds beyond the model, over HuggingFace's (eager)",
        What.GROWTH: "exponents of its time and memory",
    }[what]
    columns = [*COMMIT, *CELL, *(Column(name.replace("_", " "), "{:.2f}".format, csv=name) for name in names)]
    lines = [[commit.hash, commit.tag, *_words(row.cell), *(_figure(row, name) for name in names)] for row in found]
    render.show(console, style, f"TransformerLens {commit} on {machine}: {title}", columns, lines)


def show_changes(console: Console, style: Format, title: str, found: Sequence[ChangedRow]) -> None:
    """One line a slowdown that changed."""
    columns = [
        *CELL,
        Column("earlier", "{:.3f}".format),
        Column("later", "{:.3f}".format),
        Column("change", lambda factor: f"{100 * (factor - 1):+.1f} %", csv="factor"),
        Column("99 %", _plus_minus, csv="half_width"),
        Column("HF itself", lambda factor: f"{100 * (factor - 1):+.0f} %", csv="reference_factor"),
    ]
    render.show(console, style, title, columns, [[*_words(row.earlier.cell), *_changed(row)] for row in found])


def _changed(row: ChangedRow) -> list[Value]:
    if row.later is None or row.change is None:
        return [row.earlier.ratio, "gone", None, None, None]
    return [row.earlier.ratio, row.later.ratio, row.change.factor, row.change.half_width, row.reference_factor]


def _figure(row: FigureRow, name: str) -> Value:
    value = row.figures.get(name, "")
    return FAILED if value is None else value


def _plus_minus(half_width: float) -> str:
    return f"± {100 * half_width:.1f} %"


def _words(cell: RuntimeCell | Import) -> list[Value]:
    if isinstance(cell, Import):
        return ["import", *[""] * (len(CELL) - 1)]
    return [cell.operation, cell.model, cell.dtype, cell.option, cell.wrapper, cell.shape, cell.device]
