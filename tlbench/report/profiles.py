"""The tables of `tlbench where`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from rich.console import Console

from tlbench.components import BLOCK_COMPONENTS, LN_FINAL, LOGITS, Component
from tlbench.grid import Cell
from tlbench.records.depth_profile import DepthProfile, SiteError, Wrong
from tlbench.records.outcome import Kind, Outcome
from tlbench.report import render
from tlbench.report.render import Column, Format, Value

Profiles = Sequence[tuple[Cell, Outcome[DepthProfile]]]
OWN = "HuggingFace's own"
LARGE = 100
"""A multiple from which on its power of ten says enough."""


def print_profile(console: Console, title: str, profile: DepthProfile) -> None:
    """One row per block: each component's local error, with its multiple of HuggingFace's own in brackets."""
    components = [c for c in BLOCK_COMPONENTS if any(profile.at(i, c) for i in range(profile.n_blocks))]
    names = ["embed" if component is Component.RESID_PRE else component.value for component in components]
    lines = []
    for i in range(profile.n_blocks):
        errors = [profile.at(i, c) if c is not Component.RESID_PRE or i == 0 else None for c in components]
        lines.append(_line(profile.name_of(i), profile, errors, profile.at(i, Component.RESID_POST)))
    for name in (LN_FINAL, LOGITS):
        error = profile.sites.get(name)
        lines.append(_line(name, profile, [*[None] * (len(components) - 1), error], error))
    columns = [Column("block"), *(Column(name, short=_on_two_lines) for name in names)]
    columns.append(Column("propagated", "{:.2g}".format, drop=1))
    title = f"{title}: {profile.cell}, error of each block with golden input (times {OWN})"
    render.show(console, Format.RICH, title, columns, lines)


def _line(name: str, profile: DepthProfile, errors: Sequence[SiteError | None], output: SiteError | None) -> list[Value]:
    texts = [f"{error.local:.2g} ({_multiple(profile.ratio(error))})" if error else "" for error in errors]
    return [name, *texts, output.propagated if output else None]


def _multiple(ratio: float) -> str:
    return f"{ratio:.2g}" if ratio < LARGE else f"{ratio:.0e}"


def _on_two_lines(text: str) -> str:
    return text.replace(" ", "\n")


def sentence(cell: Cell, outcome: Outcome[DepthProfile]) -> str:
    """The result for one cell."""
    if outcome.record is None:
        return f"{cell}: {outcome.kind}: {outcome.reason}"
    profile = outcome.record
    if not profile.sites:
        return f"{cell}: unjudged: no activation could be compared."
    wrong = profile.first_wrong()
    if wrong is None:
        unseen = f" {len(profile.missing)} quantities have no hook point and were not compared." if profile.missing else ""
        return f"{cell}: no component is wrong; the largest error is {profile.local_ratio:.2g} times {OWN}.{unseen}"
    place = wrong.component if wrong.block is None else f"{wrong.component} of {_block(profile, wrong.block)}"
    return f"{cell}: the first wrong component is {place}: its error is {wrong.error:.2g}, {wrong.ratio:.3g} times {OWN}."


def _block(profile: DepthProfile, block: int) -> str:
    stack, _, number = profile.name_of(block).rpartition(" ")
    return f"{stack} block {number}".strip()


def to_json(cell: Cell, outcome: Outcome[DepthProfile]) -> dict[str, Any]:
    """One entry of ``cells`` in the command's JSON. Missing figures are null."""
    profile = outcome.record
    growth = profile.growth if profile else None
    return {
        **asdict(cell),
        "outcome": outcome.kind,
        "reason": outcome.reason,
        **place_json(profile.first_wrong() if profile else None),
        "propagated_last": _finite(profile.propagated_last) if profile else None,
        "growth_exponent": growth.exponent if growth else None,
        "growth_standard_error": growth.standard_error if growth else None,
        "sites": {name: _finite_fields(error) for name, error in profile.sites.items()} if profile else {},
        "silent_hooks": profile.silent if profile else (),
        "missing_hooks": profile.missing if profile else (),
    }


def place_json(wrong: Wrong | None) -> dict[str, Any]:
    """The first wrong quantity; only nulls if nothing is wrong. Before and after the blocks, ``block`` is null."""
    return _finite_fields(wrong) if wrong else dict.fromkeys(field.name for field in fields(Wrong))


def _finite_fields(record: Wrong | SiteError) -> dict[str, Any]:
    return {name: _finite(value) for name, value in asdict(record).items()}


def _finite(value: Any) -> Any:
    """None instead of a figure that JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def first_wrong(profiles: Profiles) -> Wrong | None:
    """The first wrong quantity of the first cell that has one."""
    places = (outcome.record.first_wrong() for _, outcome in profiles if outcome.record)
    return next((place for place in places if place), None)


def exit_status(profiles: Profiles) -> int:
    """1 if something is wrong or failed, 3 if nothing is known to be wrong but a cell had nothing to compare, else 0."""
    if is_alarm(profiles):
        return 1
    return 3 if any(outcome.record and not outcome.record.sites for _, outcome in profiles) else 0


def is_alarm(profiles: Profiles) -> bool:
    """Whether something is wrong, or failed."""
    return first_wrong(profiles) is not None or any(outcome.kind is Kind.FAILED for _, outcome in profiles)
