"""Error formulas against HuggingFace: how two models' logits are compared.

Functions take ``t`` (TransformerLens) and ``h`` (the reference), both ``[batch, pos, d_vocab]``. All arithmetic is float64,
except in :func:`origin_error`, which reproduces TransformerLens issue 496's figures exactly. Statistics run over all
entries, a few positions at a time, so no new tensor is as large as the logits (:mod:`tlbench.metrics.streaming`).

Each error and :func:`removed_shift` raise ``NonFiniteLogits`` if either side has a NaN or an infinity, and ``CellFailed`` if
the shapes differ.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tlbench.exceptions import CellFailed, NonFiniteLogits
from tlbench.metrics.figures import ErrorStatistics, Shift
from tlbench.metrics.streaming import Chunked, in_blocks, median, moments


def statistics(error: Chunked) -> ErrorStatistics:
    """Max, mean, median (the lower of two middles) and unbiased std of a non-negative error, in its own dtype.

    For a single chunk these are torch's. For several, max and median still equal torch's; mean and std are combined in
    float64 and then rounded to the dtype.
    """
    if len(error) == 1:
        return whole_statistics(*error)
    totals = moments(error)
    mean, std = torch.tensor([totals.mean, totals.std], dtype=torch.float64).to(error.dtype).tolist()
    return ErrorStatistics(max=totals.largest, mean=mean, median=median(error, totals.count), std=std)


def whole_statistics(error: Tensor) -> ErrorStatistics:
    """torch's max, mean, median (the lower of two middles) and unbiased std of ``error``, in its own dtype."""
    if error.dtype is torch.float64:  # numpy's vectorised selection finds the same number several times faster
        middle = (error.numel() - 1) // 2
        median_value = float(np.partition(error.numpy().ravel(), middle)[middle])
    else:
        median_value = torch.median(error).item()
    return ErrorStatistics(max=error.max().item(), mean=error.mean().item(), median=median_value, std=error.std().item())


def origin_error(t: Tensor, h: Tensor) -> ErrorStatistics:
    """|softmax(t) - softmax(h)| with the softmax in the model's own dtype. Unit: probability.

    This is ``calculate_error`` of TransformerLens pull request 521, the successor of issue 496's code, so the figures are
    comparable with that issue's tables. Their median of 0 in float16 is underflow, not agreement.
    """
    _require_comparable(t, h)
    return statistics(Chunked(lambda t, h: torch.softmax(h, dim=-1).sub_(torch.softmax(t, dim=-1)).abs_(), (t, h)))


def probability_error(t: Tensor, h: Tensor) -> ErrorStatistics:
    """|softmax(t) - softmax(h)| with the softmax in float64. Unit: probability."""
    _require_comparable(t, h)
    return statistics(Chunked(lambda t, h: torch.softmax(t.double(), -1).sub_(torch.softmax(h.double(), -1)).abs_(), (t, h)))


def centred(logits: Tensor) -> Tensor:
    """Logits minus their mean over the vocabulary at each position, in float64.

    Softmax ignores a constant per position, and ``center_unembed`` adds just that, so only centred logits are comparable.
    """
    z = logits.double()
    return z - z.mean(dim=-1, keepdim=True)


def logit_error(t: Tensor, h: Tensor) -> ErrorStatistics:
    """|centred(t) - centred(h)|, in float64. Unit: logits (nats)."""
    _require_comparable(t, h)
    return statistics(centred_difference(t, h))


def centred_difference(t: Tensor, h: Tensor) -> Chunked:
    """|centred(t) - centred(h)|, in float64."""
    return Chunked(lambda t, h: centred(t).sub_(centred(h)).abs_(), (t, h))


def removed_shift(t: Tensor, h: Tensor) -> Shift:
    """The per-position constant that :func:`logit_error` ignores, and the raw error that includes it.

    A model with a final soft cap is not invariant to the constant. Use ``raw_max`` there.
    """
    _require_comparable(t, h)
    largest = in_blocks(_shift_and_largest, t, h).flatten(0, 1).amax(0)
    return Shift(max_abs=largest[0].item(), raw_max=largest[1].item())


def _shift_and_largest(t: Tensor, h: Tensor) -> Tensor:
    """|mean(t - h)| and max |t - h| over the vocabulary at each position. ``[batch, pos, 2]``."""
    difference = t.double() - h.double()
    return torch.stack((difference.mean(dim=-1).abs(), difference.abs().amax(dim=-1)), -1)


def over_common_vocabulary(t: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Cut both logits to the tokens they share: one side may pad its vocabulary, or drop the padding."""
    if t.shape[:-1] != h.shape[:-1]:
        return t, h
    d_vocab = min(t.shape[-1], h.shape[-1])
    return t[..., :d_vocab], h[..., :d_vocab]


def count_nonfinite(logits: Tensor) -> int:
    """How many logits are NaN or infinite."""
    # The usual case, at a fraction of the cost of counting: extremes are NaN if any entry is.
    if logits.numel() == 0 or torch.isfinite(in_blocks(lambda z: torch.stack(z.aminmax(dim=-1), -1), logits)).all():
        return 0
    return int(in_blocks(lambda z: torch.isfinite(z).logical_not_().sum(-1), logits).sum())


def _require_comparable(t: Tensor, h: Tensor) -> None:
    if t.shape != h.shape:
        shapes = f"TransformerLens returned logits of shape {list(t.shape)}, HuggingFace of shape {list(h.shape)}"
        raise CellFailed(f"{shapes}: the models differ in positions or vocabulary")
    for name, logits in (("TransformerLens", t), ("HuggingFace", h)):
        if bad := count_nonfinite(logits):
            problem = f"{name} returned {bad} non-finite logits of {logits.numel()}, so there is no error to compute"
            raise NonFiniteLogits(f"{problem}: the model overflows or is broken at this dtype")
