"""The relative error of a quantity inside a network. Works on tensors only; all arithmetic is float64."""

from __future__ import annotations

import math

from torch import Tensor


def relative_error(value: Tensor, exact: Tensor, *, centred: bool = False) -> float:
    """rms(value - exact) / rms(exact), over all entries of two tensors of one shape. Infinite if ``value`` is not finite.

    With ``centred``, both are centred over their last axis first, for quantities defined only up to a constant along it.
    """
    v, e = value.double().cpu(), exact.double().cpu()
    if centred:
        v, e = v - v.mean(-1, keepdim=True), e - e.mean(-1, keepdim=True)
    error = float((v - e).square().mean().sqrt())
    size = float(e.square().mean().sqrt())
    if not math.isfinite(error):
        return math.inf
    return error / size if size else (0.0 if error == 0 else math.inf)


def logit_difference(logits: Tensor, tokens: Tensor) -> Tensor:
    """The difference between two tokens' logits at the last position, in nats. ``[batch]``

    Logits are ``[batch, pos, d_vocab]``, or ``[batch, d_vocab]`` for the last position alone; tokens are ``[batch, 2]``.
    """
    last = logits[:, -1] if logits.ndim == 3 else logits
    pair = last.double().gather(-1, tokens.to(last.device))
    return pair[:, 0] - pair[:, 1]
