"""Error formulas against the golden: how far two models' logits are from it.

Functions take raw logits ``[batch, pos, d_vocab]``: ``t`` (TransformerLens), ``h`` (HuggingFace at the same dtype) and ``g``
(the golden, float64). All arithmetic is float64. Errors are differences of logits centred at each position: e_t = z_t - z_g
and e_h = z_h - z_g. They are computed a few positions at a time, so only ``[batch, pos]`` tensors ever exist in full.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tlbench.grid import Dtype
from tlbench.metrics.figures import RATIO_GATE, UNIT_ROUNDOFF, Truth
from tlbench.metrics.hf_error import centred
from tlbench.metrics.streaming import Chunked, combined_mean, in_blocks, position_chunks, unfilled

TIE_ULPS = 4  # a changed top token is a tie if the golden margin is at most this many units in the last place
FLOAT64_RESOLUTION = 2.0**-52
LIKELIEST = 10  # logit differences are between this many of a position's likeliest tokens: the ones people compare
TAIL = 0.99  # the quantile that represents the tail of a logit difference's error
TAIL_OF_POSITIONS = 11 / 12  # a twelfth exceed this quantile: more than rounding sends to other experts, fewer than a tenth
FEWEST_SETTLED = 16  # a ratio over fewer settled positions than this says little
SERIES_BELOW = 1e-2  # below this, expm1(x) - x cancels and its Taylor series to x**6 is exact in float64


def against_truth(
    t: Tensor,
    h: Tensor,
    g: Tensor,
    original: Tensor,
    dtype: Dtype,
    precision: str = "float64",
    *,
    settled: Tensor | None = None,
) -> Truth:
    """Compute every figure of one cell against the golden.

    Args:
        t: TransformerLens's logits, all finite.
        h: HuggingFace's logits at the same dtype, all finite, with the attention that TransformerLens forces.
        g: the golden of the weights rounded to ``dtype``.
        original: the golden of the weights as stored in the file. If rounding changes none, pass ``g``: it is read once.
        precision: the precision of the goldens.
        settled: positions up to which no rounding at ``dtype`` can send a token to another expert, ``[batch, pos]``. None
            unless the model is a mixture of experts.
    """
    parts = [
        _part(t[:, rows], h[:, rows], g[:, rows], None if original is g else original[:, rows], dtype)
        for rows in position_chunks(t.shape)
    ]
    counts = [part.entries for part in parts]
    mean_squares = (combined_mean(means, counts) for means in zip(*(part.mean_squares for part in parts), strict=True))
    error_rms, reference_rms, golden_rms, total_rms, weights_rms = map(math.sqrt, mean_squares)
    # Errors are relative to the centred logits; if those are constant, to the raw ones.
    scale = golden_rms or rms(Chunked(lambda z: z.double(), (g,))) or 1.0
    resolution = FLOAT64_RESOLUTION * scale
    largest_explained = 2 * RATIO_GATE[dtype] * max(part.largest_reference for part in parts)
    flips = torch.cat([part.flips for part in parts])
    kl = torch.cat([part.kl for part in parts], 1)
    squares = torch.cat([part.error_squares for part in parts], 1)
    reference_squares = torch.cat([part.reference_squares for part in parts], 1)
    differences = torch.cat([part.differences for part in parts], 1)
    return Truth(
        identical=all(part.identical for part in parts),
        error_rms=error_rms,
        reference_rms=reference_rms,
        golden_rms=golden_rms,
        error_ratio=error_rms / max(reference_rms, resolution),
        error_correlation=combined_correlation([part.product for part in parts]),
        bits_lost=bits_lost(error_rms, scale, dtype),
        kl_nats=kl.mean().item(),
        kl_max_nats=kl.max().item(),
        top1_flips=int((flips > 0).sum()),
        top1_ties=int((flips == 0).sum()),
        top1_unexplained=int((flips > largest_explained).sum()),
        shift_spread=math.sqrt(squares.max().item()),
        total_rms=total_rms,
        weights_rms=weights_rms,
        golden_precision=precision,
        typical_rms=_typical(squares),
        typical_ratio=_typical(squares) / max(_typical(reference_squares), resolution),
        tail_ratio=_tail(squares) / max(_tail(reference_squares), resolution),
        has_experts=settled is not None,
        settled_ratio=None if settled is None else _settled_ratio(squares, reference_squares, settled, resolution),
        settled_share=1.0 if settled is None else settled.double().mean().item(),
        difference_rms=math.sqrt(_mean_square(differences)) if differences.numel() else 0.0,
        difference_p99=_quantile(differences, TAIL),
    )


@dataclass(frozen=True)
class _Part:
    """The figures of one chunk of positions."""

    entries: int
    identical: bool
    mean_squares: tuple[float, ...]  # of e_t, e_h, z_g, e_t + z_g - z_original and z_g - z_original
    product: Product
    largest_reference: float
    error_squares: Tensor  # mean over the vocabulary of e_t squared, [batch, pos]
    reference_squares: Tensor  # of e_h squared
    kl: Tensor  # [batch, pos]
    flips: Tensor  # [n]
    differences: Tensor  # [batch, pos, pair]


def _part(t: Tensor, h: Tensor, g: Tensor, original: Tensor | None, dtype: Dtype) -> _Part:
    """``original`` is None if it is ``g`` itself."""
    kl, flips = kl_divergence(g, t), top1_changes(t, g, dtype)
    z_g = in_blocks(centred, g)
    e_t, e_h = in_blocks(_error, t, z_g), in_blocks(_error, h, z_g)
    z_original = z_g if original is None else in_blocks(centred, original)
    spare = unfilled(e_t, e_t.shape)
    squares = [_mean_square(error, spare) for error in (e_t, e_h, z_g)]
    total = torch.add(e_t, z_g, out=spare).sub_(z_original)
    differences = logit_differences(total, g)
    squares.append(_mean_square(total, spare))
    squares.append(0.0 if original is None else _mean_square(torch.sub(z_g, z_original, out=spare), spare))
    return _Part(
        entries=t.numel(),
        identical=torch.equal(t, h),
        mean_squares=tuple(squares),
        product=product_of(e_t, e_h, spare),
        largest_reference=max(abs(float(end)) for end in e_h.aminmax()),
        error_squares=in_blocks(_mean_squares, e_t),
        reference_squares=in_blocks(_mean_squares, e_h),
        kl=kl,
        flips=flips,
        differences=differences,
    )


def logit_differences(error: Tensor, g: Tensor) -> Tensor:
    """|e_a - e_b| for each pair of the golden's :data:`LIKELIEST` likeliest tokens. ``[batch, pos, pair]``."""
    likeliest = g.topk(min(LIKELIEST, g.shape[-1]), dim=-1).indices
    chosen = error.gather(-1, likeliest)
    a, b = torch.triu_indices(chosen.shape[-1], chosen.shape[-1], offset=1)
    return (chosen[..., a] - chosen[..., b]).abs()


