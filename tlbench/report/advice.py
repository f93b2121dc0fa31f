"""Which dtypes and options are safe for an effect of a given size.

Most effects are differences between the logits of two likely tokens, so that is the error to compare them with. It includes
weight rounding, weight processing and the forward pass. Its 99th percentile decides: an effect is read at one position, and
the error there can be many times the rms.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from rich.console import Console

from tlbench.exceptions import BadInput
from tlbench.grid import Dtype, Option, Wrapper
from tlbench.metrics.verdict import Verdict
from tlbench.report import render
from tlbench.report.render import Column, Format, Value
from tlbench.report.stored import Figure, TruthRow

MARGIN = 10.0
"""An error of at most a tenth of the effect is safe: it changes no digit that anyone would report."""
EXPLANATION = (
    "The error is that of a logit difference between two of the ten likeliest tokens, against the golden of the weights in "
    "the file. Its 99th percentile decides: safe means at most a tenth of the effect. The prompts are natural text of 64 "
    "tokens; shorter and longer ones have other errors."
)
EFFECT = re.compile(r"\s*((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?)\s*(nats?|bits?|)\s*", re.IGNORECASE)


DEFAULT = " *"
"""Marks an option that TransformerLens uses unless told otherwise."""
DEFAULTS = {
    (Wrapper.HOOKED_TRANSFORMER, Option.ALL_OPTIONS),
    (Wrapper.TRANSFORMER_BRIDGE, Option.UNPROCESSED),
}
EXPLAINED_DEFAULTS = (
    "* TransformerLens's default: HookedTransformer.from_pretrained processes with all_options, in float32; "
    "TransformerBridge.boot_transformers does not process, and its enable_compatibility_mode() uses all_options."
)


class Use(StrEnum):
    """What to do with a cell, for an effect of the given size."""

    SAFE = "safe"
    NOT_SAFE = "not safe"
    """It is right, and its error is more than a tenth of the effect."""
    NOT_RIGHT = "do not use"
    """It is not known to be right; the verdict says why."""
    NOT_MEASURED = "not measured"


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
    def word(self) -> Use:
        """What to do with the cell."""
        if self.row.verdict is Verdict.NOT_MEASURED:
            return Use.NOT_MEASURED
        if not self.row.verdict.passes:
            return Use.NOT_RIGHT
        return Use.SAFE if self.is_safe else Use.NOT_SAFE

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
    """Advice on every applicable cell, the smallest error first within a wrapper; what was not measured comes last."""
    found = [Advice(row, effect_nats) for row in rows if row.verdict is not Verdict.NOT_APPLICABLE]
    wrappers = list(Wrapper)
    return sorted(
        found, key=lambda one: (wrappers.index(one.row.cell.wrapper), one.word is Use.NOT_MEASURED, one.error_nats)
    )


def answer(advice: Sequence[Advice]) -> str:
    """What is safe, in one line, for each wrapper."""
    lines = []
    for wrapper in Wrapper:
        words = [_of_dtype([one for one in advice if one.row.cell.wrapper is wrapper], dtype) for dtype in Dtype]
        if any(words):
            lines.append(f"{wrapper} is {'; '.join(filter(None, words))}")
    return ". ".join(lines)


def _of_dtype(advice: Sequence[Advice], dtype: Dtype) -> str:
    measured = [one for one in advice if one.row.cell.dtype is dtype and one.word is not Use.NOT_MEASURED]
    safe = [one.row.cell.option for one in measured if one.word is Use.SAFE]
    if not measured:
        return f"{Use.NOT_MEASURED} in {dtype}" if any(one.row.cell.dtype is dtype for one in advice) else ""
    if not safe:
        return f"not safe in {dtype}"
    every = "every option" if len(safe) == len(Option) else "each option that was measured"
    return f"safe in {dtype} with {every if len(safe) == len(measured) else ', '.join(o for o in Option if o in safe)}"


def show(console: Console, advice: Sequence[Advice]) -> None:
    """One line per cell, what to do first; TransformerLens's own defaults are marked."""
    columns = [
        *(Column("use"), Column("dtype"), Column("options", short=render.folded_option)),
        Column("wrapper", short=render.short_wrapper, is_key=True),
        Column("error, nats (99 %)", "{:.2g}".format),
        Column("error, nats (rms)", "{:.2g}".format),
        Column("effect / error", lambda factor: f"{factor:,.0f}" if factor >= 10 else f"{factor:.2g}"),
    ]
    render.show(console, Format.RICH, "", columns, [_line(one) for one in advice])


def _line(one: Advice) -> list[Value]:
    cell, figures = one.row.cell, one.row.figures
    option = cell.option + (DEFAULT if (cell.wrapper, cell.option) in DEFAULTS else "")
    factor = one.effect_nats / one.error_nats if one.error_nats else math.inf
    error = None if one.error_nats == math.inf else one.error_nats
    shown = [error, figures.get(Figure.DIFFERENCE_RMS), None if error is None else factor]
    word = f"{one.word} ({one.row.verdict})" if one.word is Use.NOT_RIGHT else one.word
    return [word, cell.dtype, option, cell.wrapper, *shown]
