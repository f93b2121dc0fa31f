"""A page a model, for the researcher; its history, for the maintainer; and what to embed: a badge and JSON."""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from markupsafe import Markup, escape
from packaging.version import Version

from tlbench.grid import Cell, Dtype, Option, Wrapper
from tlbench.metrics.verdict import Verdict
from tlbench.report.advice import DEFAULTS, MARGIN, Use
from tlbench.report.checks import Part
from tlbench.report.render import short_wrapper
from tlbench.report.stored import Figure
from tlbench.site import changes, render, words
from tlbench.site.changes import Change
from tlbench.site.commits import MeasuredCommit, environment_changes
from tlbench.site.findings import Finding
from tlbench.site.history import BITS, MEAN, RATIO, REFERENCE_BITS, CellHistory, Run, State
from tlbench.site.pages import Site
from tlbench.site.profiles import ABOUT, ProfileSection, Sections

P99 = f"truth.TransformerLens.track_{Figure.DIFFERENCE_P99}"
EFFECT = 0.1
"""The size of the effect, in nats, that the page answers for until another one is asked for."""
STATS = ("mean", "max", "median", "std")
USES = (Use.NOT_RIGHT, Use.NOT_MEASURED, Use.NOT_SAFE, Use.SAFE)
"""What to do with a configuration, the worst first."""
BADGE = Markup(
    '<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{label}: {word}">'
    "<title>{label}: {word}</title>"
    '<rect width="{left}" height="20" fill="#444"/><rect x="{left}" width="{right}" height="20" fill="{colour}"/>'
    '<g fill="#fff" font-family="Verdana,sans-serif" font-size="11">'
    '<text x="6" y="14">{label}</text><text x="{at}" y="14">{word}</text></g></svg>\n'
)
COLOURS = {True: "#2f6f4f", False: "#a3321f"}


@dataclass(frozen=True)
class Line:
    """A cell at the newest commit that ran it, and from which effect on it is safe."""

    history: CellHistory
    run: Run
    commit: MeasuredCommit

    @property
    def cell(self) -> Cell:
        """The cell."""
        return self.history.cell

    @property
    def error(self) -> float | None:
        """The 99th percentile of the error of a logit difference, in nats."""
        return self.run.state.figures.get(P99)

    @property
    def smallest_effect(self) -> float | None:
        """The smallest effect that it is safe for, in nats; None if it is not known to be right."""
        return self.error * MARGIN if self.error is not None and self.run.state.verdict.passes else None

    @property
    def is_default(self) -> bool:
        """Whether TransformerLens uses this option unless told otherwise."""
        return (self.cell.wrapper, self.cell.option) in DEFAULTS

    def use(self, effect: float) -> Use:
        """What to do with it for an effect of that size."""
        if not self.run.state.verdict.passes:
            return Use.NOT_RIGHT
        if self.smallest_effect is None:
            return Use.NOT_MEASURED
        return Use.SAFE if self.smallest_effect <= effect else Use.NOT_SAFE


