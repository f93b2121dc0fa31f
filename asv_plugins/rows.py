"""asv's tables without the rows that have nothing to say, and with the words that tell absent figures apart.

The grid has a row for every model in every wrapper, dtype and option, and few releases have both wrappers. Here
`asv run`, `asv show`, `asv compare` and `asv continuous` leave them out and count them. Where one of two commits has no
figure, the table says whether the cell is `n/a`, was `not measured`, or is `unjudged`. And ``--only-changed`` shows cells
that ceased to fail, which asv hides.

asv has no hook for this, so this module replaces the function that formats a grid, and wraps those that compare and that run
a cell.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import tabulate
from asv import results, runner, util
from asv.commands import compare
from asv.commands.compare import Compare

from tlbench.exceptions import BadInput
from tlbench.grid import words_of
from tlbench.paths import MACHINE_VARIABLE
from tlbench.records import endings
from tlbench.records.outcome import Kind
from tlbench.report.stored import is_nan

ABSENT = "n/a"
"""asv's word for every absent figure."""
NOT_MEASURED, UNJUDGED = "not measured", "unjudged"
UNCHANGED = ("", "x")
"""asv's marks of rows that did not change, or whose two benchmarks are different versions."""
ROW = re.compile(r"(?P<benchmark>[^(]+)\((?P<cell>.*)\)( \[(?P<where>.*)\])?$")

Line = list[str]
_print_table, _run_cell = Compare.print_table.__func__, runner._run_benchmark_single_param
_asked: dict[str, set[int]] = {}
"""The cells that this process has run, by benchmark. A run shows those alone; asv shows what earlier runs stored, too."""


def format_grid(result: Sequence[Any], benchmark: dict[str, Any], max_width: int | None = None) -> Sequence[str]:
    """The lines of a benchmark's table, one cell each, instead of :func:`asv.results._format_benchmark_result`."""
    points = list(itertools.product(*benchmark["params"]))
    asked = _asked.get(benchmark["name"], range(len(points)))
    rows = [
        [*(text.strip("'") for text in point), util.human_value(value, benchmark["unit"], err=error)]
        for i, (point, (value, error)) in enumerate(zip(points, result, strict=True))
        if i in asked and not is_nan(value)
    ]
    lines = util.format_text_table([[*benchmark["param_names"], ""], *rows], 1).splitlines() if rows else []
    if left_out := len(asked) - len(rows):
        lines.append(f"{left_out} of {len(asked)} cells have no figure (not applicable, or not measured)")
    return list(lines)


def run_cell(benchmark: dict[str, Any], spawner: Any, param_idx: int, *args: Any, **named: Any) -> Any:
    """Run one cell like asv's function does, and remember that it was asked for."""
    _asked.setdefault(benchmark["name"], set()).add(param_idx)
    return _run_cell(benchmark, spawner, param_idx, *args, **named)


class Absences:
    """Why cells of one commit and machine have no figure."""

    def __init__(self, folder: Path, machine: str, commit: str) -> None:
        self._measured: set[tuple[str, str]] = set()
        self._kinds: dict[str, set[Kind]] = {}
        for stored in results.iter_results_for_machine_and_hash(str(folder), machine, commit):
            for name in stored.get_all_result_keys():
                params = stored.get_result_params(name)
                for point, value in zip(itertools.product(*params), stored.get_result_value(name, params), strict=True):
                    if value is not None and not is_nan(value):
                        self._measured.add((_class_of(name), _cell(point)))
        for path in folder.joinpath(machine).glob(f"{commit[:8]}-*{endings.SUFFIX}"):
            try:
                found = endings.read(path)
            except BadInput as error:
                raise util.UserError(str(error)) from error
            for (_, cell), ending in found.items():
                self._kinds.setdefault(cell, set()).add(ending.kind)

    def word(self, name: str) -> str:
        """The word for a row's name, such as ``accuracy.Logit.track_max('zoo-gpt2', 'float32', ...)``."""
        row = ROW.match(name)
        if row is None:
            return NOT_MEASURED
        cell = _cell(row["cell"].split(", "))
        kinds = self._kinds.get(cell, set())
        if Kind.NOT_APPLICABLE in kinds or (_class_of(row["benchmark"]), cell) in self._measured:
            return ABSENT
        return UNJUDGED if Kind.MEASURED in kinds else NOT_MEASURED


class Table:
    """Stands in for the module :mod:`tabulate` in asv's comparison, and filters the rows that it is given.

    Args:
        words: for each commit, the word for a row in which it has no figure.
        only_changed: whether to leave out what did not change.
    """

    def __init__(self, words: Sequence[Callable[[str], str]], only_changed: bool) -> None:
        self._words, self._only_changed = words, only_changed
        self._left_out = self._unchanged = 0

    def tabulate(self, lines: Iterable[Line], headers: Line, tablefmt: str) -> str:
        """The table of those rows, or a line that says that there are none."""
        shown = [line for line in map(self._worded, lines) if self._is_shown(line)]
        if not shown:
            return "(none)"
        return str(tabulate.tabulate(shown, headers=headers, tablefmt=tablefmt, disable_numparse=True))

    def conclusion(self) -> str:
        """What was left out, or ""."""
        parts = []
        if self._left_out:
            parts.append(f"{self._left_out} rows without a figure in either commit (not applicable, or not measured)")
        if self._unchanged:
            parts.append(f"{self._unchanged} that did not change")
        return f"Left out: {' and '.join(parts)}." if parts else ""

    def _worded(self, line: Line) -> Line:
        mark, *values, ratio, name = line
        if values.count(ABSENT) == 1:
            values = [word(name) if value == ABSENT else value for value, word in zip(values, self._words, strict=True)]
        return [mark, *values, "" if ratio == ABSENT else ratio, name]

    def _is_shown(self, line: Line) -> bool:
        if line[1] == line[2] == ABSENT:
            self._left_out += 1
            return False
        if self._only_changed and line[0].strip() in UNCHANGED:
            self._unchanged += 1
            return False
        return True


def print_table(
    cls: Any, /, conf: Any, hash_1: str, hash_2: str, *args: Any, only_changed: bool = False, **named: Any
) -> Any:
    """Print a comparison like asv's function, in other words and with fewer rows."""
    machine = named.get("machine") or os.environ.get(MACHINE_VARIABLE, "")
    words = [Absences(Path(conf.results_dir), machine, commit).word for commit in (hash_1, hash_2)]
    table = Table(words, only_changed)
    with patch.object(compare, "tabulate", table):
        outcome = _print_table(cls, conf, hash_1, hash_2, *args, only_changed=False, **named)
    if left_out := table.conclusion():
        print(f"\n{left_out}")
    return outcome


def _class_of(name: str) -> str:
    return name.rpartition(".")[0]


def _cell(point: Iterable[str]) -> str:
    return " ".join(words_of(*(text.strip("'") for text in point)))


results._format_benchmark_result = format_grid
runner._run_benchmark_single_param = run_cell
Compare.print_table = classmethod(print_table)