def _quantile(values: Tensor, q: float) -> float:
    """The smallest value that a share ``q`` of all values do not exceed; 0 if there are no values."""
    n = values.numel()
    return values.flatten().kthvalue(math.ceil(q * n)).values.item() if n else 0.0


def _settled_ratio(squares: Tensor, reference_squares: Tensor, settled: Tensor, resolution: float) -> float | None:
    """rms(e_t) / rms(e_h) over the settled positions; None if there are fewer than :data:`FEWEST_SETTLED`."""
    if int(settled.sum()) < FEWEST_SETTLED:
        return None
    error, reference = (math.sqrt(values[settled].mean().item()) for values in (squares, reference_squares))
    return error / max(reference, resolution)


def _error(logits: Tensor, z_g: Tensor) -> Tensor:
    return centred(logits).sub_(z_g)


def _mean_squares(error: Tensor) -> Tensor:
    """The mean square over the vocabulary at each position. ``[batch, pos]``."""
    return error.square().mean(-1)


def _mean_square(error: Tensor, scratch: Tensor | None = None) -> float:
    """The mean square over all entries. The squares overwrite ``scratch``, which may be ``error`` itself."""
    return torch.square(error, out=scratch).mean().item()


def rms(error: Chunked) -> float:
    """The root mean square over all entries."""
    parts = [(_mean_square(chunk), chunk.numel()) for chunk in error]
    return math.sqrt(combined_mean(*zip(*parts, strict=True)))


def _tail(squares: Tensor) -> float:
    """The rms over the vocabulary that a twelfth of the positions exceed."""
    return math.sqrt(_quantile(squares, TAIL_OF_POSITIONS))


def _typical(squares: Tensor) -> float:
    """The rms over the vocabulary at the median position."""
    return math.sqrt(squares.median().item())