def write(site: Site, base: dict[str, Any], found: Sections) -> None:
    """Write the list of models, and each model's pages."""
    lines = {model: newest_lines(site, model) for model in site.history.models}
    hooked = {model: newest_lines(site, model, Wrapper.HOOKED_TRANSFORMER) for model in site.history.models}
    wrong = {model: wrong_at(site, model) for model in site.history.models}
    render.write(site.html, "models.html", "models.html", **base, lines=lines, summary=summary, wrong_at=wrong)
    for model, own in lines.items():
        known = [one for one in site.findings if model in one.models.replace(",", " ").split()]
        render.write(
            site.html,
            f"model/{model}.html",
            "model.html",
            **base,
            model=model,
            by_wrapper=by_wrapper([*own, *(line for line in hooked[model] if line not in own)]),
            removed_in=site.removed_in,
            effect=EFFECT,
            margin=MARGIN,
            known=known,
            p99=P99,
            wrong_versions=wrong_versions(site, model, known),
            wrong_at=wrong[model],
            inside=_inside(site, model),
            profiles=_newest(found.get(model, ())),
            about_profile=ABOUT,
        )
        sections = [_section(site, model, dtype, option) for dtype in Dtype for option in Option]
        render.write(
            site.html,
            f"history/{model}.html",
            "history.html",
            **base,
            model=model,
            sections=[section for section in sections if section.lines],
            stats=[f"accuracy.Logit.track_{name}" for name in STATS],
            mean=MEAN,
            fate=partial(fate, site),
            causes=partial(causes_of, known=known),
            rows_of=lambda section, model=model, known=known: _rows(site, model, section, known, found.get(model, ())),
        )
        passes, word = badge(own)
        label = f"TransformerLens {own[0].commit.name} · {model}" if own else model
        (site.html / "badge").mkdir(exist_ok=True)
        left, right = 12 + 6 * len(label), 12 + 6 * len(word)
        text = BADGE.format(
            width=left + right, left=left, right=right, at=left + 6, label=label, word=word, colour=COLOURS[passes]
        )
        (site.html / "badge" / f"{model}.svg").write_text(text, encoding="utf-8")
        (site.html / "model" / f"{model}.json").write_text(json.dumps(embedded(model, own)), encoding="utf-8")


def _inside(site: Site, model: str) -> Any:
    from tlbench.site import inside

    return inside.of_model(site, model)


def _newest(sections: Sequence[ProfileSection]) -> list[ProfileSection]:
    """The profiles of the newest commit that has any, in the newest wrapper."""
    newest = [one for one in sections if one.commit is sections[0].commit]
    return [one for one in newest if one.wrapper is newest[-1].wrapper]


def newest_lines(site: Site, model: str, wrapper: Wrapper | None = None) -> list[Line]:
    """Every configuration of a model in one wrapper, or in the newest, at the newest commit that ran it."""
    found = []
    for one in site.history.by_model[model]:
        ran = [run for run in one.runs if run.state.has_run]
        if ran and wrapper in (None, one.cell.wrapper):
            found.append(Line(one, ran[-1], site.commits[ran[-1].last]))
    newest = max((line.commit.index for line in found), default=0)
    return [line for line in found if line.commit.index == newest]


@dataclass(frozen=True)
class Answer:
    """What holds of a dtype with any option.

    Attributes:
        use: as :meth:`Line.use`, of the worst option; "safe with " and their names if it is safe with some.
        safe_from: the smallest effect that every option is safe for; None if there is none.
    """

    use: str
    safe_from: float | None


@dataclass(frozen=True)
class OfWrapper:
    """The newest configurations of a model in one wrapper."""

    wrapper: Wrapper
    commit: MeasuredCommit
    lines: list[Line]

    def answer(self, dtype: Dtype, effect: float) -> Answer | None:
        """Whether an effect is safe in a dtype; None if it was not measured."""
        own = [line for line in self.lines if line.cell.dtype is dtype]
        if not own:
            return None
        uses = [line.use(effect) for line in own]
        safe = [line.cell.option for line, use in zip(own, uses, strict=True) if use is Use.SAFE]
        worst = min(uses, key=USES.index)
        sizes = [line.smallest_effect for line in own if line.smallest_effect is not None]
        use = f"safe with {', '.join(safe)} only" if safe and worst is not Use.SAFE else worst
        return Answer(use, max(sizes) if len(sizes) == len(own) else None)


def by_wrapper(lines: Sequence[Line]) -> list[OfWrapper]:
    """Lines by wrapper, the newest commit first."""
    own = {wrapper: [line for line in lines if line.cell.wrapper is wrapper] for wrapper in Wrapper}
    found = [OfWrapper(wrapper, of[0].commit, of) for wrapper, of in own.items() if of]
    return sorted(found, key=lambda one: -one.commit.index)


