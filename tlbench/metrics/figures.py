"""The figures that are measured of a cell, as plain values: this module and what it needs import no torch."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from tlbench.grid import Dtype, Statistic

UNIT_ROUNDOFF = {Dtype.FLOAT32: 2.0**-24, Dtype.FLOAT16: 2.0**-11, Dtype.BFLOAT16: 2.0**-8}
"""u: half the distance from 1 to the next number of the type (Higham, "Accuracy and Stability", 2nd ed., section 2.1)."""
RATIO_GATE = {Dtype.FLOAT32: 2.0, Dtype.FLOAT16: 3.0, Dtype.BFLOAT16: 3.0}
"""How many times HuggingFace's own error is still benign, as in PyTorch's accuracy check (``torch._dynamo.utils.same``)."""
TAIL_SLACK = 3.0
"""In a mixture of experts what attends to a token that was sent elsewhere is off as well, by a few roundings: of a healthy
draw of the zoo's Mixtral in bfloat16 the tail's ratio is 3.4 (``python -m tools.seeds --family mixtral``)."""


def root_mean_square(errors: Collection[float]) -> float:
    """Of rms errors that are each of as many entries: that of all the entries."""
    return math.sqrt(math.fsum(error**2 for error in errors) / len(errors))


@dataclass(frozen=True)
class ErrorStatistics:
    """Four statistics of one tensor of absolute errors, in the unit of the space they were taken in."""

    max: float
    mean: float
    median: float
    std: float

    def get(self, statistic: Statistic) -> float:
        """The statistic of that name."""
        return float(getattr(self, statistic.value))


@dataclass(frozen=True)
class Shift:
    """What centring removes: the difference of the two models' logits, as one constant a position.

    Attributes:
        max_abs: the largest absolute constant over all positions, in logits (nats).
        raw_max: max |z_t - z_h| with nothing removed, in logits (nats).
    """

    max_abs: float
    raw_max: float


@dataclass(frozen=True)
class Truth:
    """How far one model's logits are from the exact ones, beside HuggingFace's distance at the same dtype.

    Attributes:
        identical: whether the logits are HuggingFace's bit for bit.
        error_rms: rms(e_t), in nats.
        reference_rms: rms(e_h), in nats.
        golden_rms: rms of the golden's centred logits, in nats.
        error_ratio: R = rms(e_t) / rms(e_h). 1: rounds as HuggingFace does; below 1: nearer the truth.
        error_correlation: corr(e_t, e_h). Near 1: the same rounding; near 0: independent rounding.
        bits_lost: log2(1 + rms(e_t) / (u rms(z_g))). 0 when exact; comparable across dtypes.
        kl_nats: KL(g || t), the mean over positions, in nats a token.
        kl_max_nats: the largest KL(g || t) of a position.
        top1_flips: positions whose most likely token is not the golden's though its margin there is above a few ULPs.
        top1_ties: positions where it is not the golden's and the margin is within a few ULPs.
        top1_unexplained: flips whose golden margin no error within the gate of the ratio could bridge.
        shift_spread: the largest standard deviation over the vocabulary, of any position, of t - g: what of the
            difference is no shift common to all logits. Nats.
        total_rms: rms of the distance to the function of the weights as they are in the file, in nats.
        weights_rms: how far rounding the weights to the dtype alone moves the exact function, in nats.
        golden_precision: ``float64``; ``float32`` marks a makeshift golden.
        typical_ratio: the ratio between medians over positions: of the mean square of e_t and of e_h, its root.
        has_experts: whether the model is a mixture of experts, where a rounding may send a token to another expert.
        tail_ratio: the ratio between the positions that a twelfth of all positions exceed: of the mean square of e_t and of
            e_h, its root.
        settled_ratio: the ratio over the positions that no rounding can send to other experts; None where there are too few.
        settled_share: which share of all positions these are.
        difference_rms: rms error of a logit difference, in nats, between two of the golden's ten likeliest tokens at a
            position, against the weights as they are in the file.
        difference_p99: and the 99th percentile of its absolute value.
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
    typical_ratio: float
    has_experts: bool
    tail_ratio: float
    settled_ratio: float | None
    settled_share: float
    difference_rms: float
    difference_p99: float

    @property
    def judged_ratio(self) -> float:
        """The ratio that the gate is held against.

        In a mixture of experts any rounding sends a token near the border between two experts to the other one, which makes
        an error of another size at that position and those that attend to it: in TransformerLens at some, in HuggingFace at
        others, and neither is less right. These are few: in 20 draws of the zoo's Mixtral at most 4 of 128. So it is the
        largest of three there: the typical position's; a third of that of the position that a twelfth of all exceed, where a
        fault of a tenth of the positions shows; and that of all positions before which no token is near a border, which in
        float32 are nearly always all.
        """
        if not self.has_experts:
            return self.error_ratio
        return max(self.typical_ratio, self.tail_ratio / TAIL_SLACK, self.settled_ratio or 0.0)


@dataclass(frozen=True)
class Closeness:
    """How far a model's logits are from HuggingFace's, beside what HuggingFace's own rounding can do. No golden is needed.

    Attributes:
        identical: whether the logits are HuggingFace's bit for bit.
        distance_rms: rms(z_t - z_h), in nats.
        spread_rms: the largest rms(z_v - z_h) over HuggingFace's variants v, which compute the same function with another
            rounding. 0 where no variant rounds otherwise, so that nothing can be said.
        widest: the name of that variant; "" where there is none.
        ratio: distance over spread; of a mixture of experts, of the typical position. Two independent roundings of one size
            make it 1. Infinite where the spread is 0 and the distance is not.
        top1_unexplained: positions whose most likely token is not HuggingFace's though no variant's error, times the gate,
            could bridge the margin.
    """

    identical: bool
    distance_rms: float
    spread_rms: float
    widest: str
    ratio: float
    top1_unexplained: int
