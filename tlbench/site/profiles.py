"""A page a model: its error block by block and by context length, at every commit shown that measured it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from tlbench.exceptions import BadInput
from tlbench.grid import Cell, Dtype, Option, Wrapper
from tlbench.records import profiles
from tlbench.records.profiles import DEPTH, LENGTH, Profile
from tlbench.site import render, words
from tlbench.site.commits import MeasuredCommit
from tlbench.site.pages import Site

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 30
ABOUT = {
    DEPTH: (
        "Block by block",
        "block",
        "The relative error of the residual stream after each block, in a model run from the tokens. The table also has the "
        "largest error of a component if the block is fed its golden input: where that grows, the error enters.",
    ),
    LENGTH: ("By context length", "tokens", "The rms error of the centred logits, in nats, over the whole context."),
}
SERIES = {
    "errors": "TransformerLens",
    "reference_errors": "HuggingFace",
    "local": "TransformerLens, a block alone",
    "reference_local": "HuggingFace, a block alone",
}
"""The series of a profile, in words."""


@dataclass(frozen=True)
class Line:
    """One cell's profile."""

    cell: Cell
    profile: Profile

    @property
    def rows(self) -> list[tuple[str, str, Sequence[float | None]]]:
        """Each series that has values: its name in the file, its name in words, its values."""
        found = [(name, words_, getattr(self.profile, name)) for name, words_ in SERIES.items()]
        return [row for row in found if any(value is not None for value in row[2])]


@dataclass(frozen=True)
class ProfileSection:
    """The profiles of one question, wrapper and option at one commit, by dtype."""

    question: str
    commit: MeasuredCommit
    machine: str
    wrapper: Wrapper
    option: Option
    lines: list[Line]

    @property
    def at(self) -> tuple[int, ...]:
        """Every block or length that a line has."""
        return tuple(sorted({at for line in self.lines for at in line.profile.at}))

    @property
    def dtypes(self) -> list[Dtype]:
        """The dtypes that have a line."""
        return [line.cell.dtype for line in self.lines]

    @property
    def errors(self) -> Markup:
        """The errors on logarithmic axes, HuggingFace's as a band. The table has the same values."""
        series = [("errors", "errors"), ("reference-errors", "reference_errors")]
        return plot(self, [(style, line, getattr(line.profile, name)) for line in self.lines for style, name in series])

    @property
    def is_equal(self) -> bool:
        """Whether every error is HuggingFace's own, to the last bit."""
        return all(line.profile.errors == line.profile.reference_errors for line in self.lines)

    @property
    def ratios(self) -> Markup:
        """TransformerLens's errors over HuggingFace's."""
        return plot(self, [("errors", line, _ratios(line.profile)) for line in self.lines], parity=True)


Sections = Mapping[str, Sequence["ProfileSection"]]
"""The profiles of each model, the newest commit first."""


def read(site: Site) -> Sections:
    """Read the profiles of every shown commit."""
    dtypes, commits = list(Dtype), {commit.index: commit for commit in site.shown}
    found: dict[str, dict[tuple[str, int, str, Wrapper, Option], list[Line]]] = defaultdict(lambda: defaultdict(list))
    for index in reversed(commits):
        for (question, machine), (cell, profile) in _stored(site, commits[index]):
            found[cell.model][question, index, machine, cell.wrapper, cell.option].append(Line(cell, profile))
    questions = list(ABOUT)
    return {
        model: [
            ProfileSection(
                question,
                commits[index],
                machine,
                wrapper,
                option,
                sorted(lines, key=lambda line: dtypes.index(line.cell.dtype)),
            )
            for (question, index, machine, wrapper, option), lines in sorted(
                own.items(), key=lambda item: (-item[0][1], item[0][2:], questions.index(item[0][0]))
            )
        ]
        for model, own in found.items()
    }


def write(site: Site, base: dict[str, Any], found: Sections) -> None:
    """Write the page of each model that has a profile."""
    for model, sections in found.items():
        commits = list(dict.fromkeys(section.commit.name for section in sections))
        render.write(
            site.html,
            f"profile/{model}.html",
            "profile.html",
            **base,
            model=model,
            sections=sections,
            commits=commits,
            about_profile=ABOUT,
        )


def _stored(site: Site, commit: MeasuredCommit) -> Iterable[tuple[tuple[str, str], tuple[Cell, Profile]]]:
    """The profiles of a commit, each with its question and its machine. A damaged file is a problem of the site."""
    folder = site.stored.results_folder if site.stored else Path()
    for path in sorted(folder.glob(f"*/{commit.short}-*.json")):
        try:
            for (question, text), profile in profiles.read(path).items():
                yield (question, path.parent.name), (_cell(text), profile)
        except BadInput as error:
            site.problems.append(str(error).replace(f"{folder}/", ""))


def _cell(text: str) -> Cell:
    model, dtype, option, wrapper = text.split()
    return Cell(model, Dtype(dtype), Option(option), Wrapper(wrapper))


# The picture ---------------------------------------------------------------------------------------------------------


Curve = tuple[str, Line, Sequence[float | None]]
"""Its style, whose it is, and a value for each block or length."""


def _ratios(profile: Profile) -> list[float | None]:
    pairs = zip(profile.errors, profile.reference_errors, strict=True)
    return [own / reference if own is not None and reference else None for own, reference in pairs]


def plot(section: ProfileSection, curves: Sequence[Curve], parity: bool = False) -> Markup:
    """An SVG of curves over blocks or lengths, with a line at 1 if asked; the empty string if no value can be drawn."""
    drawn = [
        (style, line.cell.dtype, [(x, y) for x, y in zip(line.profile.at, values, strict=True) if y and math.isfinite(y)])
        for style, line, values in curves
        if any(value is not None for value in values)
    ]
    values = [y for *_, points in drawn for _, y in points]
    if not values:
        return Markup()
    is_length = section.question == LENGTH
    ticks = _ticks(min(values), max(values), parity)
    low, high = math.log10(ticks[0]), math.log10(ticks[-1])
    across = [math.log2(at) if is_length else float(at) for at in section.at]
    span = (across[-1] - across[0]) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        position = (math.log2(x) if is_length else x) - across[0]
        share = (math.log10(y) - low) / (high - low)
        return LEFT + (WIDTH - LEFT - RIGHT) * position / span, TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)

    parts = []
    for tick in ticks:
        _, y = place(section.at[0], tick)
        style = "tick one" if parity and tick == 1 else "tick"
        parts.append(f'<line class="{style}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3:.1f}" text-anchor="end">{words.spelled(tick)}</text>')
    step = max(1, -(-len(section.at) // 8))
    for at in section.at[::step]:
        x, _ = place(at, ticks[0])
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{at}</text>')
    unit = ABOUT[section.question][1]
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{unit}</text>')
    for style, dtype, points in drawn:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        parts.append(f'<polyline class="{style} d-{dtype}" points="{path}"/>')
    title = ABOUT[section.question][0].lower()
    label = escape(f"{section.wrapper} {section.commit.name}, {title}: the table below has the values")
    return Markup(
        f'<svg class="profile" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )


def _ticks(low: float, high: float, parity: bool) -> list[float]:
    """Decades around the values; of ratios, powers of 2 around the values and 1."""
    base = 2.0 if parity else 10.0
    if parity:
        low, high = min(low, 0.5), max(high, 2.0)
    first, last = math.floor(math.log(low, base) + 1e-9), math.ceil(math.log(high, base) - 1e-9)
    step = max(1, -(-(last - first) // 8)) if parity else 1
    return [base**power for power in range(first - first % step, max(last, first + 1) + step, step)]