def fate(site: Site, one: CellHistory, last: int, causes: Sequence[Finding] = ()) -> str:
    """What became of a cell after the commit ``last``, in words. ``causes`` are the findings that explain it there."""
    after = next((run for run in one.runs if run.first > last and run.state.verdict is not Verdict.NOT_MEASURED), None)
    if after is None:
        return "still so" if last == len(site.commits) - 1 else "not measured since"
    name, verdict = site.commits[after.first].name, after.state.verdict
    if verdict.passes:
        return f"mended in {name}"
    if causes and all(cause.fixed_in for cause in causes):
        return f"ended in {max((cause.fixed_in for cause in causes), key=Version)}, which was not measured"
    if verdict is Verdict.NOT_APPLICABLE:
        gone = site.removed_in(one.cell.wrapper)
        return f"never mended: {f'{one.cell.wrapper} was removed in {gone.name}' if gone else f'not applicable in {name}'}"
    return f"{verdict} in {name}"


def summary(lines: list[Line]) -> list[tuple[Wrapper, Dtype, str, float | None]]:
    """For each wrapper and dtype: one word for every option, and the smallest effect that each is safe for."""
    found = []
    for wrapper in Wrapper:
        for dtype in Dtype:
            own = [line for line in lines if (line.cell.wrapper, line.cell.dtype) == (wrapper, dtype)]
            if not own:
                continue
            worst = min((line.run.state.verdict for line in own), key=words.WORST_FIRST.index)
            sizes = [line.smallest_effect for line in own if line.smallest_effect is not None]
            all_safe = len(sizes) == len(own)
            found.append((wrapper, dtype, worst.value, max(sizes) if all_safe else None))
    return found


def badge(lines: list[Line]) -> tuple[bool, str]:
    """Whether every configuration is right, and in a few words."""
    wrong = [line for line in lines if not line.run.state.verdict.passes]
    if not lines:
        return False, "not measured"
    if wrong:
        return False, f"{len(wrong)} of {len(lines)} not right"
    sizes = [f"{dtype} {words.spelled(size)}" for _, dtype, _, size in summary(lines) if size is not None]
    return True, f"safe from {', '.join(sizes)} nats" if sizes else f"{len(lines)} of {len(lines)} right"


def embedded(model: str, lines: list[Line]) -> dict[str, Any]:
    """What other pages may embed."""
    return {
        "model": model,
        "transformer_lens": lines[0].commit.name if lines else None,
        "commit": lines[0].commit.hash if lines else None,
        "machine": lines[0].run.machine if lines else None,
        "unit": "nats",
        "cells": [
            {
                "dtype": line.cell.dtype,
                "option": line.cell.option,
                "wrapper": line.cell.wrapper,
                "verdict": line.run.state.verdict,
                "figures": {name: value for name, value in line.run.state.figures.items() if abs(value) != float("inf")},
            }
            for line in lines
        ],
    }


@dataclass(frozen=True)
class WrongAt:
    """Neighbouring measured releases at which the worst configuration of a wrapper has the same verdict."""

    verdict: Verdict
    first: MeasuredCommit
    last: MeasuredCommit

    def __str__(self) -> str:
        return f"{self.first.name} to {self.last.name}" if self.first != self.last else self.first.name


def wrong_at(site: Site, model: str) -> dict[Wrapper, list[WrongAt]]:
    """At which measured releases a model is wrong or fails, by wrapper; of results without releases, at which commits.

    A wrapper in which it never is has no entry.
    """
    releases = {commit.index for commit in site.commits if commit.is_release} or set(range(len(site.commits)))
    ran: dict[Wrapper, set[int]] = defaultdict(set)
    worst: dict[Wrapper, dict[int, Verdict]] = defaultdict(dict)
    for one in site.history.by_model[model]:
        for run in one.runs:
            at, verdict, of = range(run.first, run.last + 1), run.state.verdict, worst[one.cell.wrapper]
            if run.state.has_run:
                ran[one.cell.wrapper].update(at)
            if verdict.is_alarm:
                of.update((i, min(verdict, of.get(i, verdict), key=words.WORST_FIRST.index)) for i in at)
    found: dict[Wrapper, list[WrongAt]] = {}
    for wrapper, of in worst.items():
        for alarm, commits in itertools.groupby(sorted(ran[wrapper] & releases), key=of.get):
            if alarm:
                at_alarm = [site.commits[i] for i in commits]
                found.setdefault(wrapper, []).append(WrongAt(alarm, at_alarm[0], at_alarm[-1]))
    return found


