"""Pages of what is stored beside the logits: hooks, gradients, growth, costs, environments and failures."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tlbench.environments.metadata import Metadata, differences
from tlbench.exceptions import BadInput
from tlbench.grid import Cell, Operation, RuntimeCell, Wrapper
from tlbench.records.outcome import Kind
from tlbench.report import outcomes, slowdowns, status
from tlbench.report.checks import CHECKS, CLASSES, STORED, UNCHECKED, Check, Part
from tlbench.report.slowdowns import CostRow
from tlbench.report.status import Checked, PartStatus, Word
from tlbench.report.stored import COSTS, Commit, State, StoredResults, is_figure
from tlbench.site import findings, render
from tlbench.site.commits import MeasuredCommit
from tlbench.site.history import results_files
from tlbench.site.pages import Site
from tlbench.site.words import ENVIRONMENT

PAGES = {
    "hooks.html": ("Hooks and generation", (Part.HOOKS, Part.GENERATION)),
    "gradients.html": ("Gradients and reading", (Part.GRADIENTS, Part.READING)),
    "growth.html": ("Growth with depth and length", (Part.DEPTH, Part.LENGTH)),
}
ABOUT = {
    Part.HOOKS: "Do hooks and caches tell the truth? Most of these must be 0, bit for bit.",
    Part.GENERATION: "The key-value cache against a full pass, and greedy tokens against HuggingFace's.",
    Part.READING: "What researchers compute from activations, against the golden, in nats.",
    Part.GRADIENTS: "Gradients of a logit difference at every block's input, against the golden gradients: the worst block.",
    Part.DEPTH: "The error of each block fed its golden input, over HuggingFace's own, and how it grows with depth.",
    Part.LENGTH: "The error from one token to the model's longest context, over HuggingFace's own, and how it grows.",
    Part.FLOOR: "How much runs differ that should agree.",
}
DESCRIBED = {
    "propagated_last": ("after the last block", "relative error"),
    "local_max": ("largest error of one block", "relative error"),
    "local_argmax_block": ("at block", "block"),
    "growth_exponent": ("growth exponent", "exponent"),
    "routing_disagreement": ("tokens sent to other experts", "share of tokens"),
    "longest": ("at the longest context", "nats"),
    "cache_error_growth": ("growth exponent of the cache's error", "exponent"),
    "error": ("error", "relative error"),
    "error_correlation": ("correlation with HuggingFace's error", "correlation"),
    "one_less_cosine": ("1 − cosine", "1 − cosine"),
}
"""Tracks without a largest right value, in words."""


@dataclass(frozen=True)
class Inside:
    """What is known about a commit beside its logits."""

    parts: list[PartStatus]
    findings: list[status.Finding]

    @property
    def measured(self) -> list[PartStatus]:
        """The parts that somebody measured."""
        return [part for part in self.parts if part.is_measured]

    @property
    def missing(self) -> list[Part]:
        """The parts that nobody did."""
        return [part.part for part in self.parts if not part.is_measured]


def at(site: Site, commit: MeasuredCommit) -> Inside:
    """Every part but the logits at a commit."""
    parts = _parts(site, commit)
    return Inside(parts, status.findings(parts))


def findings_of(site: Site, commit: MeasuredCommit, one: status.Finding) -> list[findings.Finding]:
    """The written findings that explain what is wrong with a check at a commit."""
    return [known for known in site.findings if commit.version and known.holds_at(commit.version) and _explains(known, one)]


def _explains(known: findings.Finding, one: status.Finding) -> bool:
    named = set(known.models.replace(",", " ").split())
    if not {"every", *(checked.cell.model for checked in one.cells)} & named:
        return False
    if one.word is Word.FAILED:
        return known.part == "failures"
    return any(figure.track == track_of(one.worst) for figure in known.size)


def unexplained(site: Site, commit: MeasuredCommit) -> list[status.Finding]:
    """What is wrong or failed beside the logits at a commit, and no finding explains."""
    bad = [one for one in at(site, commit).findings if one.word in (Word.WRONG, Word.FAILED)]
    return [one for one in bad if not findings_of(site, commit, one)]


def only_later(site: Site, earlier: MeasuredCommit, later: MeasuredCommit) -> list[Part]:
    """The parts that were measured at the later of two commits alone: nothing tells whether they changed."""
    missing = at(site, earlier).missing
    return [part.part for part in at(site, later).measured if part.part in missing]


def _commit(site: Site, commit: MeasuredCommit) -> tuple[StoredResults, Commit] | None:
    of_stored = next((one for one in site.stored.commits if one.hash == commit.hash), None) if site.stored else None
    return (site.stored, of_stored) if site.stored and of_stored else None


_CACHE: dict[tuple[int, str], list[PartStatus]] = {}


def _parts(site: Site, commit: MeasuredCommit) -> list[PartStatus]:
    key = (id(site), commit.hash)
    if key not in _CACHE:
        found = _commit(site, commit)
        _CACHE[key] = _of_commit(*found, site.problems) if found else []
    return _CACHE[key]


def _of_commit(stored: StoredResults, commit: Commit, problems: list[str]) -> list[PartStatus]:
    try:
        return [status.part_status(stored, commit, part, lambda _: True) for part in STORED if part is not Part.LOGITS]
    except BadInput as error:
        problems.append(str(error).replace(f"{stored.results_folder}/", ""))
        return []


@dataclass(frozen=True)
class Worst:
    """The cell of a check that is nearest to its limit, or furthest beyond it, and how many cells are not right, by word.

    A cell that failed has no figure, so another one's is shown if there is one. If none ran, a cell that is not applicable,
    and how many were not measured.
    """

    checked: Checked
    counts: Mapping[Word, int]
    n_run: int
    n_unmeasured: int = 0

    @property
    def word(self) -> Word:
        """The first of :class:`Word` that any of the cells has."""
        return next(iter(self.counts), self.checked.word)

    @property
    def said(self) -> str:
        """The words that are not right, and of how many cells; else that of all."""
        return ", ".join(f"{word} {count} of {self.n_run}" for word, count in self.counts.items()) or self.checked.word


def worst(checked: Iterable[Checked]) -> Worst | None:
    """None if none was measured."""
    checked = list(checked)
    ran = [one for one in checked if one.word.has_run]
    if not ran:
        absent = next((one for one in checked if one.word is Word.NOT_APPLICABLE), None)
        return Worst(absent, {}, 0, sum(one.word is Word.NOT_MEASURED for one in checked)) if absent else None
    order, found = list(Word), Counter(one.word for one in ran)
    first = min(ran, key=lambda one: (one.value is None, order.index(one.word), -one.excess))
    return Worst(first, {word: found[word] for word in status.PROBLEMS if word in found}, len(ran))


def any_ran(found: Iterable[Worst | None]) -> bool:
    """Whether any of the cells behind them was measured."""
    return any(one and one.n_run for one in found)


@dataclass(frozen=True)
class CheckRow:
    """One check in one wrapper at each commit that measured the part."""

    check: Check
    wrapper: Wrapper
    by_commit: list[Worst | None]


@dataclass(frozen=True)
class PartPage:
    """One part: by commit, the newest first, and at its newest commit by model. Nobody measured it at those ``absent``."""

    part: Part
    about: str
    commits: list[tuple[MeasuredCommit, PartStatus]]
    absent: list[MeasuredCommit]
    rows: list[CheckRow]
    models: list[tuple[str, Wrapper, list[Worst | None]]]
    checks: list[Check]
    described: list[tuple[str, str, str]]
    sizes: list[tuple[Cell, list[float | None]]]

    @property
    def not_right(self) -> list[tuple[str, Wrapper, list[Worst | None]]]:
        """The models that are not right in some check."""
        return [row for row in self.models if any(one and one.counts for one in row[2])]

    @property
    def right(self) -> list[tuple[str, Wrapper, list[Worst | None]]]:
        """The other models."""
        return [row for row in self.models if not any(one and one.counts for one in row[2])]


def _part_page(site: Site, part: Part) -> PartPage:
    commits = [
        (commit, of_part)
        for commit in reversed(site.shown)
        for of_part in _parts(site, commit)
        if of_part.part is part and of_part.is_measured
    ]
    measured = {commit.index for commit, _ in commits}
    absent = [commit for commit in site.shown if commit.index not in measured]
    checks = [check for check in CHECKS if check.part is part]
    by_check = [_by_check(of_part) for _, of_part in commits]
    rows = [
        row
        for check in checks
        for wrapper in Wrapper
        if any_ran((row := CheckRow(check, wrapper, [worst(of[check.what, wrapper]) for of in by_check])).by_commit)
    ]
    models: list[tuple[str, Wrapper, list[Worst | None]]] = []
    described, sizes = [(name, *DESCRIBED.get(name, (name, ""))) for name in UNCHECKED.get(part, ())], []
    if commits:
        newest, of_part = commits[0]
        by_model: dict[tuple[str, Wrapper], dict[str, list[Checked]]] = defaultdict(lambda: defaultdict(list))
        for one in of_part.checked:
            by_model[one.cell.model, one.cell.wrapper][one.what].append(one)
        found = [(*key, [worst(of[check.what]) for check in checks]) for key, of in sorted(by_model.items())]
        models = [row for row in found if any_ran(row[2])]
        # The check that most models fail first: on a small screen the others are out of sight.
        failing = Counter(i for _, _, own in models for i, one in enumerate(own) if one and one.counts)
        order = sorted(range(len(checks)), key=lambda i: -failing[i])
        models = [(model, wrapper, [own[i] for i in order]) for model, wrapper, own in models]
        checks = [checks[i] for i in order]
        sizes = _sizes(site, newest, of_part, [name for name, *_ in described])
    return PartPage(part, ABOUT[part], commits, absent, rows, models, checks, described, sizes)


def _by_check(of_part: PartStatus) -> dict[tuple[str, Wrapper], list[Checked]]:
    found: dict[tuple[str, Wrapper], list[Checked]] = defaultdict(list)
    for one in of_part.checked:
        found[one.what, one.cell.wrapper].append(one)
    return found


def _sizes(
    site: Site, commit: MeasuredCommit, of_part: PartStatus, names: Sequence[str]
) -> list[tuple[Cell, list[float | None]]]:
    """The figures of a part that have no largest right value, of the unprocessed models."""
    of_stored = _commit(site, commit)
    if not of_stored or not names:
        return []
    stored, at_commit = of_stored
    by_name = [stored.values(at_commit, f"{CLASSES[of_part.part]}.track_{n}", Cell, of_part.machine) for n in names]
    cells = [cell for cell in by_name[0] if cell.option == "unprocessed"]
    rows = [(cell, [v if is_figure(v := own.get(cell)) else None for own in by_name]) for cell in cells]
    return [row for row in rows if any(value is not None for value in row[1])]


def page_of(part: Part) -> str:
    """The address of a part's page."""
    return next((address for address, (_, parts) in PAGES.items() if part in parts), "coverage.html")


