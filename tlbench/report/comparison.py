"""`tlbench status --since`: what became wrong, fails now or was mended between two commits, in every part.

Each part is compared on one machine that measured it at both. Where one wrapper follows the other, their cells are paired.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from enum import StrEnum

from rich.console import Console

from tlbench.exceptions import BadInput
from tlbench.grid import Cell, Space, Statistic, Wrapper
from tlbench.metrics.change import HALF_A_BIT
from tlbench.report import render, status
from tlbench.report.checks import CLASSES, STORED, Part
from tlbench.report.render import CELL, Column, Format, Value
from tlbench.report.status import ASKED, Checked, Finding, PartStatus, Word, joined
from tlbench.report.stored import BENCHMARKS, Commit, StoredResults

FACTOR = 2**HALF_A_BIT
"""The smallest factor between mean logit errors that is mentioned."""


class Change(StrEnum):
    """How one check of one cell changed. The order is that of the page."""

    NOW_WRONG = "now wrong"
    NOW_FAILS = "now fails"
    NOW_UNJUDGED = "now unjudged"
    FIRST_SEEN = "first seen"
    """It is wrong or fails, and was not applicable or not measured before: nobody knows since when."""
    STILL = "still"
    """It was wrong or failed before, too."""
    MENDED = "mended"
    SAME = "right in both"
    GONE = "gone"
    """It was measured before, and is not applicable or not measured now."""


WORSE = (Change.NOW_WRONG, Change.NOW_FAILS)
SHOWN = (*WORSE, Change.NOW_UNJUDGED, Change.FIRST_SEEN, Change.STILL, Change.MENDED)


@dataclass(frozen=True)
class Changed:
    """One check of one cell at two commits; the cells differ where one wrapper follows the other."""

    change: Change
    earlier: Checked | None
    later: Checked


@dataclass(frozen=True)
class PartComparison:
    """One part at two commits.

    Attributes:
        earlier: the part as it was; ``later`` as it is. Both of the same machine.
        problem: why the part cannot be compared; "" if it can.
        grown: by what factor mean logit errors changed that changed by half a bit or more; of the logits alone.
    """

    part: Part
    earlier: PartStatus | None
    later: PartStatus | None
    changes: tuple[Changed, ...] = ()
    problem: str = ""
    grown: tuple[tuple[Cell, float], ...] = ()


def compare(
    stored: StoredResults, earlier: Commit, later: Commit, is_wanted: Callable[[Cell], bool]
) -> list[PartComparison]:
    """Every part at both commits."""
    found = []
    for part in STORED:
        sources = {str(commit): status.source(stored, commit, part) for commit in (earlier, later)}
        benchmark = min(filter(None, sources.values()), key=lambda name: name != CLASSES[part], default="")
        if missing := [name for name, of_commit in sources.items() if of_commit != benchmark or not benchmark]:
            found.append(PartComparison(part, None, None, problem=f"{Word.NOT_MEASURED} at {joined(missing)}"))
            continue
        try:
            machine = stored.common_machine([earlier, later], benchmark)
        except BadInput:
            found.append(PartComparison(part, None, None, problem="measured on two machines, which are not compared"))
            continue
        was, now = (status.part_status(stored, commit, part, is_wanted, machine) for commit in (earlier, later))
        if not (changes := tuple(_changes(was, now))):
            found.append(PartComparison(part, None, None, problem=f"{Word.NOT_MEASURED} at both"))
            continue
        grown = tuple(_grown(stored, earlier, later, is_wanted, machine)) if part is Part.LOGITS else ()
        found.append(PartComparison(part, was, now, changes, grown=grown))
    return found


def _changes(earlier: PartStatus, later: PartStatus) -> Iterable[Changed]:
    run = [[cell for cell, word in side.words.items() if word.has_run] for side in (earlier, later)]
    is_followed = _is_followed(*run)
    before = {
        (one.what, _key(one.cell, is_followed)): one
        for one in earlier.checked
        if not is_followed or one.cell.wrapper is run[0][0].wrapper
    }
    for now in later.checked:
        if not is_followed or now.cell.wrapper is run[1][0].wrapper:
            was = before.get((now.what, _key(now.cell, is_followed)))
            if change := _change(was, now):
                yield Changed(change, was, now)


def _change(before: Checked | None, now: Checked) -> Change | None:
    """None if neither was measured, or what was unjudged still is."""
    was = before.word if before else Word.NOT_MEASURED
    bad = (Word.WRONG, Word.FAILED)
    if not was.has_run:
        return Change.FIRST_SEEN if now.word in bad else None
    if not now.word.has_run:
        return Change.GONE
    if now.word in bad:
        if was in bad:
            return Change.STILL
        return Change.NOW_FAILS if now.word is Word.FAILED else Change.NOW_WRONG
    if now.word is Word.UNJUDGED:
        return None if was is Word.UNJUDGED else Change.NOW_UNJUDGED
    return Change.MENDED if was in bad else Change.SAME


def _grown(
    stored: StoredResults, earlier: Commit, later: Commit, is_wanted: Callable[[Cell], bool], machine: str
) -> Iterable[tuple[Cell, float]]:
    if not all(stored.has(commit, BENCHMARKS[Space.LOGIT], machine) for commit in (earlier, later)):
        return
    means = [
        {row.cell: mean for row in stored.rows(commit, Space.LOGIT, machine) if (mean := row.values.get(Statistic.MEAN))}
        for commit in (earlier, later)
    ]
    is_followed = _is_followed(*means)
    before = {_key(cell, is_followed): mean for cell, mean in means[0].items()}
    for cell, after in means[1].items():
        factor = after / before.get(_key(cell, is_followed), after)
        if is_wanted(cell) and not 1 / FACTOR < factor < FACTOR:
            yield cell, factor


def _is_followed(earlier: Collection[Cell], later: Collection[Cell]) -> bool:
    """Whether one wrapper follows the other: both commits have one, and none in common."""
    wrappers = [{cell.wrapper for cell in cells} for cells in (earlier, later)]
    return all(wrappers) and not wrappers[0] & wrappers[1]


def _key(cell: Cell, is_followed: bool) -> Cell:
    """What pairs cells: themselves, or themselves whatever their wrapper."""
    return replace(cell, wrapper=Wrapper.TRANSFORMER_BRIDGE) if is_followed else cell


def _of(parts: Sequence[PartComparison], *changes: Change) -> list[Changed]:
    return [one for part in parts for one in part.changes if one.change in changes]


def exit_status(parts: Sequence[PartComparison]) -> int:
    """1 if something became wrong or fails now; 3 if that cannot be said of every part and check; else 0."""
    if _of(parts, *WORSE):
        return 1
    unknown = _of(parts, Change.NOW_UNJUDGED, Change.FIRST_SEEN)
    return 3 if unknown or any(part.problem for part in parts if part.part in ASKED) else 0


def answer(earlier: Commit, later: Commit, parts: Sequence[PartComparison]) -> str:
    """The answer in one sentence."""
    worse, compared = _of(parts, *WORSE), _of(parts, *(set(Change) - {Change.FIRST_SEEN, Change.GONE}))
    names = f"TransformerLens {later}", f"{earlier}"
    if worse:
        whats: dict[Part, list[str]] = defaultdict(list)
        for one in worse:
            whats[one.later.part].append(one.later.what)
        told = joined(status.named(*item) for item in whats.items())
        head = f"Yes, {names[0]} is worse than {names[1]} in {told}"
    else:
        head = f"No, {names[0]} is nowhere worse than {names[1]} where both were measured ({len(compared):,} checks)"
    clauses = []
    if first := list(dict.fromkeys(one.later.what for one in _of(parts, Change.FIRST_SEEN))):
        clauses.append(f"wrong or failed, and not measured or n/a in {earlier}: {', '.join(first)}")
    problems: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        if part.problem and part.part in ASKED:
            problems[part.problem].append(part.part)
    clauses += [f"{problem}: {joined(of)}" for problem, of in problems.items()]
    return f"{'; '.join([head, *clauses])}."


def show(console: Console, style: Format, parts: Sequence[PartComparison]) -> None:
    """What changed, the worst first; then how many checks did. CSV: every check of every cell that both commits have."""
    if style is Format.CSV:
        _show_csv(console, parts)
        return
    lines: list[list[Value]] = []
    for change in SHOWN:
        for one in _findings(parts, change):
            count = f"{len(one.cells)} cell{'s' * (len(one.cells) != 1)}"
            if style is Format.RICH:
                status.show_finding(console, change, one, count, max(map(len, SHOWN)))
            lines.append([change, one.part, one.what, one.measure, count, one.models])
    if style is Format.MARKDOWN and lines:
        render.show(console, style, "", [Column(n) for n in ("", "part", "check", "worst", "cells", "models")], lines)
    elif lines:
        console.print()
    columns = [Column("checks"), *(Column(change, str) for change in Change)]
    counts: list[list[Value]] = [
        [part.part, *(sum(one.change is change for one in part.changes) for change in Change)]
        for part in parts
        if part.later
    ]
    render.show(console, style, "", columns, counts)
    for note in _notes(parts):
        console.print(note, highlight=False, markup=False) if style is Format.RICH else print(f"- {note}")


def _notes(parts: Sequence[PartComparison]) -> Iterable[str]:
    """On which machine each part was compared or why it was not, and which logit errors changed though they are right."""
    sources: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        sources[f"both measured on {part.later.machine}" if part.later else part.problem].append(part.part)
    for source, of_source in sources.items():
        yield f"{joined(of_source)}: {source}."
    grown = [item for part in parts for item in part.grown]
    for word, cells in (("grew", [c for c in grown if c[1] > 1]), ("fell", [c for c in grown if c[1] < 1])):
        if cells:
            cell, factor = max(cells, key=lambda one: max(one[1], 1 / one[1]))
            yield f"{len(cells)} mean logit errors {word} by half a bit or more; the most, {factor:.3g} times: {cell}."


def _findings(parts: Sequence[PartComparison], change: Change) -> list[Finding]:
    """The checks that changed like this, as findings; of what was mended, as it was."""
    sides = []
    for part in parts:
        of_part = [one for one in part.changes if one.change is change]
        checked = tuple(one.earlier if change is Change.MENDED and one.earlier else one.later for one in of_part)
        if part.later and checked:
            sides.append(replace(part.later, checked=checked))
    return status.findings(sides)


def _show_csv(console: Console, parts: Sequence[PartComparison]) -> None:
    names = (
        "part",
        "check",
        "change",
        "earlier",
        "later",
        "unit",
        "earlier_word",
        "later_word",
        "earlier_wrapper",
        "machine",
    )
    lines = [
        [
            *(*astuple(one.later.cell), part.part, one.later.what, one.change),
            *(one.earlier.value if one.earlier else None, one.later.value, one.later.unit),
            *(one.earlier.word if one.earlier else Word.NOT_MEASURED, one.later.word),
            *(one.earlier.cell.wrapper if one.earlier else "", part.later.machine if part.later else ""),
        ]
        for part in parts
        for one in part.changes
    ]
    render.show(console, Format.CSV, "", [*CELL, *map(Column, names)], lines)
