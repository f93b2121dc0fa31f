"""`tlbench status`: is anything wrong at a commit, in logits, hooks, generation, reading, gradients, depth or length?

Everything comes from stored results: each part from one machine, which is named, with the day that it was measured.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property

from rich.console import Console
from rich.table import Column as GridColumn
from rich.table import Table
from rich.text import Text

from tlbench.arithmetic import is_shared
from tlbench.grid import Cell
from tlbench.metrics.figures import RATIO_GATE
from tlbench.metrics.verdict import Verdict
from tlbench.records.endings import Asked, Ending
from tlbench.records.outcome import Kind
from tlbench.report import render
from tlbench.report.checks import (
    CHECKS,
    CLASSES,
    OTHER_CLASSES,
    OTHER_MODULES,
    OWN_ERROR,
    QUESTIONS,
    RATIO,
    STORED,
    UNCHECKED,
    Part,
)
from tlbench.report.render import CELL, COMMIT, Column, Format
from tlbench.report.stored import BENCHMARKS, Absence, Commit, Figure, Row, State, StoredResults, TruthRow, is_figure, is_nan

NAMED = 4
"""How many models a finding names before it counts the rest."""


class Word(StrEnum):
    """What is known about one check of one cell. The order is that of the page: what is wrong comes first."""

    WRONG = "wrong"
    FAILED = "failed"
    UNJUDGED = "unjudged"
    RIGHT = "right"
    NOT_APPLICABLE = "n/a"
    NOT_MEASURED = "not measured"

    @property
    def has_run(self) -> bool:
        """Whether somebody measured, or tried to."""
        return self not in (Word.NOT_APPLICABLE, Word.NOT_MEASURED)


PROBLEMS = (Word.WRONG, Word.FAILED, Word.UNJUDGED)
ASKED = tuple(part for part in STORED if part is not Part.FLOOR)
"""What must be measured before the answer can be no. The noise floor is a yardstick, not a promise of TransformerLens's."""
STYLES = {Word.WRONG: "bold red", Word.FAILED: "red", Word.UNJUDGED: "magenta"}
WORDS = {
    Verdict.UNJUDGED: Word.UNJUDGED,
    Verdict.WORSE: Word.WRONG,
    Verdict.BROKEN: Word.WRONG,
    Verdict.FAILED: Word.FAILED,
    Verdict.NOT_APPLICABLE: Word.NOT_APPLICABLE,
    Verdict.NOT_MEASURED: Word.NOT_MEASURED,
}
"""All other verdicts are right."""


@dataclass(frozen=True)
class Checked:
    """One check of one cell.

    Attributes:
        what: what is checked, in a few words.
        value: the stored figure; None if there is none.
        limit: the largest right value; None if none is known.
        unit: of both; "" for a plain ratio.
        reason: why it failed, is not applicable or is unjudged; "" if nobody kept a reason.
        verdict: the logits' own word; "" for any other check.
    """

    part: Part
    what: str
    cell: Cell
    word: Word
    value: float | None = None
    limit: float | None = None
    unit: str = ""
    reason: str = ""
    verdict: str = ""

    @property
    def excess(self) -> float:
        """By what factor the value is beyond its limit, or the value itself where only 0 is right."""
        if self.value is None:
            return 0.0
        return self.value / self.limit if self.limit else self.value


@dataclass(frozen=True)
class PartStatus:
    """All checks of one part at one commit.

    Attributes:
        machine: whose results these are; "" if the part was not measured there.
        measured_at: when that machine last measured it; None if asv does not say.
        unknown: tracks and classes with figures that have no check, nor a reason for having none.
        noticed_on: the other machines that noticed that cells are not applicable.
    """

    part: Part
    machine: str
    measured_at: datetime | None
    checked: tuple[Checked, ...]
    unknown: tuple[str, ...] = ()
    noticed_on: tuple[str, ...] = ()

    @cached_property
    def by_cell(self) -> dict[Cell, list[Checked]]:
        """The checks of each cell."""
        found: dict[Cell, list[Checked]] = defaultdict(list)
        for one in self.checked:
            found[one.cell].append(one)
        return dict(found)

    @property
    def words(self) -> dict[Cell, Word]:
        """Each cell's word: the first of :class:`Word` that any of its checks has."""
        return {cell: min((one.word for one in own), key=list(Word).index) for cell, own in self.by_cell.items()}

    @property
    def is_measured(self) -> bool:
        """Whether anything in it was measured, or tried."""
        return any(one.word.has_run for one in self.checked)


