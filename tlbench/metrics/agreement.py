"""How far apart two results are that should agree, in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tlbench.exceptions import CellFailed
from tlbench.metrics.hf_error import centred


def largest_difference(a: Tensor, b: Tensor, *, centre: bool = True) -> float:
    """The largest difference of two logits or, without ``centre``, of any two tensors. Infinite if it is not finite."""
    x, y = (centred(a.cpu()), centred(b.cpu())) if centre else (a.double().cpu(), b.double().cpu())
    if x.shape != y.shape:
        raise CellFailed(f"TransformerLens returned a tensor of shape {list(x.shape)}: expected {list(y.shape)}")
    difference = (x - y).abs().max().item()
    return difference if math.isfinite(difference) else math.inf


def cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    """-log p of each realised token, in nats and in float64. ``[batch, pos - 1]``"""
    log_p = torch.log_softmax(logits[:, :-1].double(), -1)
    return -log_p.gather(-1, ids[:, 1:, None].to(logits.device))[..., 0]