@dataclass(frozen=True)
class Product:
    """Two errors' dot product, their norms, and whether they are equal."""

    dot: float
    norms: tuple[float, float]
    equal: bool


def product_of(e_t: Tensor, e_h: Tensor, scratch: Tensor | None = None) -> Product:
    """The product of two errors of the same shape. Elementwise products overwrite ``scratch``."""
    dot = float(torch.mul(e_t, e_h, out=scratch).sum())
    return Product(dot, (float(e_t.norm()), float(e_h.norm())), torch.equal(e_t, e_h))


def correlation(e_t: Tensor, e_h: Tensor) -> float:
    """The cosine of two errors that are already centred. 1 if both are 0, and 0 if only one is."""
    return combined_correlation([product_of(e_t, e_h)])


def combined_correlation(parts: Sequence[Product]) -> float:
    """:func:`correlation` of two errors, from the products of their parts."""
    t_norm, h_norm = (math.hypot(*(part.norms[i] for part in parts)) for i in range(2))
    if t_norm * h_norm == 0:
        return 1.0 if all(part.equal for part in parts) else 0.0
    return math.fsum(part.dot for part in parts) / (t_norm * h_norm)


def bits_lost(error_rms: float, golden_rms: float, dtype: Dtype) -> float:
    """log2(1 + rms(e) / (u rms(z_g))): how many of the dtype's bits the error costs. ``golden_rms`` must be positive."""
    return math.log2(1 + error_rms / (UNIT_ROUNDOFF[dtype] * golden_rms))


def kl_divergence(g: Tensor, t: Tensor) -> Tensor:
    """KL(softmax(g) || softmax(t)) at each position, in nats. ``[batch, pos]``.

    KL is second order in d = z_t - z_g, so the plain formula loses it among first-order rounding errors. With d minus its
    mean under softmax(g), KL = log(1 + sum p (expm1(d) - d)), where no term is negative. If |d| reaches 500 in a block of
    positions, expm1 may overflow and the block uses the plain formula.
    """
    return in_blocks(_kl_divergence, g, t)


def _kl_divergence(g: Tensor, t: Tensor) -> Tensor:
    log_p = torch.log_softmax(g.double(), -1)
    p = log_p.exp()
    d = t.double() - g.double()
    d -= (p * d).sum(-1, keepdim=True)
    largest = d.abs().max()
    if largest < SERIES_BELOW:
        return torch.log1p(p.mul_(_series(d)).sum(-1))
    if largest < 500:
        terms = torch.where(d.abs() < SERIES_BELOW, _series(d), torch.expm1(d).sub_(d))
        return torch.log1p(p.mul_(terms).sum(-1))
    return torch.logsumexp(log_p + d, -1)


def _series(x: Tensor) -> Tensor:
    """exp(x) - 1 - x by Taylor series to x**6, in Horner's form."""
    series = (x / 6).add_(1)
    for divisor in (5, 4, 3):
        series.mul_(x / divisor).add_(1)
    return series.mul_((x * x).div_(2))


def top1_changes(t: Tensor, g: Tensor, dtype: Dtype) -> Tensor:
    """The golden margin at each position whose top token is not the golden's; 0 for a tie. ``[n]``.

    The margin is the golden logit of the golden's top token minus that of ``t``'s top token. It is a tie within
    :data:`TIE_ULPS` units in the last place, at ``dtype``, of the larger top logit.
    """
    top_g, top_t = g.argmax(-1), t.argmax(-1)
    changed = top_g != top_t
    z = g.double()[changed]
    golden_token, model_token = top_g[changed].unsqueeze(-1), top_t[changed].unsqueeze(-1)
    margin = (z.gather(-1, golden_token) - z.gather(-1, model_token)).squeeze(-1)
    largest = torch.maximum(z.gather(-1, golden_token).abs(), t.double()[changed].gather(-1, model_token).abs()).squeeze(-1)
    return torch.where(is_tie(margin, largest, dtype), torch.zeros_like(margin), margin)


def is_tie(margin: Tensor, largest: Tensor, dtype: Dtype) -> Tensor:
    """Whether logits of size ``largest`` and ``margin`` apart are within :data:`TIE_ULPS` units in the last place."""
    ulp = 2 * UNIT_ROUNDOFF[dtype] * torch.exp2(torch.floor(torch.log2(largest)))
    return margin <= TIE_ULPS * ulp