def examine(stored: StoredResults, commit: Commit, is_wanted: Callable[[Cell], bool]) -> list[PartStatus]:
    """Every part at a commit, measured or not, for the cells that are wanted."""
    return [part_status(stored, commit, part, is_wanted) for part in STORED]


def part_status(
    stored: StoredResults, commit: Commit, part: Part, is_wanted: Callable[[Cell], bool], machine: str = ""
) -> PartStatus:
    """One part at a commit, of one machine."""
    benchmark = source(stored, commit, part)
    if not benchmark:
        return PartStatus(part, "", None, (), _unknown(stored, commit, part, machine))
    machine = machine or stored.machine(commit, benchmark)
    absent: Mapping[str, Absence] = {}
    if benchmark == CLASSES[Part.LOGITS]:
        checked = [*map(_logits, stored.truth_rows(commit, machine))]
    elif part is Part.LOGITS:
        space = next(space for space, name in BENCHMARKS.items() if name == benchmark)
        checked = [*map(_unjudged_logits, stored.rows(commit, space, machine))]
    else:
        absent = stored.not_applicable(commit, machine)
        checked = list(_inside(stored, commit, part, machine, absent))
    wanted = tuple(one for one in checked if is_wanted(one.cell))
    not_applicable = (str(one.cell) for one in wanted if one.word is Word.NOT_APPLICABLE)
    noticed = {absent[name].machine for name in not_applicable if name in absent}
    at = stored.measured_at(commit, benchmark, machine)
    unknown = _unknown(stored, commit, part, machine)
    return PartStatus(part, machine, at, wanted, unknown, tuple(sorted(noticed - {machine})))


def source(stored: StoredResults, commit: Commit, part: Part) -> str:
    """The benchmark class that has figures of a part at a commit; "" if none has. Only a golden's gives logits a verdict."""
    classes = [CLASSES[part], *(BENCHMARKS.values() if part is Part.LOGITS else ())]
    return next((name for name in classes if stored.has(commit, name)), "")


def _unjudged_logits(row: Row) -> Checked:
    word = Word.UNJUDGED if row.state is State.MEASURED else Word(row.state)
    reason = "measured against HuggingFace alone, which does not say what is right" if word is Word.UNJUDGED else ""
    return Checked(Part.LOGITS, "logits", row.cell, word, reason=reason)


def _logits(row: TruthRow) -> Checked:
    word, limit = WORDS.get(row.verdict, Word.RIGHT), RATIO_GATE[row.cell.dtype]
    ratio = row.figures.get(Figure.RATIO)
    return Checked(Part.LOGITS, "logits", row.cell, word, ratio, limit, RATIO, row.reason, row.verdict)


def _inside(
    stored: StoredResults, commit: Commit, part: Part, machine: str, absent: Mapping[str, Absence]
) -> Iterable[Checked]:
    checks = [check for check in CHECKS if check.part is part]
    values = {check: stored.values(commit, check.benchmark, Cell, machine) for check in checks}
    others = [stored.values(commit, f"{CLASSES[part]}.track_{name}", Cell, machine) for name in UNCHECKED.get(part, ())]
    own_errors = stored.values(commit, OWN_ERROR, Cell, machine)
    ended = stored.endings(commit, machine=machine)
    cells = dict.fromkeys(cell for by_cell in values.values() for cell in by_cell)
    for cell in cells:
        has_run = any(not is_nan(by_cell.get(cell, math.nan)) for by_cell in (*values.values(), *others))
        own_error = own_errors.get(cell)
        for check in checks:
            value = values[check].get(cell, math.nan)
            limit = check.limit(cell.dtype, own_error if is_figure(own_error) else None)
            reason = _reason(ended, QUESTIONS[part], cell) if value is None else ""
            if str(cell) in absent:
                reason = reason or f"{absent[str(cell)].reason} (noticed on {absent[str(cell)].machine})"
            word = _word(value, limit, has_run, str(cell) in absent)
            yield Checked(part, check.what, cell, word, value if is_figure(value) else None, limit, check.unit, reason)


def _word(value: float | None, limit: float | None, has_run: bool, is_absent: bool) -> Word:
    if value is None:
        return Word.FAILED
    if is_nan(value):  # where the cell was measured, asv stores NaN for what the model has not
        return Word.NOT_APPLICABLE if has_run or is_absent else Word.NOT_MEASURED
    return judged(value, limit)


