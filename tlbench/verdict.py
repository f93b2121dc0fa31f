"""One word for a cell, by one pure function. The gates are stated in docs/method.md, with their reasons."""

from __future__ import annotations

from enum import StrEnum

from tlbench.cells import Dtype
from tlbench.figures import RATIO_GATE, Truth

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
    """Another rounding, of a size that HuggingFace's own has."""
    NO_OP = "no-op"
    """The option changed no weight of this model. This is no statement that the option is exact."""
    WORSE = "worse"
    """Beyond the gate: TransformerLens loses accuracy that HuggingFace keeps."""
    BROKEN = "broken"
    """Another function: non-finite, top tokens changed that no rounding explains, or an error in the hundreds."""
    NOT_APPLICABLE = "n/a"
    """This TransformerLens has no such wrapper, option or architecture; or there is nothing to judge by."""
    FAILED = "failed"
    """It raised."""

    @property
    def severity(self) -> int:
        """0 exact, 1 same rounding, 2 benign, 3 worse, 4 broken: a number whose steps up are regressions.

        Raises:
            ValueError: for a word that says nothing of an error.
        """
        return SEVERITIES.index(self)

    @property
    def is_alarm(self) -> bool:
        """Whether someone should look: worse than benign."""
        return self in (Verdict.WORSE, Verdict.BROKEN, Verdict.FAILED)


SEVERITIES = (Verdict.EXACT, Verdict.SAME_ROUNDING, Verdict.BENIGN, Verdict.WORSE, Verdict.BROKEN)


def judge(dtype: Dtype, *, nonfinite: int, no_op: bool, truth: Truth | None) -> Verdict:
    """The verdict of a measured cell.

    A fault outranks a no-op: a model that is wrong is wrong under an option that does nothing, too.

    Args:
        dtype: of the cell.
        nonfinite: how many of TransformerLens's logits are NaN or infinite.
        no_op: whether the option changed no weight.
        truth: the figures against the golden; None where there is no golden or HuggingFace itself is not finite.
    """
    if nonfinite:
        return Verdict.BROKEN
    if truth is None:
        return Verdict.NO_OP if no_op else Verdict.NOT_APPLICABLE
    found = _judge_error(dtype, truth)
    return found if found.is_alarm or not no_op else Verdict.NO_OP


def _judge_error(dtype: Dtype, truth: Truth) -> Verdict:
    beyond = truth.judged_ratio > RATIO_GATE[dtype]
    # In a mixture of experts a token that rounding sends elsewhere may change its top token, too.
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
