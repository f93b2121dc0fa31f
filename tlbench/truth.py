"""The formulas against the truth: how far two models' logits are from the exact function's.

Every function takes raw logits ``[batch, pos, d_vocab]`` and knows tensors only: ``t`` (TransformerLens), ``h``
(HuggingFace at the same dtype) and ``g`` (the golden, float64). All arithmetic is float64; errors are taken between
logits centred at each position, so that e_t = z_t - z_g and e_h = z_h - z_g.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tlbench.cells import Dtype
from tlbench.errors import centred
from tlbench.figures import RATIO_GATE, UNIT_ROUNDOFF, Truth

TIE_ULPS = 4
"""A golden margin of at most so many units in the last place makes a change of the top token a tie."""
FLOAT64_RESOLUTION = 2.0**-52
SERIES_BELOW = 1e-2
"""Below it expm1(x) - x cancels, and its Taylor series to x**6 is exact to float64."""


def against_truth(
    t: Tensor,
    h: Tensor,
    g: Tensor,
    original: Tensor,
    dtype: Dtype,
    precision: str = "float64",
    *,
    has_experts: bool = False,
) -> Truth:
    """Every figure of one cell against the truth.

    Args:
        t: TransformerLens's finite logits.
        h: HuggingFace's finite logits at the same dtype, with the attention that TransformerLens forces.
        g: the golden logits of the weights rounded to ``dtype``.
        original: the golden logits of the weights as they are in the file.
        dtype: at which ``t`` and ``h`` were computed.
        precision: in what the goldens were computed.
        has_experts: whether the model is a mixture of experts.
    """
    z_g, z_original = centred(g), centred(original)
    e_t, e_h = centred(t) - z_g, centred(h) - z_g
    reference_rms, golden_rms = rms(e_h), rms(z_g)
    largest_explained = 2 * RATIO_GATE[dtype] * e_h.abs().max().item()
    flips = top1_changes(t, g, dtype)
    kl = kl_divergence(g, t)
    return Truth(
        identical=torch.equal(t, h),
        error_rms=rms(e_t),
        reference_rms=reference_rms,
        golden_rms=golden_rms,
        error_ratio=rms(e_t) / max(reference_rms, FLOAT64_RESOLUTION * golden_rms),
        error_correlation=correlation(e_t, e_h),
        bits_lost=bits_lost(rms(e_t), golden_rms, dtype),
        kl_nats=kl.mean().item(),
        kl_max_nats=kl.max().item(),
        top1_flips=int((flips > 0).sum()),
        top1_ties=int((flips == 0).sum()),
        top1_unexplained=int((flips > largest_explained).sum()),
        shift_spread=e_t.square().mean(-1).sqrt().max().item(),
        total_rms=rms(e_t + z_g - z_original),
        weights_rms=rms(z_g - z_original),
        golden_precision=precision,
        typical_ratio=typical(e_t) / max(typical(e_h), FLOAT64_RESOLUTION * golden_rms),
        has_experts=has_experts,
    )


def rms(error: Tensor) -> float:
    """The root of the mean square over every entry."""
    return float(error.square().mean().sqrt())


def typical(error: Tensor) -> float:
    """The root of the median over positions of the mean square over the vocabulary."""
    return float(error.square().mean(-1).median().sqrt())


def correlation(e_t: Tensor, e_h: Tensor) -> float:
    """The cosine of two errors, which are centred already; 1 where both are 0, and 0 where one is."""
    norms = float(e_t.norm()) * float(e_h.norm())
    if norms == 0:
        return 1.0 if torch.equal(e_t, e_h) else 0.0
    return float((e_t * e_h).sum()) / norms


def bits_lost(error_rms: float, golden_rms: float, dtype: Dtype) -> float:
    """log2(1 + rms(e) / (u rms(z_g))): bits that an error costs of those that the dtype has. Never negative."""
    return math.log2(1 + error_rms / (UNIT_ROUNDOFF[dtype] * golden_rms))


def kl_divergence(g: Tensor, t: Tensor) -> Tensor:
    """KL(softmax(g) || softmax(t)) at each position, in nats. ``[batch, pos]``.

    It is of second order in d = z_t - z_g, and the plain formula loses it among rounding errors of first order. With d
    less its mean under softmax(g), KL = log(1 + sum p (expm1(d) - d)), every term of which is positive.
    """
    log_p = torch.log_softmax(g.double(), -1)
    p = log_p.exp()
    d = t.double() - g.double()
    d = d - (p * d).sum(-1, keepdim=True)
    if d.abs().max() < 500:
        return torch.log1p((p * _expm1_less_x(d)).sum(-1))
    return torch.logsumexp(log_p + d, -1)


def _expm1_less_x(x: Tensor) -> Tensor:
    """exp(x) - 1 - x without cancellation: never negative."""
    series = x * x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6))))
    return torch.where(x.abs() < SERIES_BELOW, series, torch.expm1(x) - x)


def top1_changes(t: Tensor, g: Tensor, dtype: Dtype) -> Tensor:
    """For each position whose top token is not the golden's, the golden's margin, and 0 where that is a tie. ``[n]``.

    The margin is the golden logit of its own top token less that of ``t``'s. A tie is within :data:`TIE_ULPS` units in
    the last place of the larger top logit at ``dtype``.
    """
    top_g, top_t = g.argmax(-1), t.argmax(-1)
    changed = top_g != top_t
    z = g.double()[changed]
    own, other = top_g[changed].unsqueeze(-1), top_t[changed].unsqueeze(-1)
    margin = (z.gather(-1, own) - z.gather(-1, other)).squeeze(-1)
    largest = torch.maximum(z.gather(-1, own).abs(), t.double()[changed].gather(-1, other).abs()).squeeze(-1)
    return torch.where(is_tie(margin, largest, dtype), torch.zeros_like(margin), margin)


def is_tie(margin: Tensor, largest: Tensor, dtype: Dtype) -> Tensor:
    """Whether logits of size ``largest`` that are ``margin`` apart are within :data:`TIE_ULPS` units in the last place."""
    ulp = 2 * UNIT_ROUNDOFF[dtype] * torch.exp2(torch.floor(torch.log2(largest)))
    return margin <= TIE_ULPS * ulp
