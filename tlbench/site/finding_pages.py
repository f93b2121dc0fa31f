"""The list of findings, and a page each."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tlbench.grid import Cell, Dtype, Option, Wrapper
from tlbench.report.checks import CHECKS
from tlbench.site import inside, render, words
from tlbench.site.commits import MeasuredCommit
from tlbench.site.findings import Finding, StoredFigure
from tlbench.site.pages import Site


@dataclass(frozen=True)
class Size:
    """One stored figure of a finding; ``value`` is None if the results do not have it."""

    figure: StoredFigure
    commit: MeasuredCommit | None
    machine: str
    value: float | None
    name: str
    unit: str


def write(site: Site, base: dict[str, Any]) -> None:
    """Write every finding's page and the list."""
    sizes = {one.slug: sizes_of(site, one.size) for one in site.findings}
    right = {one.slug: sizes_of(site, one.right) for one in site.findings}
    for one in site.findings:
        render.write(
            site.html,
            f"finding/{one.slug}.html",
            "finding.html",
            **base,
            finding=one,
            sizes=sizes[one.slug],
            right=right[one.slug],
            measured=[commit for commit in site.shown if commit.version and one.holds_at(commit.version)],
            models=linked(one, site),
        )
    render.write(site.html, "findings.html", "findings.html", **base, sizes=sizes)


def by_weight(site: Site) -> list[tuple[Finding, list[str]]]:
    """The open faults of the newest commit, each with the models that a stored check shows it in.

    Those that a check shows come first, then what is wrong without an error, then what raises; of each the widest first.
    """
    wrong = inside.at(site, site.newest).findings
    shown: dict[str, set[str]] = defaultdict(set)
    for one in wrong:
        for known in inside.findings_of(site, site.newest, one):
            shown[known.slug] |= {checked.cell.model for checked in one.cells}

    def weight(one: Finding) -> tuple[bool, bool, int, bool]:
        own = shown[one.slug] | set(linked(one, site))
        width = len(site.history.models) if one.models == "every model" else max(len(own), one.models.count("zoo-"))
        return not shown[one.slug], one.part == "failures", -width, not (one.size or one.extent)

    return [(one, sorted(shown[one.slug])) for one in sorted(site.open_faults, key=weight)]


def linked(finding: Finding, site: Site) -> Sequence[str]:
    """The models of a finding that have a page."""
    return [model for model in site.history.models if model in finding.models.replace(",", " ").split()]


def sizes_of(site: Site, figures: Sequence[StoredFigure]) -> list[Size]:
    """Stored figures, read."""
    return [_size(site, figure) for figure in figures]


def _size(site: Site, figure: StoredFigure) -> Size:
    commit = next((one for one in site.shown if one.name == figure.commit), None)
    name, unit = named(figure.track)
    if commit is None or site.stored is None:
        return Size(figure, commit, "", None, name, unit)
    of_stored = next((one for one in site.stored.commits if one.hash == commit.hash), None)
    if of_stored is None:
        return Size(figure, commit, "", None, name, unit)
    machine = site.stored.machine(of_stored, figure.track)
    model, dtype, option, wrapper = figure.cell.split(" ")
    cell = Cell(model, Dtype(dtype), Option(option), Wrapper(wrapper))
    value = site.stored.values(of_stored, figure.track, Cell, machine).get(cell)
    return Size(figure, commit, machine, None if value is None or math.isnan(value) else value, name, unit)


def named(track: str) -> tuple[str, str]:
    """A track's name and unit, in words."""
    if track in words.TRACKS:
        return words.TRACKS[track].name, words.TRACKS[track].unit
    check = next((check for check in CHECKS if check.benchmark == track), None)
    return (check.what, check.unit) if check else (track.rsplit(".track_", maxsplit=1)[-1].replace("_", " "), "")
