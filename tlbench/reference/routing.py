"""Find the positions of a mixture of experts where rounding can change the chosen experts.

A router sends a token to the experts with the k largest scores. If the k-th and the next score are close, any rounding swaps
them. The error at that position, and at positions that attend to it, is then far above rounding size, in TransformerLens and
HuggingFace alike. The golden's own scores show where that can happen: every call of ``topk`` is recorded, whatever the
architecture calls its router.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tlbench.grid import Dtype
from tlbench.metrics.figures import UNIT_ROUNDOFF
from tlbench.reference.float64 import input_embeddings

STEP = 1e-7
"""Relative step of the embeddings: far below what swaps experts, far above float64's own noise."""
REACH_ROUNDINGS = 16.0
"""A token may go to other experts if its margin is below this many unit roundoffs. A forward pass adds up many roundings.
In 20 draws of the zoo's Mixtral in three dtypes, the tokens that HuggingFace rerouted had margins of up to 5.6."""


class _Scores(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the scores and k of every call of ``topk``, and of ``argmax``, by which a router chooses one expert."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[Tensor, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.topk.default:
            self.seen.append((args[0].detach().double().clone(), int(args[1])))
        if func is torch.ops.aten.argmax.default and args[0].is_floating_point():
            self.seen.append((args[0].detach().double().clone(), 1))
        return func(*args, **(kwargs or {}))


def margins(model: Any, ids: Tensor, run: Callable[[], Tensor]) -> Tensor:
    """The relative change of a position's embedding that would send it to other experts, to first order, ``[batch, pos]``.

    This is the minimum over all routers of gap / slope. The gap is between the last chosen score and the first one left out;
    the slope is how much the scores move per relative change of the embeddings. Infinite if nothing is routed. What an
    encoder routes counts at every position of its decoder.

    ``model`` is HuggingFace's in float64. ``run`` evaluates it on the token ids ``[batch, pos]``.
    """
    with _Scores() as unmoved_pass:
        run()
    generator = torch.Generator().manual_seed(0)

    def moved(module: Any, inputs: Any, output: Tensor) -> Tensor:
        noise = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
        return output * (1 + STEP * noise)

    with ExitStack() as stack:
        for embedding in input_embeddings(model):
            stack.enter_context(embedding.register_forward_hook(moved))
        moved_pass = stack.enter_context(_Scores())
        run()
    has_encoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    least = torch.full(ids.shape, torch.inf, dtype=torch.float64)
    for (scores, k), (moved_scores, _) in zip(unmoved_pass.seen, moved_pass.seen, strict=True):
        rows = scores.reshape(-1, scores.shape[-1])
        is_of_encoder = has_encoder and len(rows) != ids.numel()
        if (len(rows) != ids.numel() and not is_of_encoder) or k >= rows.shape[-1]:
            continue
        last_chosen, first_left_out = rows.topk(k + 1, dim=-1).values[:, -2:].unbind(-1)
        slope = (moved_scores.reshape(rows.shape) - rows).square().mean(-1).sqrt() / STEP
        margin = ((last_chosen - first_left_out) / slope.clamp_min(torch.finfo(torch.float64).tiny)).view(len(ids), -1)
        least = torch.minimum(least, margin.amin(1, keepdim=True) if is_of_encoder else margin)
    return least


def settled(margin: Tensor, dtype: Dtype) -> Tensor:
    """A mask ``[batch, pos]``, from :func:`margins`, of positions up to which rounding in ``dtype`` changes no experts."""
    return margin.cummin(dim=1).values > REACH_ROUNDINGS * UNIT_ROUNDOFF[dtype]
