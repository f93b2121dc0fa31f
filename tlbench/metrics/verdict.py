"""One word per cell, from one pure function. docs/method.md states the gates and their reasons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from tlbench.grid import Dtype
from tlbench.metrics.figures import RATIO_GATE, Closeness, Truth

SAME_RATIO = 1.1  # same rounding: the error's size is within a tenth of HuggingFace's
SAME_CORRELATION = 0.95  # and at most a tenth of its variance is TransformerLens's own (1 - 0.95**2 is 0.0975)
BROKEN_RATIO = 100.0  # an error this many times HuggingFace's is not rounding at all


class Verdict(StrEnum):
    """What to think of a cell. The measured ones come first, from best to worst."""

    EXACT = "exact"  # HuggingFace's logits, bit for bit
    SAME_ROUNDING = "same rounding"  # the error is HuggingFace's own, nearly entry by entry
    BENIGN = "benign"  # it rounds differently from HuggingFace, but no worse
    NO_OP = "no-op"  # the option changed no weight of this model; that does not mean the option is exact
    UNJUDGED = "unjudged"  # neither a golden nor HuggingFace's own rounding can tell whether it is right; never passes
    WORSE = "worse"  # beyond the gate: TransformerLens loses accuracy that HuggingFace keeps
    BROKEN = "broken"  # non-finite logits, changed top tokens that no rounding explains, or a ratio of 100 or more
    NOT_APPLICABLE = "n/a"  # this TransformerLens has no such wrapper, option or architecture
    FAILED = "failed"  # it raised
    NOT_MEASURED = "not measured"  # nobody has run it

    @property
    def severity(self) -> float:
        """Its number in :data:`SEVERITIES`; a step up is a regression. KeyError if the verdict does not rate an error."""
        return SEVERITIES[self]

    @property
    def is_alarm(self) -> bool:
        """Whether the cell is known to be wrong."""
        return self in (Verdict.WORSE, Verdict.BROKEN, Verdict.FAILED)

    @property
    def passes(self) -> bool:
        """Whether the cell is known to be right."""
        return self in (Verdict.EXACT, Verdict.SAME_ROUNDING, Verdict.BENIGN, Verdict.NO_OP)


SEVERITIES = {
    Verdict.EXACT: 0.0,
    Verdict.SAME_ROUNDING: 1.0,
    Verdict.BENIGN: 2.0,
    Verdict.UNJUDGED: 2.5,
    Verdict.WORSE: 3.0,
    Verdict.BROKEN: 4.0,
}


def word_of(severity: float) -> Verdict:
    """The verdict of a stored severity. KeyError if there is none."""
    return {value: word for word, value in SEVERITIES.items()}[severity]


class JudgedBy(StrEnum):
    """What a verdict is based on."""

    GOLDEN = "golden"  # the distance from the golden, relative to HuggingFace's own
    HUGGINGFACE = "HuggingFace"  # the distance from HuggingFace, relative to its own rounding: no golden can judge
    NOTHING = ""  # only whether the logits are finite


@dataclass(frozen=True)
class Evidence:
    """Everything a verdict is based on.

    Attributes:
        nonfinite: number of NaN or infinite logits from TransformerLens; ``reference_nonfinite``, from HuggingFace.
        no_op: whether the option changed no weight.
        truth: the figures against the golden; None if there is no golden.
        closeness: the figures against HuggingFace and its variants; None if they were not needed or are not available.
        reference_fault: why HuggingFace's own logits are wrong; "" if they are right or no golden can tell.
    """

    dtype: Dtype
    nonfinite: int = 0
    reference_nonfinite: int = 0
    no_op: bool = False
    truth: Truth | None = None
    closeness: Closeness | None = None
    reference_fault: str = ""


def judge(evidence: Evidence) -> Verdict:
    """The verdict of a measured cell. A fault, or having nothing to judge by, outranks a no-op."""
    word, _ = _judge(evidence)
    return Verdict.NO_OP if evidence.no_op and word.passes else word


def judged_by(evidence: Evidence) -> JudgedBy:
    """What :func:`judge` based its verdict on."""
    return _judge(evidence)[1]


def _judge(evidence: Evidence) -> tuple[Verdict, JudgedBy]:
    if evidence.reference_nonfinite:
        return Verdict.UNJUDGED, JudgedBy.NOTHING
    if evidence.nonfinite:
        return Verdict.BROKEN, JudgedBy.NOTHING
    if evidence.reference_fault:
        return _with_wrong_reference(evidence)
    if evidence.truth is not None:
        return _by_golden(evidence.dtype, evidence.truth), JudgedBy.GOLDEN
    if evidence.closeness is not None:
        return _by_huggingface(evidence.dtype, evidence.closeness), JudgedBy.HUGGINGFACE
    return Verdict.UNJUDGED, JudgedBy.NOTHING


def _by_golden(dtype: Dtype, truth: Truth) -> Verdict:
    beyond = truth.judged_ratio > RATIO_GATE[dtype]
    # In a mixture of experts, rounding can send a token to another expert and so change the top token.
    unexplained = truth.top1_unexplained and (beyond or not truth.has_experts)
    if unexplained or truth.error_ratio >= BROKEN_RATIO:
        return Verdict.BROKEN
    if beyond:
        return Verdict.WORSE
    if truth.identical:
        return Verdict.EXACT
    if 1 / SAME_RATIO <= truth.error_ratio <= SAME_RATIO and truth.error_correlation >= SAME_CORRELATION:
        return Verdict.SAME_ROUNDING
    return Verdict.BENIGN


def _by_huggingface(dtype: Dtype, closeness: Closeness) -> Verdict:
    if closeness.identical:
        return Verdict.EXACT
    if not closeness.spread_rms or math.isinf(closeness.ratio):  # the second: no variant differs at the median position
        return Verdict.UNJUDGED
    if closeness.top1_unexplained or closeness.ratio >= BROKEN_RATIO:
        return Verdict.BROKEN
    return Verdict.WORSE if closeness.ratio > RATIO_GATE[dtype] else Verdict.BENIGN


def _with_wrong_reference(evidence: Evidence) -> tuple[Verdict, JudgedBy]:
    """TransformerLens is right if it computes what HuggingFace does, or what HuggingFace should. Otherwise unjudged.

    In a mixture of experts, the median position counts: elsewhere a token may go to another expert in any variant.
    """
    closeness, truth, gate = evidence.closeness, evidence.truth, RATIO_GATE[evidence.dtype]
    if closeness is None:
        return Verdict.UNJUDGED, JudgedBy.NOTHING
    word = _by_huggingface(evidence.dtype, closeness)
    if word.passes:
        return word, JudgedBy.HUGGINGFACE
    if truth is not None:
        error, spread = truth.error_rms, closeness.spread_rms
        if truth.has_experts:
            error, spread = truth.typical_rms, closeness.typical_spread_rms
        if error <= gate * spread:
            return Verdict.BENIGN, JudgedBy.GOLDEN
    return Verdict.UNJUDGED, JudgedBy.NOTHING
