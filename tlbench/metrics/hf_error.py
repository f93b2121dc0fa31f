"""The formulas: how two models' logits are compared.

Every function takes ``t`` (TransformerLens) and ``h`` (the reference), both ``[batch, pos, d_vocab]``,
and knows tensors only. All arithmetic is float64 except in :func:`origin_error`, which repeats TransformerLens
issue 496's figures to the letter. Statistics run over every entry of the tensor, some positions at a time, so that no
tensor of the size of the logits is made (:mod:`tlbench.metrics.streaming`).
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

    Of one chunk they are torch's. Of several, maximum and median are the same, and mean and std are combined in float64 and
    then rounded to the dtype.
    """
    if len(error) == 1:
        return whole_statistics(*error)
    found = moments(error)
    dtype = error.dtype
    return ErrorStatistics(
        max=found.largest,
        mean=_rounded(found.mean, dtype),
        median=median(error, found.count),
        std=_rounded(found.std, dtype),
    )


def whole_statistics(error: Tensor) -> ErrorStatistics:
    """torch's max, mean, median (the lower of two middles) and unbiased std of ``error``, in its own dtype."""
    return ErrorStatistics(
        max=torch.max(error).item(),
        mean=torch.mean(error).item(),
        median=_median(error),
        std=torch.std(error).item(),
    )


def _median(error: Tensor) -> float:
    """torch's median. numpy's selection, which is vectorized, finds the same number several times as fast."""
    if error.dtype is not torch.float64:
        return torch.median(error).item()
    middle = (error.numel() - 1) // 2
    return float(np.partition(error.numpy().ravel(), middle)[middle])


def origin_error(t: Tensor, h: Tensor) -> ErrorStatistics:
    """|softmax(t) - softmax(h)| with the softmax in the model's own dtype. Unit: probability.

    This is ``calculate_error`` of TransformerLens pull request 521 (the successor of issue 496's code), kept so
    that figures can stand beside that issue's tables. Its float16 median of 0 is underflow, not agreement.

    Raises:
        NonFiniteLogits: if either side holds a NaN or an infinity.
        CellFailed: if the shapes differ.
    """
    _require_comparable(t, h)
    return statistics(Chunked(lambda t, h: torch.softmax(h, dim=-1).sub_(torch.softmax(t, dim=-1)).abs_(), (t, h)))


def probability_error(t: Tensor, h: Tensor) -> ErrorStatistics:
    """|softmax(t) - softmax(h)| with the softmax in float64. Unit: probability.

    Raises:
        NonFiniteLogits: if either side holds a NaN or an infinity.
        CellFailed: if the shapes differ.
    """
    _require_comparable(t, h)
    return statistics(Chunked(lambda t, h: torch.softmax(t.double(), -1).sub_(torch.softmax(h.double(), -1)).abs_(), (t, h)))


def centred(logits: Tensor) -> Tensor:
    """Logits less their mean over the vocabulary at each position, in float64.

    Softmax is invariant to one constant a position, and ``center_unembed`` moves logits by just that, so only
    centred logits may be compared.
    """
    z = logits.double()
    return z - z.mean(dim=-1, keepdim=True)


def logit_error(t: Tensor, h: Tensor) -> ErrorStatistics:
    """|centred(t) - centred(h)|, in float64. Unit: logits (nats).

    Raises:
        NonFiniteLogits: if either side holds a NaN or an infinity.
        CellFailed: if the shapes differ.
    """
    _require_comparable(t, h)
    return statistics(centred_difference(t, h))


def centred_difference(t: Tensor, h: Tensor) -> Chunked:
    """|centred(t) - centred(h)|, in float64."""
    return Chunked(lambda t, h: centred(t).sub_(centred(h)).abs_(), (t, h))


def removed_shift(t: Tensor, h: Tensor) -> Shift:
    """The per-position constant that :func:`logit_error` does not see, and the raw error that does see it.

    A model with a final soft cap is not invariant to the constant: there ``raw_max`` is the figure to read.

    Raises:
        NonFiniteLogits: if either side holds a NaN or an infinity.
        CellFailed: if the shapes differ.
    """
    _require_comparable(t, h)
    largest = in_blocks(_shift_and_largest, t, h).flatten(0, 1).amax(0)
    return Shift(max_abs=largest[0].item(), raw_max=largest[1].item())


def _shift_and_largest(t: Tensor, h: Tensor) -> Tensor:
    """At each position |mean(t - h)| and max |t - h| over the vocabulary. ``[batch, pos, 2]``."""
    difference = t.double() - h.double()
    return torch.stack((difference.mean(dim=-1).abs(), difference.abs().amax(dim=-1)), -1)


def over_common_vocabulary(t: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Both logits over the tokens that both have: one side may pad its vocabulary, or leave the padding out."""
    if t.shape[:-1] != h.shape[:-1]:
        return t, h
    d_vocab = min(t.shape[-1], h.shape[-1])
    return t[..., :d_vocab], h[..., :d_vocab]


def _ends(logits: Tensor) -> Tensor:
    """The least and the largest at each position, which a NaN is both of. ``[batch, pos, 2]``."""
    return torch.stack(logits.aminmax(dim=-1), -1)


def count_nonfinite(logits: Tensor) -> int:
    """How many logits are NaN or infinite."""
    if logits.numel() == 0 or torch.isfinite(in_blocks(_ends, logits)).all():
        return 0  # nearly always, and found in a fraction of the time that counting takes
    return int(in_blocks(lambda z: torch.isfinite(z).logical_not_().sum(-1), logits).sum())


def _rounded(value: float, dtype: torch.dtype) -> float:
    return torch.tensor(value, dtype=torch.float64).to(dtype).item()


def _require_comparable(t: Tensor, h: Tensor) -> None:
    if t.shape != h.shape:
        raise CellFailed(
            f"TransformerLens returned logits of shape {list(t.shape)} where HuggingFace returned {list(h.shape)}: "
            "the two models do not have the same positions or vocabulary"
        )
    for name, logits in (("TransformerLens", t), ("HuggingFace", h)):
        bad = count_nonfinite(logits)
        if bad:
            raise NonFiniteLogits(
                f"{name} returned {bad} non-finite logits of {logits.numel()}: the model overflowed or is broken at "
                "this dtype, and no error can be stated"
            )
