"""One word for a cell, by one pure function. The gates are stated in docs/method.md, with their reasons."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tlbench.grid import Dtype
from tlbench.metrics.figures import RATIO_GATE, Closeness, Truth

SAME_RATIO = 1.1
"""The same rounding: the error's size is HuggingFace's to within a tenth, and"""
SAME_CORRELATION = 0.95
"""so correlated that at most a tenth of its variance is its own (1 - 0.95**2 is 0.0975)."""
BROKEN_RATIO = 100.0
"""An error of so many times HuggingFace's is no rounding at all."""


class Verdict(StrEnum):
    """What a person should think of a cell, from best to worst within the measured ones."""

    EXACT = "exact"
    """HuggingFace's logits bit for bit."""
    SAME_ROUNDING = "same rounding"
    """The error is HuggingFace's own, nearly entry by entry."""
    BENIGN = "benign"
    """It rounds differently from HuggingFace, but no worse."""
    NO_OP = "no-op"
    """The option changed no weight of this model. This does not say that the option is exact."""
    UNJUDGED = "unjudged"
    """Measured, but neither a golden nor HuggingFace's own rounding can say whether it is right. It never passes."""
    WORSE = "worse"
    """Beyond the gate: TransformerLens loses accuracy that HuggingFace keeps."""
    BROKEN = "broken"
    """Another function: non-finite, top tokens changed that no rounding explains, or an error in the hundreds."""
    NOT_APPLICABLE = "n/a"
    """This TransformerLens has no such wrapper, option or architecture."""
    FAILED = "failed"
    """It raised."""
    NOT_MEASURED = "not measured"
    """Nobody has run it."""

    @property
    def severity(self) -> float:
        """0 exact, 1 same rounding, 2 benign, 2.5 unjudged, 3 worse, 4 broken: a number whose steps up are regressions.

        Raises:
            KeyError: for a word that says nothing about an error.
        """
        return SEVERITIES[self]

    @property
    def is_alarm(self) -> bool:
        """Whether it is known to be wrong: worse than benign."""
        return self in (Verdict.WORSE, Verdict.BROKEN, Verdict.FAILED)

    @property
    def passes(self) -> bool:
        """Whether it is known to be right."""
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
    """The verdict that a stored severity stands for.

    Raises:
        KeyError: if it stands for none.
    """
    return {value: word for word, value in SEVERITIES.items()}[severity]


class JudgedBy(StrEnum):
    """What a verdict rests on."""

    GOLDEN = "golden"
    """The distance from the golden, beside HuggingFace's own."""
    HUGGINGFACE = "HuggingFace"
    """The distance from HuggingFace, beside what HuggingFace's own rounding can do: there is no golden to trust."""
    NOTHING = ""
    """Nothing but whether the logits are finite."""


@dataclass(frozen=True)
class Evidence:
    """All that a verdict is given on.

    Attributes:
        dtype: of the cell.
        nonfinite: how many of TransformerLens's logits are NaN or infinite.
        reference_nonfinite: how many of HuggingFace's are.
        no_op: whether the option changed no weight.
        truth: the figures against the golden; None where there is none.
        closeness: the figures against HuggingFace and its variants; None where they were not needed or cannot be had.
        reference_fault: why HuggingFace's own logits are wrong, which nobody may blame on TransformerLens; "" where they are
            right, or there is no golden to tell.
    """

    dtype: Dtype
    nonfinite: int = 0
    reference_nonfinite: int = 0
    no_op: bool = False
    truth: Truth | None = None
    closeness: Closeness | None = None
    reference_fault: str = ""


def judge(evidence: Evidence) -> Verdict:
    """The verdict of a measured cell.

    A fault outranks a no-op, and so does having nothing to judge by: a model that is wrong is wrong under an option that
    does nothing, too.
    """
    word, _ = _judge(evidence)
    return Verdict.NO_OP if evidence.no_op and word.passes else word


def judged_by(evidence: Evidence) -> JudgedBy:
    """What :func:`judge` rested on."""
    return _judge(evidence)[1]


def _judge(evidence: Evidence) -> tuple[Verdict, JudgedBy]:
    if evidence.reference_nonfinite:
        return Verdict.UNJUDGED, JudgedBy.NOTHING
    if evidence.nonfinite:
        return Verdict.BROKEN, JudgedBy.NOTHING
    if evidence.reference_fault:
        return _beside_a_wrong_reference(evidence)
    if evidence.truth is not None:
        return _by_golden(evidence.dtype, evidence.truth), JudgedBy.GOLDEN
    if evidence.closeness is not None:
        return _by_huggingface(evidence.dtype, evidence.closeness), JudgedBy.HUGGINGFACE
    return Verdict.UNJUDGED, JudgedBy.NOTHING


def _by_golden(dtype: Dtype, truth: Truth) -> Verdict:
    beyond = truth.judged_ratio > RATIO_GATE[dtype]
    # In a mixture of experts a token that rounding sends to another expert may change its top token, too.
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
    if not closeness.spread_rms:
        return Verdict.UNJUDGED
    if closeness.top1_unexplained or closeness.ratio >= BROKEN_RATIO:
        return Verdict.BROKEN
    return Verdict.WORSE if closeness.ratio > RATIO_GATE[dtype] else Verdict.BENIGN


def _beside_a_wrong_reference(evidence: Evidence) -> tuple[Verdict, JudgedBy]:
    """TransformerLens is right if it computes what HuggingFace does, or what HuggingFace should; else nobody can say."""
    closeness, truth, gate = evidence.closeness, evidence.truth, RATIO_GATE[evidence.dtype]
    if closeness is None:
        return Verdict.UNJUDGED, JudgedBy.NOTHING
    word = _by_huggingface(evidence.dtype, closeness)
    if word.passes:
        return word, JudgedBy.HUGGINGFACE
    if truth is not None and truth.error_rms <= gate * closeness.spread_rms:
        return Verdict.BENIGN, JudgedBy.GOLDEN
    return Verdict.UNJUDGED, JudgedBy.NOTHING
