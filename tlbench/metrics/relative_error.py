"""How far a quantity inside a network is from its exact value. Knows tensors only; all arithmetic is float64."""

from __future__ import annotations

import math

from torch import Tensor


def relative_error(value: Tensor, exact: Tensor, *, centred: bool = False) -> float:
    """rms(value - exact) / rms(exact), over every entry; infinite where ``value`` is not finite.

    Args:
        value: what was computed, of any dtype.
        exact: what it should be, of the same shape.
        centred: whether both are first centred over their last axis, where only that is defined.
    """
    v, e = value.double().cpu(), exact.double()
    if centred:
        v, e = v - v.mean(-1, keepdim=True), e - e.mean(-1, keepdim=True)
    error = float((v - e).square().mean().sqrt())
    size = float(e.square().mean().sqrt())
    if not math.isfinite(error):
        return math.inf
    return error / size if size else (0.0 if error == 0 else math.inf)


def logit_difference(logits: Tensor, tokens: Tensor) -> Tensor:
    """The difference of two tokens' logits at the last position, in nats. ``[batch]``

    Args:
        logits: ``[batch, pos, d_vocab]`` or, of the last position alone, ``[batch, d_vocab]``.
        tokens: ``[batch, 2]``.
    """
    last = logits[:, -1] if logits.ndim == 3 else logits
    pair = last.double().gather(-1, tokens.to(last.device))
    return pair[:, 0] - pair[:, 1]