def wrong_versions(
    site: Site, model: str, known: Sequence[Finding]
) -> list[tuple[Verdict, Wrapper, tuple[MeasuredCommit, ...], str, list[Cell]]]:
    """Which measured commits are wrong for a model: verdict, wrapper, commits, what became of it, and configurations."""
    found: dict[tuple[Verdict, Wrapper, tuple[int, ...], str], list[Cell]] = {}
    for one in site.history.by_model[model]:
        by_verdict: dict[Verdict, list[int]] = {}
        for run in one.runs:
            if run.state.verdict in (Verdict.BROKEN, Verdict.WORSE, Verdict.FAILED):
                by_verdict.setdefault(run.state.verdict, []).extend(range(run.first, run.last + 1))
        for verdict, commits in by_verdict.items():
            then = fate(site, one, commits[-1], causes_of(one.cell, verdict, site.commits[commits[-1]], known))
            found.setdefault((verdict, one.cell.wrapper, tuple(commits), then), []).append(one.cell)
    return [
        (verdict, wrapper, tuple(site.commits[i] for i in at), then, cells)
        for (verdict, wrapper, at, then), cells in found.items()
    ]


@dataclass(frozen=True)
class Row:
    """A run of equal states of one wrapper, and how it differs from the one before."""

    run: Run
    first: MeasuredCommit
    last: MeasuredCommit
    change: Change | None
    bits: float | None
    moved: list[str]
    reference_bits: float | None

    @property
    def state(self) -> State:
        """What is stored."""
        return self.run.state


@dataclass(frozen=True)
class HistoryLine:
    """One wrapper's history of a configuration."""

    history: CellHistory
    rows: list[Row]
    floor: tuple[MeasuredCommit, str, float] | None

    @property
    def newest(self) -> Row:
        """The last row that ran."""
        return next(row for row in reversed(self.rows) if row.state.has_run)

    @property
    def before(self) -> Row | None:
        """The row that ran before it."""
        return next((row for row in reversed(self.rows) if row.state.has_run and row.run.last < self.newest.run.first), None)

    @property
    def wrong_before(self) -> list[Row]:
        """The earlier rows that are wrong or failed."""
        return [row for row in self.rows if row.state.verdict.is_alarm and row.run.last < self.newest.run.first]


@dataclass(frozen=True)
class Section:
    """One configuration's history, in both wrappers."""

    dtype: Dtype
    option: Option
    lines: list[HistoryLine]

    @property
    def newest(self) -> Row:
        """The last row that ran."""
        return max((line.newest for line in self.lines), key=lambda row: row.run.last)