def judged(value: float, limit: float | None) -> Word:
    """The word for a measured figure. Without a limit, only 0 is known to be right."""
    if limit is None:
        return Word.UNJUDGED if value else Word.RIGHT
    return Word.RIGHT if value <= limit else Word.WRONG


def _reason(ended: Mapping[Asked, Ending], question: str, cell: Cell) -> str:
    """Why a cell failed: as a whole, or the attempts within it."""
    own = {asked: end for (asked, of), end in ended.items() if of == str(cell) and end.kind is Kind.FAILED}
    reasons = [end.reason for asked, end in own.items() if asked.split("/")[0] == question]
    return "; ".join(reason.split("\n")[0] for reason in reasons)


def _unknown(stored: StoredResults, commit: Commit, part: Part, machine: str) -> tuple[str, ...]:
    if part is Part.LOGITS:  # and classes that are of no part
        known = {*CLASSES.values(), *OTHER_CLASSES}
        return tuple(name for name in stored.classes(commit) if name not in known and not name.startswith(OTHER_MODULES))
    known = {check.track for check in CHECKS if check.part is part} | set(UNCHECKED.get(part, ()))
    tracks = stored.tracks(commit, CLASSES[part], machine)
    return tuple(f"{CLASSES[part]}.track_{track}" for track in tracks if track not in known)


@dataclass(frozen=True)
class Finding:
    """One problem, and the cells that have it.

    Attributes:
        what: which check; of a failure, all that failed.
        n_measured: in how many cells this was tried.
    """

    word: Word
    part: Part
    what: str
    cells: tuple[Checked, ...]
    n_measured: int

    @property
    def worst(self) -> Checked:
        """The cell with the largest excess."""
        return max(self.cells, key=lambda one: one.excess)

    @property
    def models(self) -> str:
        """Which models have it, the rest counted if there are many."""
        return few(one.cell.model for one in sorted(self.cells, key=lambda one: -one.excess))

    @property
    def measure(self) -> str:
        """The worst figure beside the largest right one; of a failure, its reason."""
        worst = self.worst
        if worst.value is None:
            return worst.reason or "it raised, and no reason was kept"
        if worst.limit is None:
            right = "no figure but 0 can be judged here"
        else:
            right = f"right up to {worst.limit:.2g}" if worst.limit else "must be 0"
        verdict = f", {worst.verdict}" if worst.verdict else ""
        return f"{worst.value:.3g} {worst.unit}".strip() + f" ({right}){verdict}"


def findings(parts: Sequence[PartStatus]) -> list[Finding]:
    """What is wrong, then what failed, then what is unjudged; within each, by part, the largest excess first."""
    groups: dict[tuple[Word, Part, str, str], list[Checked]] = defaultdict(list)
    tried: Counter[tuple[Part, str]] = Counter()
    without_logits = failed_logits(parts)
    for status in parts:
        for cell, own in status.by_cell.items():
            tried[status.part, ""] += any(one.word.has_run for one in own)
            tried.update((status.part, one.what) for one in own if one.word.has_run)
            for one in own:
                if one.word in (Word.WRONG, Word.UNJUDGED):
                    groups[one.word, one.part, one.what, ""].append(one)
            if failed := [one for one in own if one.word is Word.FAILED]:
                is_whole = all(one.word in (Word.FAILED, Word.NOT_APPLICABLE) for one in own)
                if is_whole and cell in without_logits and status.part is not Part.LOGITS:
                    continue  # the model does not run, which is one finding
                what = "everything" if is_whole and len(own) > 1 else ", ".join(one.what for one in failed)
                groups[Word.FAILED, status.part, what, failed[0].reason].append(failed[0])
    found = [
        Finding(word, part, what, tuple(cells), tried[part, what if word is not Word.FAILED else ""])
        for (word, part, what, _), cells in groups.items()
    ]
    words, places = list(Word), list(Part)
    return sorted(found, key=lambda one: (words.index(one.word), places.index(one.part), -one.worst.excess, -len(one.cells)))


def failed_logits(parts: Sequence[PartStatus]) -> set[Cell]:
    """The cells that have no logits because they failed."""
    return {one.cell for status in parts for one in status.checked if (one.part, one.word) == (Part.LOGITS, Word.FAILED)}


