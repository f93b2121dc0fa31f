"""Which dtypes and options are safe for an effect of a given size.

Most effects are differences between the logits of two likely tokens, so that is the error to compare them with. It includes
weight rounding, weight processing and the forward pass. Its 99th percentile decides: an effect is read at one position, and
the error there can be many times the rms.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tlbench.exceptions import BadInput
from tlbench.grid import Dtype, Option, Wrapper
from tlbench.metrics.verdict import Verdict
from tlbench.report.stored import Figure, TruthRow

MARGIN = 10.0
"""An error of at most a tenth of the effect is safe: it changes no digit that anyone would report."""
EXPLANATION = (
    "The error is that of a logit difference between two of the ten likeliest tokens, against the golden of the weights in "
    "the file. Its 99th percentile decides: safe means at most a tenth of the effect."
)
EFFECT = re.compile(r"\s*((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?)\s*(nats?|bits?|)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Advice:
    """A cell's stored figures beside the size of an effect."""

    row: TruthRow
    effect_nats: float

    @property
    def error_nats(self) -> float:
        """99th percentile of the error of a logit difference; infinite if none is stored."""
        return self.row.figures.get(Figure.DIFFERENCE_P99, math.inf)

    @property
    def is_safe(self) -> bool:
        """Whether the cell is known to be right, and its error is at most a tenth of the effect."""
        return self.row.verdict.passes and self.error_nats * MARGIN <= self.effect_nats


def parse_effect(text: str) -> float:
    """The size of an effect in nats, from text such as ``0.01nats`` or ``0.5 bits``.

    Raises:
        BadInput: if it is not a positive number with a known unit.
    """
    match = EFFECT.fullmatch(text)
    size = float(match[1]) * (math.log(2) if match[2].lower().startswith("bit") else 1.0) if match else 0.0
    if not 0 < size < math.inf:
        raise BadInput(f"invalid --effect {text!r}: expected a positive number of nats or bits, e.g. 0.01nats")
    return size


def advise(rows: Sequence[TruthRow], effect_nats: float) -> list[Advice]:
    """Advice on every applicable and measured cell, in grid order."""
    absent = (Verdict.NOT_APPLICABLE, Verdict.NOT_MEASURED)
    return [Advice(row, effect_nats) for row in rows if row.verdict not in absent]


def sentences(advice: Sequence[Advice]) -> list[str]:
    """One sentence per wrapper and dtype: which options are safe, and by how much."""
    lines = []
    for wrapper, dtype in itertools.product(Wrapper, Dtype):
        group = [one for one in advice if (one.row.cell.wrapper, one.row.cell.dtype) == (wrapper, dtype)]
        if group:
            lines.append(f"{wrapper}, {dtype}: {_sentence(group)}")
    return lines


def _sentence(advice: Sequence[Advice]) -> str:
    safe = [one for one in advice if one.is_safe]
    faulty = [one for one in advice if not one.row.verdict.passes]
    coarse = [one for one in advice if one.row.verdict.passes and not one.is_safe]
    parts = []
    if safe:
        worst = max(safe, key=lambda one: one.error_nats)
        factor = worst.effect_nats / worst.error_nats if worst.error_nats else math.inf
        parts.append(f"safe with {_options(safe, advice)}: {_errors(worst)}, {factor:,.0f} times smaller than the effect")
    if faulty:
        words = ", ".join(sorted({one.row.verdict.value for one in faulty}))
        parts.append(f"do not use {_options(faulty, advice)} ({words})")
    if coarse:
        worst = max(coarse, key=lambda one: one.error_nats)
        options = "no option is safe" if len(coarse) == len(advice) else f"not safe with {_options(coarse, advice)}"
        parts.append(f"{options}: {_errors(worst)}, {worst.error_nats / worst.effect_nats:.2g} times the effect")
    return "; ".join(parts)


def _errors(one: Advice) -> str:
    rms = one.row.figures.get(Figure.DIFFERENCE_RMS, math.inf)
    return f"error {rms:.2g} nats (rms), {one.error_nats:.2g} nats (99th percentile)"


def _options(some: Sequence[Advice], of_all: Sequence[Advice]) -> str:
    if len(some) == len(of_all) == len(Option):
        return "every option"
    return ", ".join(one.row.cell.option.value for one in some)