def _rows(site: Site, model: str, section: Section, known: Sequence[Finding], profiles: Sequence[ProfileSection]) -> Markup:
    """The rows of a section's table. A large site has tens of thousands, and a template takes four times as long."""
    tracks = [*(f"accuracy.Logit.track_{name}" for name in STATS), RATIO, BITS]
    parts = []
    for line in section.lines:
        wrapper = line.history.cell.wrapper
        profiled = {one.commit.index: one.commit.name for one in profiles if one.wrapper is wrapper}
        cell = escape(str(line.history.cell))
        for row in line.rows:
            state, run = row.state, row.run
            if state.verdict is Verdict.NOT_MEASURED and not state.figures:
                continue
            name = escape(row.first.name)
            if row.first.index in site.pages:
                name = Markup(f'<a href="../{escape(row.first.page)}">{name}</a>')
            until = f" to {escape(row.last.name)}" if run.first != run.last else ""
            inside = max((i for i in profiled if run.first <= i <= run.last), default=None)
            if inside is not None:
                until += f' <a class="aside" href="../profile/{model}.html#{escape(profiled[inside])}">by depth</a>'
            figures = "".join(f'<td class="num">{render.fig(state.figures.get(track), track)}</td>' for track in tracks)
            reference = render.fig(
                row.reference_bits if state.has_run else None, REFERENCE_BITS, f"{model} {section.dtype} eager"
            )
            parts.append(
                f'<tr data-first="{run.first}" data-last="{run.last}" data-wrapper="{wrapper}" '
                f'data-verdict="{state.verdict}" '
                f'data-machine="{escape(run.machine)}" '
                f'data-commit="{row.first.short}" data-cell="{cell}">'
                f'<th scope="row">{name}{until}<span class="sub">{short_wrapper(wrapper)}</span></th>'
                f"<td>{render.word(state.verdict)}</td>"
                f'{figures}<td class="num">{reference}</td>'
                f'<td class="reason">{_said(row, line.history.cell, known)}</td></tr>\n'
            )
    return Markup("".join(parts))


def _said(row: Row, cell: Cell, known: Sequence[Finding]) -> str:
    """What a row's last column says: how it differs from the row before, why it has no figures, and which findings hold."""
    state = row.state
    change = f"{row.change}: mean {_times(row.bits)}" if row.change and row.bits else row.change or ""
    moved = f"also {render.joined(row.moved, 9)}" if row.moved else ""
    said = [str(escape(text)) for text in ("; ".join(filter(None, (change, moved))), state.reason) if text]
    said += [
        f'<a href="../finding/{one.slug}.html">{escape(one.title)}</a>'
        for one in causes_of(cell, state.verdict, row.first, known)
    ]
    return "<br>".join(said)


def causes_of(cell: Cell, verdict: Verdict, commit: MeasuredCommit, known: Sequence[Finding]) -> list[Finding]:
    """The findings that explain why a cell is wrong or fails at a commit."""
    version = commit.version
    if version is None or not verdict.is_alarm:
        return []
    part = "failures" if verdict is Verdict.FAILED else Part.LOGITS
    of = (short_wrapper(cell.wrapper), cell.dtype, cell.option)
    return [one for one in known if one.part == part and one.holds_at(version) and one.concerns(*of)]


def _times(bits: float) -> str:
    """By what factor the mean error moved."""
    if math.isinf(bits):
        return "from exactly 0" if bits > 0 else "to exactly 0"
    factor = words.spelled(2 ** abs(bits))
    return "alike" if factor == "1" else f"{factor} times {'larger' if bits > 0 else 'smaller'}"


def _section(site: Site, model: str, dtype: Dtype, option: Option) -> Section:
    lines = []
    for one in site.history.by_model[model]:
        if (one.cell.dtype, one.cell.option) == (dtype, option) and one.has_run:
            lines.append(_history_line(site, one))
    return Section(dtype, option, lines)


def _history_line(site: Site, one: CellHistory) -> HistoryLine:
    rows: list[Row] = []
    ran: Run | None = None
    for run in one.runs:
        kind, bits, moved = None, None, list[str]()
        if ran and run.state.has_run:
            kind, bits = changes.change(ran, run)
            if kind in changes.STEPS:
                moved = environment_changes(site.commits[ran.last], site.commits[run.first])
        reference = site.history.reference_bits.get((run.first, one.cell.model, one.cell.dtype))
        rows.append(Row(run, site.commits[run.first], site.commits[run.last], kind, bits, moved, reference))
        ran = run if run.state.has_run else ran
    key = (one.cell.model, str(one.cell.dtype), str(one.cell.option), str(one.cell.wrapper))
    floor = site.history.floors.get(key)
    return HistoryLine(one, rows, (site.commits[floor[0]], floor[1], floor[2]) if floor else None)