def exit_status(parts: Sequence[PartStatus]) -> int:
    """1 if something is wrong or failed; 3 if nothing is known to be, but something is unjudged or a part not measured."""
    words = {one.word for status in parts for one in status.checked}
    if words & {Word.WRONG, Word.FAILED}:
        return 1
    return 3 if Word.UNJUDGED in words or not all(status.is_measured for status in parts if status.part in ASKED) else 0


def answer(commit: Commit, parts: Sequence[PartStatus]) -> str:
    """The answer in one sentence: what is wrong, what failed and what nobody measured."""
    by_word: dict[Word, dict[Part, list[str]]] = {word: defaultdict(list) for word in PROBLEMS}
    for one in findings(parts):
        by_word[one.word][one.part].append(one.what)
    missing = [status.part for status in parts if status.part in ASKED and not status.is_measured]
    clauses = []
    if wrong := by_word[Word.WRONG]:
        is_short = sum(map(len, wrong.values())) <= NAMED
        clauses.append(f"{Word.WRONG} in {joined(named(*item) if is_short else item[0] for item in wrong.items())}")
    if failed := by_word[Word.FAILED]:
        clauses.append(f"{Word.FAILED} in {joined(failed)}")
    is_alarm = bool(clauses)
    if unjudged := by_word[Word.UNJUDGED]:
        clauses.append(f"partly {Word.UNJUDGED} in {joined(unjudged)}")
    if missing:
        clauses.append(f"{Word.NOT_MEASURED} in {joined(missing)}")
    if is_alarm:
        head = f"Yes, in TransformerLens {commit}: "
    elif clauses:
        head = f"Nothing is known to be wrong in TransformerLens {commit}, but: "
    else:
        n = sum(one.word.has_run for status in parts for one in status.checked)
        head = f"No, nothing is wrong in TransformerLens {commit} ({n:,} checks)"
    return f"{head}{'; '.join(clauses)}."


def named(part: Part, whats: Iterable[str]) -> str:
    """A part with its checks in brackets, if they are few and say more than the part."""
    different = list(dict.fromkeys(whats))
    return str(part) if different == [part] or len(different) > NAMED else f"{part} ({'; '.join(different)})"


def few(names: Iterable[str]) -> str:
    """The first different names, and how many more there are."""
    different = list(dict.fromkeys(names))
    return ", ".join(different[:NAMED]) + (f" and {len(different) - NAMED} more" if len(different) > NAMED else "")


