"""The tables of `tlbench where`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from tlbench.components import BLOCK_COMPONENTS, LN_FINAL, LOGITS, Component
from tlbench.grid import Cell
from tlbench.records.depth_profile import DepthProfile, SiteError, Wrong
from tlbench.records.outcome import Kind, Outcome
from tlbench.report import render
from tlbench.report.render import Column, Format, Value

Found = Sequence[tuple[Cell, Outcome[DepthProfile]]]
OWN = "HuggingFace's own"


def print_profile(console: Console, title: str, profile: DepthProfile) -> None:
    """One line a block: each component's local error, and beside it how many times HuggingFace's own it is."""
    components = [c for c in BLOCK_COMPONENTS if any(profile.at(i, c) for i in range(profile.n_blocks))]
    names = ["embed" if component is Component.RESID_PRE else component.value for component in components]
    lines = []
    for i in range(profile.n_blocks):
        errors = [profile.at(i, c) if c is not Component.RESID_PRE or i == 0 else None for c in components]
        lines.append(_line(str(i), profile, errors, profile.at(i, Component.RESID_POST)))
    for name in (LN_FINAL, LOGITS):
        error = profile.sites.get(name)
        lines.append(_line(name, profile, [*[None] * (len(components) - 1), error], error))
    columns = [Column("block"), *(Column(name, str) for name in names), Column("propagated", "{:.2g}".format)]
    title = f"{title}: {profile.cell}, error of a block fed its exact input (times {OWN})"
    render.show(console, Format.RICH, title, columns, lines)


def _line(name: str, profile: DepthProfile, errors: Sequence[SiteError | None], output: SiteError | None) -> list[Value]:
    shown = [f"{error.local:.2g} ({profile.ratio(error):.3g})" if error else "" for error in errors]
    return [name, *shown, output.propagated if output else None]


def sentence(cell: Cell, outcome: Outcome[DepthProfile]) -> str:
    """What was found in one cell."""
    if outcome.record is None:
        return f"{cell}: {outcome.kind}: {outcome.reason}"
    wrong = outcome.record.first_wrong()
    if wrong is None:
        return f"{cell}: no block and no component is wrong; the largest is {outcome.record.local_ratio:.2g} times {OWN}."
    return (
        f"{cell}: {_place(wrong)} is the first that is wrong: its error is {wrong.error:.2g}, {wrong.ratio:.3g} times {OWN}."
    )


def to_json(cell: Cell, outcome: Outcome[DepthProfile]) -> dict[str, Any]:
    """One entry of ``cells`` in the command's JSON; absent figures are null."""
    wrong = outcome.record.first_wrong() if outcome.record else None
    growth = outcome.record.growth if outcome.record else None
    return {
        "model": cell.model,
        "dtype": cell.dtype.value,
        "option": cell.option.value,
        "wrapper": cell.wrapper.value,
        "outcome": outcome.kind.value,
        "reason": outcome.reason,
        **place_json(wrong),
        "propagated_last": _finite(outcome.record.propagated_last) if outcome.record else None,
        "growth_exponent": growth.exponent if growth else None,
        "growth_standard_error": growth.standard_error if growth else None,
        "sites": {
            name: {kind: _finite(value) for kind, value in asdict(error).items()}
            for name, error in (outcome.record.sites.items() if outcome.record else ())
        },
        "silent_hooks": list(outcome.record.silent) if outcome.record else [],
        "missing_hooks": list(outcome.record.missing) if outcome.record else [],
    }


def place_json(wrong: Wrong | None) -> dict[str, Any]:
    """The first wrong quantity; nulls where all is well. Before and after the blocks only ``block`` is null.

    An error that is not finite is null.
    """
    return {
        "block": wrong.block if wrong else None,
        "component": wrong.component if wrong else None,
        "part": wrong.part if wrong else None,
        "error": _finite(wrong.error) if wrong else None,
        "reference_error": _finite(wrong.reference_error) if wrong else None,
        "ratio": _finite(wrong.ratio) if wrong else None,
    }


def _finite(value: float | None) -> float | None:
    """A number that JSON has; it has no infinity."""
    return value if value is not None and math.isfinite(value) else None


def first_wrong(found: Found) -> Wrong | None:
    """Of the first cell that has one."""
    places = (outcome.record.first_wrong() for _, outcome in found if outcome.record)
    return next((place for place in places if place), None)


def is_alarm(found: Found) -> bool:
    """Whether something is wrong, or failed."""
    return first_wrong(found) is not None or any(outcome.kind is Kind.FAILED for _, outcome in found)


def _place(wrong: Wrong) -> str:
    return wrong.component if wrong.block is None else f"{wrong.component} of block {wrong.block}"