def track_of(one: Checked) -> str:
    """The track that a check reads."""
    return next(check.benchmark for check in CHECKS if (check.part, check.what) == (one.part, one.what))


def of_model(site: Site, model: str) -> list[tuple[Check, Wrapper, Worst, MeasuredCommit, str]]:
    """Each check of a model at the newest commit that measured its part, the worst configuration of each wrapper."""
    found = []
    for part in STORED:
        measured = [
            (commit, own)
            for commit in site.shown
            for own in _parts(site, commit)
            if own.part is part and any(one.cell.model == model and one.word.has_run for one in own.checked)
        ]
        if measured:
            commit, own = measured[-1]
            by_check = _by_check(own)
            for check in CHECKS:
                for wrapper in Wrapper:
                    of_cell = [one for one in by_check[check.what, wrapper] if one.cell.model == model]
                    if check.part is part and (first := worst(of_cell)) and first.n_run:
                        found.append((check, wrapper, first, commit, own.machine))
    return found


def write(site: Site, base: dict[str, Any]) -> None:
    """Write the pages."""
    for address, (title, parts) in PAGES.items():
        pages = [_part_page(site, part) for part in parts]
        render.write(site.html, address, "inside.html", **base, title=title, parts=pages, Word=Word)
    _costs(site, base)
    _environments(site, base)
    _coverage(site, base)
    _CACHE.clear()


