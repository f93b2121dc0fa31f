"""Stored costs: the tables of `tlbench costs`, and what `tlbench slower` finds between two commits."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table
from tabulate import tabulate

from tlbench.exceptions import BadInput
from tlbench.grid import Device, Import, Operation, Option, RuntimeCell
from tlbench.metrics.paired import FALSE_ALARMS, Change, slower
from tlbench.report.stored import Commit, StoredResults, is_figure
from tlbench.report.table import Format

RUNS = (Operation.FORWARD, Operation.HOOKS, Operation.CACHE, Operation.BACKWARD, Operation.GENERATION)
COSTS = "runtime."
"""How the names of all their benchmarks begin."""
THRESHOLD = 0.05
"""asv's own, for its regressions."""
OF_MEMORY = (Operation.FORWARD, Operation.CACHE, Operation.BACKWARD, Operation.GENERATION)
EXPONENTS = ("time_by_length", "time_by_batch", "time_by_depth", "memory_by_length", "memory_by_batch")
MEMORY_RATIO, LEAK = "memory, TL / HF", "kept a run, bytes"
FAILED = "failed"
CELL_COLUMNS = ("operation", "model", "dtype", "options", "wrapper", "shape", "device")


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
    lines = [[*_words(row.cell), f"{row.ratio:.3f}", f"± {100 * row.half_width:.1f} %"] for row in found]
    if style is Format.CSV:
        print(write_csv(commit, found), end="")
    else:
        header = [*CELL_COLUMNS, "TL / HF", "99 %"]
        _show(console, style, f"TransformerLens {commit} on {machine}: its time over HuggingFace's (eager)", header, lines)


def show_figures(
    console: Console, style: Format, commit: Commit, machine: str, what: What, found: Sequence[FigureRow]
) -> None:
    """One line a cell."""
    names = list(dict.fromkeys(name for row in found for name in row.figures))
    if what is What.GROWTH:
        names = [name for name in EXPONENTS if name in names]
    if style is Format.CSV:
        lines = [[*_words(row.cell), *(_told(row, name, repr) for name in names)] for row in found]
        print(_csv(commit, names, lines), end="")
        return
    title = {
        What.MEMORY: "what a run holds beyond the model, over HuggingFace's (eager)",
        What.GROWTH: "exponents of its time and memory",
    }[what]
    spelled = [[*_words(row.cell), *(_told(row, name, "{:.2f}".format) for name in names)] for row in found]
    header = [*CELL_COLUMNS, *(name.replace("_", " ") for name in names)]
    _show(console, style, f"TransformerLens {commit} on {machine}: {title}", header, spelled)


def _told(row: FigureRow, name: str, spell: Callable[[float], str]) -> str:
    if name not in row.figures:
        return ""
    value = row.figures[name]
    return FAILED if value is None else spell(value)


def show_changes(console: Console, style: Format, names: str, found: Sequence[ChangedRow]) -> None:
    """One line a slowdown that changed."""
    header = [*CELL_COLUMNS, "earlier", "later", "change", "99 %", "HF itself"]
    _show(console, style, names, header, [_changed(row) for row in found])


def _changed(row: ChangedRow) -> list[str]:
    earlier = [*_words(row.earlier.cell), f"{row.earlier.ratio:.3f}"]
    if row.later is None or row.change is None:
        return [*earlier, "gone", "", "", ""]
    of_reference = "" if row.reference_factor is None else f"{100 * (row.reference_factor - 1):+.0f} %"
    change = [f"{100 * (row.change.factor - 1):+.1f} %", f"± {100 * row.change.half_width:.1f} %"]
    return [*earlier, f"{row.later.ratio:.3f}", *change, of_reference]


def write_csv(commit: Commit, found: Sequence[CostRow]) -> str:
    """One line a row, figures with every digit."""
    lines = [[*_words(row.cell), repr(row.ratio), repr(row.half_width)] for row in found]
    return _csv(commit, ["slowdown", "half_width"], lines)


def _csv(commit: Commit, names: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["commit", "tag", *CELL_COLUMNS, *names])
    writer.writerows([commit.hash, commit.tag, *line] for line in lines)
    return text.getvalue()


def _show(console: Console, style: Format, title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    if style is Format.RICH:
        table = Table(title=title)
        for name in header:
            table.add_column(name, justify="left" if name in CELL_COLUMNS else "right", no_wrap=True)
        for line in lines:
            table.add_row(*line)
        console.print(table)
    else:
        print(f"**{title}**\n\n{tabulate(lines, headers=header, tablefmt='pipe', disable_numparse=True)}\n")


def _words(cell: RuntimeCell | Import) -> list[str]:
    if isinstance(cell, Import):
        return ["import", *[""] * (len(CELL_COLUMNS) - 1)]
    words = [cell.operation, cell.model, cell.dtype, cell.option, cell.wrapper, cell.shape, cell.device]
    return [str(word) for word in words]
