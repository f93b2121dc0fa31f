"""How far TransformerLens is from HuggingFace, beside what HuggingFace's own rounding can do: for where there is no golden.

HuggingFace's variants compute the same function with another rounding (:mod:`tlbench.reference.variants`). If two roundings
are independent and of one size, TransformerLens is as far from HuggingFace as a variant is, so the ratio is near 1; the
gates are those of the ratio against the golden. All arithmetic is float64, on centred logits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tlbench.grid import Dtype
from tlbench.metrics.figures import RATIO_GATE, Closeness
from tlbench.metrics.golden_error import top1_changes
from tlbench.metrics.hf_error import centred_difference


@dataclass(frozen=True)
class Spread:
    """How far one variant of HuggingFace is from HuggingFace.

    Attributes:
        squares: the mean over the vocabulary of (z_v - z_h) squared at each position. ``[batch, pos]``, nats squared.
        largest: max |z_v - z_h| over every entry, in nats.
    """

    squares: Tensor
    largest: float

    @property
    def rms(self) -> float:
        """Over every entry, in nats."""
        return math.sqrt(self.squares.mean().item())

    @property
    def typical(self) -> float:
        """Of the median position, in nats."""
        return math.sqrt(self.squares.median().item())


def spread(v: Tensor, h: Tensor) -> Spread:
    """Of two models' logits ``[batch, pos, d_vocab]``."""
    parts = [(error.square().mean(-1), error.max().item()) for error in centred_difference(v, h)]
    return Spread(torch.cat([squares for squares, _ in parts], 1), max(largest for _, largest in parts))


def closeness(t: Tensor, h: Tensor, variants: Mapping[str, Spread], dtype: Dtype, *, has_experts: bool) -> Closeness:
    """TransformerLens beside HuggingFace and its variants.

    Args:
        t: TransformerLens's finite logits ``[batch, pos, d_vocab]``.
        h: HuggingFace's.
        variants: by name, how far each of HuggingFace's variants is from ``h``.
        dtype: at which all were computed.
        has_experts: whether the model is a mixture of experts, whose positions are judged by the typical one: rounding sends
            some tokens to other experts, in one model as in another.
    """
    distance = spread(t, h)
    widest = max(variants, key=lambda name: variants[name].rms, default="")
    width = variants[widest].rms if widest else 0.0
    one, other = distance.rms, width
    if has_experts:
        one, other = distance.typical, max((variant.typical for variant in variants.values()), default=0.0)
    ratio = one / other if other else (0.0 if one == 0 else math.inf)
    bridged = 2 * RATIO_GATE[dtype] * max((variant.largest for variant in variants.values()), default=0.0)
    unexplained = int((top1_changes(t, h, dtype) > bridged).sum())
    return Closeness(
        identical=torch.equal(t, h),
        distance_rms=distance.rms,
        spread_rms=width,
        widest=widest if width else "",
        ratio=ratio,
        top1_unexplained=0 if has_experts and ratio <= RATIO_GATE[dtype] else unexplained,
    )