def joined(words: Iterable[str]) -> str:
    """``a, b and c``."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def show(console: Console, style: Format, commit: Commit, parts: Sequence[PartStatus]) -> None:
    """What is wrong, then how much of each part was measured, on which machine and when. CSV: every check of every cell."""
    if style is Format.CSV:
        _show_csv(console, commit, parts)
    elif style is Format.MARKDOWN:
        _show_markdown(console, parts)
    else:
        found = findings(parts)
        for one in found:
            show_finding(console, one.word, one, f"{len(one.cells)} of {one.n_measured} cells")
        if found:
            console.print()
        _show_parts(console, style, parts)
        for note in notes(parts):
            console.print(note, highlight=False, markup=False)


def show_finding(console: Console, word: str, finding: Finding, count: str, width: int = 8) -> None:
    """Two lines or more: what was found, and where."""
    worst = finding.worst.cell
    such_as = "such as" if finding.word is Word.FAILED else "worst in"
    where = f"{finding.models} ({count}; {such_as} {worst.model} {worst.dtype} {worst.option} {worst.wrapper})"
    title = str(finding.part) if finding.what == finding.part else f"{finding.part}: {finding.what}"
    grid = Table.grid(GridColumn(width=width + 1), GridColumn(), padding=(0, 1))
    grid.add_row(Text(word, STYLES[finding.word]), Text(f"{title}: {finding.measure}\n{where}"))
    console.print(grid)


def _show_markdown(console: Console, parts: Sequence[PartStatus]) -> None:
    lines = [
        [one.word, one.part, one.what, one.measure, f"{len(one.cells)} of {one.n_measured}", one.models, str(one.worst.cell)]
        for one in findings(parts)
    ]
    columns = [Column(name) for name in ("", "part", "check", "worst", "cells", "models", "worst cell")]
    if lines:
        render.show(console, Format.MARKDOWN, "", columns, lines)
    _show_parts(console, Format.MARKDOWN, parts)
    for note in notes(parts):
        print(f"- {note}")


def _show_parts(console: Console, style: Format, parts: Sequence[PartStatus]) -> None:
    """How many checks of a part are right in every cell, and the cells by their worst check."""
    words = [Word.WRONG, Word.FAILED, Word.UNJUDGED, Word.RIGHT, Word.NOT_APPLICABLE, Word.NOT_MEASURED]
    columns = [Column("part"), Column("checks right"), *(Column(word, str) for word in words)]
    lines = []
    for status in parts:
        counts = Counter(status.words.values())
        whats = {one.what for one in status.checked if one.word.has_run}
        wrong = {one.what for one in status.checked if one.word in PROBLEMS}
        right = f"{len(whats - wrong)} of {len(whats)}" if status.is_measured else ""
        of_part = [counts[word] for word in words] if status.is_measured else [*[None] * 5, "all"]
        lines.append([status.part, right, *of_part])
    render.show(console, style, "Cells by their worst check", columns, lines)


def notes(parts: Sequence[PartStatus]) -> Iterable[str]:
    """From which machine each part comes, and which models and options were left out."""
    sources: dict[tuple[str, str], list[PartStatus]] = defaultdict(list)
    measured: dict[Part, set[Cell]] = {}
    for status in parts:
        measured[status.part] = {cell for cell, word in status.words.items() if word.has_run}
        if status.is_measured:
            day = f"{status.measured_at:%Y-%m-%d}" if status.measured_at else "an unknown day"
            sources[status.machine, day].append(status)
    for (machine, day), of_source in sources.items():
        arithmetic = "the arithmetic that all machines share" if is_shared(machine) else "its own arithmetic"
        yield f"{joined([status.part for status in of_source])}: {machine} ({arithmetic}), {day}."
    for others, of_noticing in _noticed(parts).items():
        yield f"{Word.NOT_APPLICABLE} in {joined(of_noticing)}: noticed on {joined(others)}."
    if failed_logits(parts):
        yield f"Where logits {Word.FAILED}, nothing else of the cell can be measured: it is listed once."
    models = {one.cell.model for status in parts for one in status.checked}
    run = {cell.model for cells in measured.values() for cell in cells}
    if absent := sorted(models - run):
        yield f"{Word.NOT_MEASURED.capitalize()} at all: {few(absent)}."
    for words, of_part in _partly(measured).items():
        yield f"{Word.NOT_MEASURED.capitalize()} in {joined(of_part)}: {words}."
    if unknown := [name for status in parts for name in status.unknown]:
        yield f"Stored, but no check knows the largest right figure: {', '.join(unknown)}."


def _noticed(parts: Sequence[PartStatus]) -> dict[tuple[str, ...], list[Part]]:
    """The parts whose cells are not applicable according to other machines, by these machines."""
    found: dict[tuple[str, ...], list[Part]] = defaultdict(list)
    for status in parts:
        if status.noticed_on and status.is_measured:
            found[status.noticed_on].append(status.part)
    return found


def _partly(measured: Mapping[Part, set[Cell]]) -> dict[str, list[Part]]:
    """The models and options that one part has and another has not, by what is missing."""
    every = [cells for cells in measured.values() if cells]
    models, options = ({getattr(cell, of) for cells in every for cell in cells} for of in ("model", "option"))
    found: dict[str, list[Part]] = defaultdict(list)
    for part, cells in measured.items():
        missing = [sorted(models - {cell.model for cell in cells}), sorted(options - {cell.option for cell in cells})]
        if cells and any(missing):
            models_missing = [few(missing[0])] if missing[0] else []
            found[", ".join(models_missing + missing[1])].append(part)
    return found


def _show_csv(console: Console, commit: Commit, parts: Sequence[PartStatus]) -> None:
    names = ("part", "check", "word", "value", "limit", "unit", "machine", "measured_at", "reason")
    columns = [*COMMIT, *CELL, *map(Column, names)]
    lines = [
        [
            *(commit.hash, commit.tag, *astuple(one.cell), one.part, one.what, one.word, one.value, one.limit, one.unit),
            *(status.machine, status.measured_at.isoformat() if status.measured_at else "", one.reason),
        ]
        for status in parts
        for one in status.checked
    ]
    render.show(console, Format.CSV, "", columns, lines)