@dataclass(frozen=True)
class Cost:
    """One slowdown, placed on the picture's axis from 0 to 1."""

    row: CostRow
    cell: RuntimeCell
    commit: MeasuredCommit
    machine: str
    x: float
    low: float
    high: float


TICKS = (0.5, 1.0, 2.0, 4.0, 8.0)


def _place(ratio: float) -> float:
    low, high = math.log(TICKS[0]), math.log(TICKS[-1])
    return min(max((math.log(ratio) - low) / (high - low), 0.0), 1.0)


def _costs(site: Site, base: dict[str, Any]) -> None:
    tables: list[tuple[MeasuredCommit, str, Mapping[str, list[Cost]]]] = []
    absent: dict[tuple[int, str], Mapping[RuntimeCell, State]] = {}
    memory, growth = [], []
    for commit in reversed(site.shown):
        found = _commit(site, commit)
        if not found:
            continue
        stored, at_commit = found
        machines = [name for name in stored.machines(at_commit, COSTS) if stored.has(at_commit, COSTS, name)]
        for machine in machines:
            by_operation: dict[str, list[Cost]] = defaultdict(list)
            for row in slowdowns.rows(stored, at_commit, machine):
                if isinstance(row.cell, RuntimeCell):
                    width = row.half_width
                    ends = [_place(row.ratio * math.exp(sign * width)) for sign in (-1, 1)]
                    by_operation[row.cell.operation].append(
                        Cost(row, row.cell, commit, machine, _place(row.ratio), ends[0], ends[1])
                    )
            absent[commit.index, machine] = slowdowns.absences(stored, at_commit, machine)
            if by_operation:
                tables.append((commit, machine, dict(by_operation)))
            memory += [(commit, machine, row) for row in slowdowns.memory_rows(stored, at_commit, machine)]
            growth += [(commit, machine, row) for row in slowdowns.growth_rows(stored, at_commit, machine)]
    memory.sort(key=lambda item: (-item[0].index, item[1], item[2].cell.operation, item[2].cell.model, item[2].cell.wrapper))
    ticks = [(tick, _place(tick)) for tick in TICKS]
    render.write(
        site.html,
        "costs.html",
        "costs.html",
        **base,
        tables=tables,
        compared=_compared(tables, absent),
        varying=_varying,
        constants=_constants,
        memory=memory,
        growth=growth,
        ticks=ticks,
        track=cost_track,
        exponents=slowdowns.EXPONENTS,
    )


