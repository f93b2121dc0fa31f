"""What a researcher may rely on: which dtype and options are safe for an effect of a given size.

Most effects are differences of two logits. Two logits whose errors are independent and of rms e have a difference whose
error is sqrt(2) e; e is measured against the exact function of the weights as they are in the file, so that it holds
everything: rounded weights, processing, and the forward pass.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tlbench.cells import Dtype, Option, Wrapper
from tlbench.exceptions import BadInput
from tlbench.report.stored import Figure, TruthRow
from tlbench.verdict import Verdict

MARGIN = 10.0
"""An error of at most a tenth of the effect is called safe: it changes no digit that anyone would report."""
UNITS = {"": 1.0, "nat": 1.0, "nats": 1.0, "bit": math.log(2), "bits": math.log(2)}
EFFECT = re.compile(r"\s*([0-9.]+(?:[eE][-+]?\d+)?)\s*([a-zA-Z]*)\s*")


@dataclass(frozen=True)
class Advice:
    """One cell, for one effect.

    Attributes:
        row: the stored figures.
        error_nats: the typical error of a logit difference; infinite where the cell is broken or failed.
        effect_nats: the effect's size.
    """

    row: TruthRow
    error_nats: float
    effect_nats: float

    @property
    def is_safe(self) -> bool:
        """Whether the error is at most a tenth of the effect, and no fault is known."""
        return not self.row.verdict.is_alarm and self.error_nats * MARGIN <= self.effect_nats


def parse_effect(text: str) -> float:
    """The size of an effect in nats, such as ``0.01nats`` or ``0.5 bits``.

    Raises:
        BadInput: if it is no positive number with a known unit.
    """
    match = EFFECT.fullmatch(text)
    try:
        size = float(match[1]) * UNITS[match[2].lower()] if match else math.nan
    except (ValueError, KeyError):
        size = math.nan
    if not 0 < size < math.inf:
        raise BadInput(f"--effect {text!r} is not understood: give a positive number of nats or bits, such as 0.01nats")
    return size


def advise(rows: Sequence[TruthRow], effect_nats: float) -> list[Advice]:
    """One piece of advice for each cell that exists, in the grid's order."""
    found = []
    for row in rows:
        if row.verdict is Verdict.NOT_APPLICABLE:
            continue
        rms = row.figures.get(Figure.TOTAL_RMS, math.inf)
        found.append(Advice(row, math.sqrt(2) * rms, effect_nats))
    return found


def sentences(advice: Sequence[Advice]) -> list[str]:
    """For each wrapper and dtype, one sentence that says which options are safe and by how much."""
    lines = []
    for wrapper in Wrapper:
        for dtype in Dtype:
            of_both = [one for one in advice if (one.row.cell.wrapper, one.row.cell.dtype) == (wrapper, dtype)]
            if of_both:
                lines.append(f"{wrapper}, {dtype}: {_sentence(of_both)}")
    return lines


def _sentence(advice: Sequence[Advice]) -> str:
    safe = [one for one in advice if one.is_safe]
    unsafe = [one for one in advice if not one.is_safe]
    parts = []
    if safe:
        worst = max(safe, key=lambda one: one.error_nats)
        times = worst.effect_nats / worst.error_nats if worst.error_nats else math.inf
        parts.append(
            f"safe with {_options(safe, advice)}: an error of {worst.error_nats:.2g} nats, the effect is "
            f"{times:,.0f} times that"
        )
    faulty = [one for one in unsafe if one.row.verdict.is_alarm]
    if faulty:
        words = ", ".join(sorted({one.row.verdict.value for one in faulty}))
        parts.append(f"do not use {_options(faulty, advice)} ({words})")
    coarse = [one for one in unsafe if not one.row.verdict.is_alarm]
    if coarse:
        worst = max(coarse, key=lambda one: one.error_nats)
        parts.append(
            f"{_unsafe(coarse, advice)}: an error of {worst.error_nats:.2g} nats is "
            f"{worst.error_nats / worst.effect_nats:.2g} times the effect"
        )
    return "; ".join(parts)


def _unsafe(some: Sequence[Advice], of_all: Sequence[Advice]) -> str:
    return "safe with no option" if len(some) == len(of_all) else f"not safe with {_options(some, of_all)}"


def _options(some: Sequence[Advice], of_all: Sequence[Advice]) -> str:
    if len(some) == len(of_all) == len(Option):
        return "every option"
    return ", ".join(one.row.cell.option.value for one in some)
