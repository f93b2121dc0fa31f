"""TransformerLens's distance from HuggingFace, relative to HuggingFace's own rounding. Used where no golden can judge.

HuggingFace's variants (:mod:`tlbench.reference.variants`) compute the same function with different rounding. Independent,
equally large roundings give a ratio near 1, so the gates are the golden's. All arithmetic is float64, on centred logits.
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
    """The distance of one HuggingFace variant from HuggingFace.

    Attributes:
        squares: mean over the vocabulary of (z_v - z_h) squared. ``[batch, pos]``, nats squared.
        largest: max |z_v - z_h| over all entries, in nats.
    """

    squares: Tensor
    largest: float

    @property
    def rms(self) -> float:
        """Root mean square over all entries, in nats."""
        return math.sqrt(self.squares.mean().item())

    @property
    def typical(self) -> float:
        """Root mean square at the median position, in nats."""
        return math.sqrt(self.squares.median().item())


def spread(v: Tensor, h: Tensor) -> Spread:
    """The distance between two models' logits ``[batch, pos, d_vocab]``."""
    parts = [(error.square().mean(-1), error.max().item()) for error in centred_difference(v, h)]
    return Spread(torch.cat([squares for squares, _ in parts], 1), max(largest for _, largest in parts))


def closeness(t: Tensor, h: Tensor, variants: Mapping[str, Spread], dtype: Dtype, *, has_experts: bool) -> Closeness:
    """Compare TransformerLens's distance from HuggingFace with that of HuggingFace's variants.

    A mixture of experts is judged at the median position: in either model, rounding sends some tokens to other experts.
    TransformerLens's logits ``t`` and HuggingFace's ``h`` are ``[batch, pos, d_vocab]`` and finite. ``variants`` has the
    distance of each variant from ``h``, by name.
    """
    distance = spread(t, h)
    widest = max(variants, key=lambda name: variants[name].rms, default="")
    width = variants[widest].rms if widest else 0.0
    typical_width = max((variant.typical for variant in variants.values()), default=0.0)
    tl_rms, variant_rms = (distance.typical, typical_width) if has_experts else (distance.rms, width)
    ratio = tl_rms / variant_rms if variant_rms else (0.0 if tl_rms == 0 else math.inf)
    largest_explained = 2 * RATIO_GATE[dtype] * max((variant.largest for variant in variants.values()), default=0.0)
    unexplained = int((top1_changes(t, h, dtype) > largest_explained).sum())
    return Closeness(
        identical=torch.equal(t, h),
        distance_rms=distance.rms,
        spread_rms=width,
        typical_spread_rms=typical_width,
        widest=widest if width else "",
        ratio=ratio,
        top1_unexplained=0 if has_experts and ratio <= RATIO_GATE[dtype] else unexplained,
    )