@dataclass(frozen=True)
class ComparedCosts:
    """One operation's slowdowns on one machine at each commit that measured it, the newest first, or why there is none."""

    operation: str
    machine: str
    commits: list[MeasuredCommit]
    rows: list[tuple[RuntimeCell, list[Cost | State]]]


def _varying(cells: Iterable[RuntimeCell]) -> list[str]:
    """In which of their words, beside the model, cells differ."""
    cells = list(cells)
    return [name for name in ("wrapper", "dtype", "option", "shape", "device") if len({getattr(c, name) for c in cells}) > 1]


def _constants(cells: Iterable[RuntimeCell]) -> str:
    """The words that all cells share."""
    cells = list(cells)
    own = (name for name in ("wrapper", "dtype", "option", "shape", "device") if len({getattr(c, name) for c in cells}) == 1)
    return ", ".join(str(getattr(cells[0], name)) for name in own)


def _compared(
    tables: Iterable[tuple[MeasuredCommit, str, Mapping[str, list[Cost]]]],
    absent: Mapping[tuple[int, str], Mapping[RuntimeCell, State]],
) -> list[ComparedCosts]:
    """The slowdowns of the cells that more than one release measured on one machine."""
    found: dict[tuple[str, str], dict[int, dict[RuntimeCell, Cost]]] = defaultdict(dict)
    for commit, machine, by_operation in tables:
        for operation, costs in by_operation.items():
            found[operation, machine][commit.index] = {one.cell: one for one in costs}
    compared = []
    for (operation, machine), by_commit in found.items():
        cells = sorted(
            {cell for own in by_commit.values() for cell in own}, key=lambda cell: (cell.model, cell.wrapper, str(cell))
        )
        rows = [
            (cell, [own.get(cell) or absent[at, machine].get(cell, State.NOT_MEASURED) for at, own in by_commit.items()])
            for cell in cells
        ]
        if rows := [row for row in rows if sum(isinstance(one, Cost) for one in row[1]) > 1]:
            commits = [next(iter(own.values())).commit for own in by_commit.values()]
            compared.append(ComparedCosts(operation, machine, commits, rows))
    return compared


