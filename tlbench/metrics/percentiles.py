"""The distribution of errors: percentiles, the overlap of two models' errors, and the worst logit.

``t``, ``h`` and ``g`` are raw logits ``[batch, pos, d_vocab]`` of TransformerLens, HuggingFace and the golden. Errors are
differences of centred logits, computed in float64 and kept in float32, so that they take no more room than the logits.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from tlbench.metrics.distribution import Distribution, Percentiles, Place
from tlbench.metrics.golden_error import kl_divergence
from tlbench.metrics.hf_error import centred
from tlbench.metrics.streaming import position_chunks

QUANTILES = (0.5, 0.9, 0.99, 0.999)
SPAN, BINS_PER_UNIT = 8, 8
"""The overlap's histogram: from -8 to 8 times HuggingFace's rms error, eight bins for each; the outermost hold the rest."""


def distribution(t: Tensor, h: Tensor, g: Tensor, ids: Tensor) -> Distribution:
    """Every figure of :class:`Distribution`. ``ids`` are the prompts, ``[batch, pos]``."""
    e_t, e_h = _errors(t, g), _errors(h, g)
    sizes = e_t.abs()
    prompt, position, token = torch.unravel_index(sizes.argmax(), sizes.shape)
    differs = (t.argmax(-1) != h.argmax(-1)).any(0)
    return Distribution(
        error=percentiles(sizes),
        kl=percentiles(kl_divergence(g, t)),
        realised=percentiles((_realised(t, ids) - _realised(g, ids)).abs()),
        overlap=overlap(e_t, e_h),
        diverged=int(differs.nonzero()[0]) if differs.any() else None,
        worst=Place(int(prompt), int(position), int(token), sizes.max().item()),
    )


def percentiles(values: Tensor) -> Percentiles:
    """The smallest values that the shares :data:`QUANTILES` of all do not exceed."""
    flat = values.flatten().numpy()
    places = [math.ceil(q * flat.size) - 1 for q in QUANTILES]
    in_place = np.partition(flat, places)  # one pass for all, where kthvalue takes one for each
    return Percentiles(*(float(in_place[place]) for place in places))


def overlap(e_t: Tensor, e_h: Tensor) -> float:
    """The overlap coefficient of two errors' histograms, sum min(p_t, p_h), as AWS Neuron compares distributions."""
    unit = float(e_h.double().square().mean().sqrt()) or float(e_t.double().square().mean().sqrt())
    if not unit:
        return 1.0
    shares = [_histogram(error / unit) / error.numel() for error in (e_t, e_h)]
    return float(torch.minimum(*shares).sum())


def fingerprint(logits: Tensor) -> str:
    """SHA-256 of the logits' bytes, in C order at their own dtype."""
    return hashlib.sha256(logits.contiguous().cpu().view(torch.uint8).numpy().data).hexdigest()


def _errors(logits: Tensor, g: Tensor) -> Tensor:
    parts = [(centred(logits[:, rows]) - centred(g[:, rows])).float() for rows in position_chunks(g.shape)]
    return torch.cat(parts, 1)


def _histogram(error: Tensor) -> Tensor:
    edge = SPAN * BINS_PER_UNIT
    bins = (error.flatten() * BINS_PER_UNIT).floor().clamp(-edge - 1, edge).long() + edge + 1
    return torch.bincount(bins, minlength=2 * edge + 2).double()


def _realised(logits: Tensor, ids: Tensor) -> Tensor:
    """The probability of each realised token. ``[batch, pos - 1]``"""
    p = torch.softmax(logits[:, :-1].double(), -1)
    return p.gather(-1, ids[:, 1:, None])[..., 0]
