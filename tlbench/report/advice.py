"""What a researcher may rely on: which dtype and options are safe for an effect of a given size.

Most effects are differences of two logits, of tokens that are likely. So the error is that of a logit difference, between
any two of the golden's ten likeliest tokens at a position, against the golden of the weights as they are in the file: it
holds everything, rounded weights, processing and the forward pass. Two figures are told, the rms and the 99th percentile;
the tail decides, since an effect is read at one position, and errors there can be many times the typical one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tlbench.exceptions import BadInput
from tlbench.grid import Dtype, Option, Wrapper
from tlbench.metrics.verdict import Verdict
from tlbench.report.stored import Figure, TruthRow

MARGIN = 10.0
"""An error of at most a tenth of the effect is called safe: it changes no digit that anyone would report."""
EXPLANATION = (
    "The error is that of a logit difference between two of the ten likeliest tokens, against the golden of the checkpoint; "
    "its 99th percentile decides. Safe is at most a tenth of the effect."
)
UNITS = {"": 1.0, "nat": 1.0, "nats": 1.0, "bit": math.log(2), "bits": math.log(2)}
EFFECT = re.compile(r"\s*([0-9.]+(?:[eE][-+]?\d+)?)\s*([a-zA-Z]*)\s*")


@dataclass(frozen=True)
class Advice:
    """One cell, for one effect.

    Attributes:
        row: the stored figures.
        error_nats: the 99th percentile of the error of a logit difference; infinite where there is no figure.
        typical_nats: its rms; infinite there, too.
        effect_nats: the effect's size.
    """

    row: TruthRow
    error_nats: float
    typical_nats: float
    effect_nats: float

    @property
    def is_safe(self) -> bool:
        """Whether the tail of the error is at most a tenth of the effect, and the cell is known to be right."""
        return self.row.verdict.passes and self.error_nats * MARGIN <= self.effect_nats


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
        if row.verdict in (Verdict.NOT_APPLICABLE, Verdict.NOT_MEASURED):
            continue
        tail, typical = (row.figures.get(figure, math.inf) for figure in (Figure.DIFFERENCE_P99, Figure.DIFFERENCE_RMS))
        found.append(Advice(row, tail, typical, effect_nats))
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
            f"safe with {_options(safe, advice)}: an error of {_size(worst)}, the effect is {times:,.0f} times the latter"
        )
    faulty = [one for one in unsafe if not one.row.verdict.passes]
    if faulty:
        words = ", ".join(sorted({one.row.verdict.value for one in faulty}))
        parts.append(f"do not use {_options(faulty, advice)} ({words})")
    coarse = [one for one in unsafe if one.row.verdict.passes]
    if coarse:
        worst = max(coarse, key=lambda one: one.error_nats)
        parts.append(
            f"{_unsafe(coarse, advice)}: an error of {_size(worst)} is "
            f"{worst.error_nats / worst.effect_nats:.2g} times the effect"
        )
    return "; ".join(parts)


def _size(one: Advice) -> str:
    return f"{one.typical_nats:.2g} nats typically and {one.error_nats:.2g} at the 99th percentile"


def _unsafe(some: Sequence[Advice], of_all: Sequence[Advice]) -> str:
    return "none is safe" if len(some) == len(of_all) else f"not safe with {_options(some, of_all)}"


def _options(some: Sequence[Advice], of_all: Sequence[Advice]) -> str:
    if len(some) == len(of_all) == len(Option):
        return "every option"
    return ", ".join(one.row.cell.option.value for one in some)
