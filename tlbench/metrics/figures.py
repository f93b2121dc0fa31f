"""The figures measured for a cell, as plain values. Neither this module nor its imports need torch."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from tlbench.grid import Dtype, Statistic

UNIT_ROUNDOFF = {Dtype.FLOAT32: 2.0**-24, Dtype.FLOAT16: 2.0**-11, Dtype.BFLOAT16: 2.0**-8}
"""u: half the gap between 1 and the next number of the dtype (Higham, "Accuracy and Stability", 2nd ed., section 2.1)."""
RATIO_GATE = {Dtype.FLOAT32: 2.0, Dtype.FLOAT16: 3.0, Dtype.BFLOAT16: 3.0}
"""An error up to this many times HuggingFace's is benign, as in PyTorch's accuracy check (``torch._dynamo.utils.same``)."""
TAIL_SLACK = 3.0
"""Divides the tail ratio of a mixture of experts. When a token goes to another expert, positions that attend to it are off
too: a healthy draw of the zoo's Mixtral in bfloat16 has a tail ratio of 3.4 (``python -m tools.seeds --family mixtral``)."""


def root_mean_square(errors: Collection[float]) -> float:
    """Combine rms errors over equally many entries into the rms over all of them."""
    return math.sqrt(math.fsum(error**2 for error in errors) / len(errors))


@dataclass(frozen=True)
class ErrorStatistics:
    """Four statistics of one tensor of absolute errors, in the unit of their space."""

    max: float
    mean: float
    median: float
    std: float

    def get(self, statistic: Statistic) -> float:
        """Look up a statistic by name."""
        return float(getattr(self, statistic.value))


@dataclass(frozen=True)
class Shift:
    """What centring removes from the difference of two models' logits: one constant per position.

    Attributes:
        max_abs: the largest absolute constant over all positions, in logits (nats).
        raw_max: max |z_t - z_h| of the uncentred logits (nats).
    """

    max_abs: float
    raw_max: float


@dataclass(frozen=True)
class Truth:
    """One model's distance from the golden, next to HuggingFace's distance at the same dtype.

    Attributes:
        identical: whether the logits equal HuggingFace's bit for bit.
        error_rms: rms(e_t), in nats.
        reference_rms: rms(e_h), in nats.
        golden_rms: rms of the golden's centred logits, in nats.
        error_ratio: R = rms(e_t) / rms(e_h). 1: rounds as HuggingFace does; below 1: closer to the golden.
        error_correlation: corr(e_t, e_h). Near 1: the same rounding; near 0: independent rounding.
        bits_lost: log2(1 + rms(e_t) / (u rms(z_g))). 0 when exact; comparable across dtypes.
        kl_nats: KL(g || t), averaged over positions, in nats per token.
        kl_max_nats: the largest KL(g || t) at any position.
        top1_flips: positions whose top token is not the golden's, where the golden margin is above a few ULPs.
        top1_ties: positions whose top token is not the golden's, where the golden margin is within a few ULPs.
        top1_unexplained: flips with a golden margin too large for any error within the ratio's gate.
        shift_spread: the largest std of t - g over the vocabulary at any position, in nats: what is no shift of all logits.
        total_rms: rms distance from the golden of the weights as stored in the file, in nats.
        weights_rms: how far rounding the weights to the dtype alone moves the golden, rms in nats.
        golden_precision: ``float64``, or ``float32`` for a makeshift golden.
        typical_rms: rms(e_t) at the median position, in nats.
        typical_ratio: the same over that of e_h.
        has_experts: whether the model is a mixture of experts, where rounding may send a token to another expert.
        tail_ratio: the same as ``typical_ratio``, but at the level that a twelfth of the positions exceed.
        settled_ratio: the ratio over positions up to which no rounding can send a token to another expert; None if too few.
        settled_share: the share of positions that are settled.
        difference_rms: rms error of the logit difference between any two of the golden's ten likeliest tokens at a position,
            in nats, against the golden of the weights as stored in the file.
        difference_p99: the 99th percentile of that error's absolute value.
    """

    identical: bool
    error_rms: float
    reference_rms: float
    golden_rms: float
    error_ratio: float
    error_correlation: float
    bits_lost: float
    kl_nats: float
    kl_max_nats: float
    top1_flips: int
    top1_ties: int
    top1_unexplained: int
    shift_spread: float
    total_rms: float
    weights_rms: float
    golden_precision: str
    typical_rms: float
    typical_ratio: float
    has_experts: bool
    tail_ratio: float
    settled_ratio: float | None
    settled_share: float
    difference_rms: float
    difference_p99: float

    @property
    def judged_ratio(self) -> float:
        """The ratio that is compared with the gate.

        In a mixture of experts, any rounding can send a token near the border between two experts to the other one. That
        changes the error at its position and at those that attend to it: at some in TransformerLens, at others in
        HuggingFace, and neither is less right. Few are affected: at most 4 of 128 in 20 draws of the zoo's Mixtral. So the
        largest of three ratios counts: the median position's, a third of the tail's (which catches a fault in a tenth of
        the positions), and that of the settled positions (in float32 nearly always all of them).
        """
        if not self.has_experts:
            return self.error_ratio
        return max(self.typical_ratio, self.tail_ratio / TAIL_SLACK, self.settled_ratio or 0.0)


@dataclass(frozen=True)
class Closeness:
    """One model's distance from HuggingFace, relative to HuggingFace's own rounding. Needs no golden.

    Attributes:
        identical: whether the logits equal HuggingFace's bit for bit.
        distance_rms: rms(z_t - z_h), in nats.
        spread_rms: the largest rms(z_v - z_h) over HuggingFace's variants v. If 0, the cell stays unjudged.
        typical_spread_rms: the same at the median position.
        widest: the name of the variant with the largest spread; "" if there is none.
        ratio: distance over spread, at the median position for a mixture of experts. Infinite if only the spread is 0.
        top1_unexplained: changed top tokens whose margin no variant's error, times the gate, could bridge.
    """

    identical: bool
    distance_rms: float
    spread_rms: float
    typical_spread_rms: float
    widest: str
    ratio: float
    top1_unexplained: int