def cost_track(cell: RuntimeCell, kind: str) -> str:
    """The track of a slowdown or of its interval."""
    if cell.operation in (Operation.LOADING, Operation.PROCESSING):
        return f"{COSTS}Loading.track_{'slowdown' if kind == 'Slowdown' else 'interval'}"
    return f"{COSTS}{kind}.track_{cell.operation}"


def _environments(site: Site, base: dict[str, Any]) -> None:
    tables: dict[str, list[tuple[MeasuredCommit, Metadata, Mapping[str, tuple[str, str]]]]] = defaultdict(list)
    moves: dict[str, list[str]] = {}
    if site.stored:
        names = sorted({path.parent.name for path in results_files(site.stored.results_folder)})
        for machine in names:
            for commit in site.shown:
                found = _commit(site, commit)
                if found and (metadata := _metadata(*found, machine)):
                    rows = tables[machine]
                    rows.append((commit, metadata, differences(rows[-1][1], metadata) if rows else {}))
    newest_first = dict(sorted(tables.items(), key=lambda item: (-len(item[1]), item[0])))
    for machine, rows in newest_first.items():
        moved = {name for _, _, differs in rows for name in differs} - {"transformer-lens"}
        moves[machine] = [*(name for name in ENVIRONMENT if name in moved), *sorted(moved - set(ENVIRONMENT))]
        rows.reverse()
    render.write(site.html, "environments.html", "environments.html", **base, tables=newest_first, moves=moves)


def _metadata(stored: StoredResults, commit: Commit, machine: str) -> Metadata | None:
    try:
        return stored.environments(commit, machine)[-1]
    except BadInput:
        return None


SIXTEEN_BITS = re.compile(r"\b(c10::)?(Half|BFloat16)\b")
"""torch's names of the two 16-bit dtypes: reasons that differ in them only are one."""


class Ended(NamedTuple):
    """Cells of one wrapper that ended alike at the same commits.

    Attributes:
        names: what the commits are called; ``commits`` their places, -1 for one that is not shown.
        alike: the reason without the name of its dtype.
    """

    kind: Kind
    wrapper: str
    machine: str
    models: tuple[str, ...]
    names: tuple[str, ...]
    commits: tuple[int, ...]
    alike: str


def _coverage(site: Site, base: dict[str, Any]) -> None:
    found: Mapping[outcomes.Reason, Mapping[str, set[str]]] = {}
    parts = []
    for commit in site.shown:
        if of_stored := _commit(site, commit):
            parts.append((of_stored[1], _parts(site, commit)))
    if site.stored and parts:
        try:
            found = outcomes.reasons(site.stored, parts, (Kind.FAILED, Kind.NOT_APPLICABLE))
        except BadInput as error:
            site.problems.append(str(error).replace(f"{site.stored.results_folder}/", ""))
    by_name = {commit.tag or commit.short: commit for commit in site.shown}
    merged: dict[Ended, set[tuple[str, str]]] = defaultdict(set)
    for reason, by_commit in sorted(found.items()):
        same: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for name, models in by_commit.items():
            same[tuple(sorted(models))].append(name)
        for models_, names in same.items():
            commits = tuple(by_name[name].index if name in by_name else -1 for name in names)
            alike = SIXTEEN_BITS.sub("16 bits", reason.reason)
            ended = Ended(reason.kind, reason.wrapper, reason.machine, models_, tuple(names), commits, alike)
            merged[ended].add((reason.question, reason.reason))
    grouped = [
        (ended, sorted({question for question, _ in own}), sorted({text for _, text in own}))
        for ended, own in merged.items()
    ]
    render.write(
        site.html, "coverage.html", "coverage.html", **base, grouped=grouped, Kind=Kind, no_reason=outcomes.NO_REASON
    )
