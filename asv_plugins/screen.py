"""With ``TLBENCH_LOG=FILE``, show a progress line and one line per commit, and send all that asv prints to the file.

asv prints a benchmark's whole grid once all its cells are done, which is thousands of lines after minutes of silence. `make
bench` runs it like this instead. asv has no hook for it, so this module wraps the functions that run a commit's benchmarks
and one cell, that save results, and that look up what is stored already; and it listens to asv's log.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

from asv import runner
from asv.commands import run as command
from asv.results import Results
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tlbench.arithmetic import is_shared
from tlbench.exceptions import BadInput
from tlbench.report import headline, slowdowns
from tlbench.report.stored import StoredResults, is_nan

VARIABLE = "TLBENCH_LOG"
PLAIN_EVERY_S = 15.0
"""How often a line says where a run is if the output is no terminal."""
LONGEST = 300
"""The most characters of a message of asv's."""
SEPARATOR = headline.SEPARATOR
COMMIT = re.compile(r"For \S+ commit (\w+)(?: <v?(.+)>)?")
"""asv's message that begins a commit."""

Point = tuple[str, ...]
"""A combination of parameters, each as asv writes it."""


class Screen(logging.Handler):
    """What a person sees of an `asv run`.

    Args:
        console: the terminal, or a file, into which a line goes only every :data:`PLAIN_EVERY_S`.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console
        columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TextColumn("{task.fields[cell]}"))
        self._progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
        self._task = self._progress.add_task("starting", total=None, cell="")
        if console.is_terminal:
            self._progress.start()
        self._total = self._measured = 0
        self._seen: set[Point] = set()
        self._stored: dict[tuple[str, str], None] = {}
        self._title = ""
        self._started = self._said = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Show what asv is doing. Errors and warnings stay on the screen."""
        first = str(record.msg).strip().split("\n")[0][:LONGEST]
        if record.levelno >= logging.WARNING:
            self._print(f"asv: {first}")
        elif match := COMMIT.match(first):
            self._title, self._started = match[2] or match[1], time.monotonic()
        elif first and not self._total:
            self._show(first)

    def begin(self, benchmarks: Any) -> None:
        """Begin to measure a commit: count its cells."""
        points: set[Point] = set()
        for name, benchmark in benchmarks.items():
            selected, of_benchmark = benchmarks.benchmark_selection.get(name), list(itertools.product(*benchmark["params"]))
            points.update(of_benchmark if selected is None else (of_benchmark[i] for i in selected))
        self._seen, self._measured, self._total = set(), 0, len(points)
        self._progress.reset(self._task, total=self._total)

    def run(self, benchmark: dict[str, Any], index: int | None) -> Point:
        """Show the cell that is run, and return its parameters."""
        point = next(itertools.islice(itertools.product(*benchmark["params"]), index or 0, None))
        cell = SEPARATOR.join(text.strip("'") for text in point[:3])
        if not self._seen:
            cell = "importing torch and TransformerLens"
        elif point in self._seen:
            cell = "reading its other statistics"
        self._show(f"TransformerLens {self._title}", cell)
        return point

    def finish(self, point: Point, result: Any) -> None:
        """Count a cell at the first benchmark that asks for it. Those without a figure are not counted at all."""
        if point in self._seen:
            return
        self._seen.add(point)
        if all(map(is_nan, result.result)):
            self._total -= 1
        else:
            self._measured += 1
        self._progress.update(self._task, completed=self._measured, total=self._total)

    def look_up(self, machine: str, commit: str) -> None:
        """Remember a commit that asv will skip if all its results are stored."""
        self._stored[machine, commit] = None

    def conclude(self, machine: str, commit: str, *, is_new: bool = True) -> None:
        """Print the line of a commit whose results are stored now, or were before."""
        self._stored.pop((machine, commit), None)
        self._total = 0
        took = f"{time.monotonic() - self._started:.0f} s" if is_new else "stored already"
        try:
            stored = StoredResults(machine=machine)
            one = stored.commit(commit)
            if is_shared(machine):
                line = headline.of_errors(stored.truth_rows(one))
            else:
                line = headline.of_costs(slowdowns.rows(stored, one))
        except BadInput as error:
            self._print(str(error))
        else:
            self._print(f"TransformerLens {str(one).removeprefix('v'):<8} {line}{SEPARATOR}{took}")
        self._progress.reset(self._task, total=None)
        self._show("going on")

    def end(self) -> None:
        """Print the lines of commits that asv skipped, and clear the progress line."""
        for machine, commit in list(self._stored):
            self.conclude(machine, commit, is_new=False)
        if self._console.is_terminal:
            self._progress.stop()

    def _show(self, what: str, cell: str = "") -> None:
        self._progress.update(self._task, description=what, cell=cell)
        if not self._console.is_terminal and time.monotonic() - self._said >= PLAIN_EVERY_S:
            count = f" {self._measured}/{self._total} " if self._total else ""
            self._print(f"{what}{count}{cell}")

    def _print(self, line: str) -> None:
        self._said = time.monotonic()
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def install(screen: Screen) -> None:
    """Wrap asv's functions so that the screen learns what they do."""
    run_benchmarks, run_cell, save, look_up = (
        command.run_benchmarks,
        runner._run_benchmark_single_param,
        Results.save,
        command.iter_results_for_machine_and_hash,
    )

    @wraps(run_benchmarks)
    def running(benchmarks: Any, *args: Any, **named: Any) -> Any:
        screen.begin(benchmarks)
        return run_benchmarks(benchmarks, *args, **named)

    @wraps(run_cell)
    def running_cell(benchmark: dict[str, Any], spawner: Any, param_idx: int | None, *args: Any, **named: Any) -> Any:
        point = screen.run(benchmark, param_idx)
        result = run_cell(benchmark, spawner, param_idx, *args, **named)
        screen.finish(point, result)
        return result

    @wraps(save)
    def saving(self: Any, result_dir: str) -> None:
        save(self, result_dir)
        screen.conclude(self.params["machine"], self.commit_hash)

    @wraps(look_up)
    def looking_up(results_dir: str, machine: str, commit: str) -> Iterator[Any]:
        screen.look_up(machine, commit)
        yield from look_up(results_dir, machine, commit)

    command.run_benchmarks, runner._run_benchmark_single_param = running, running_cell
    Results.save, command.iter_results_for_machine_and_hash = saving, looking_up


def start(log: Path) -> None:
    """Send asv's output to a file, and show its progress where it went before."""
    screen = Screen(Console(file=sys.stdout, width=None if sys.stdout.isatty() else 400))
    logging.getLogger().addHandler(screen)
    install(screen)
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout = log.open("a", buffering=1)
    atexit.register(screen.end)


if VARIABLE in os.environ:
    start(Path(os.environ[VARIABLE]))
