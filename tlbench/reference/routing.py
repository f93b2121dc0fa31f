"""Which positions of a mixture of experts a rounding can send to other experts.

A router sends a token to the experts of the k largest scores. Where the k-th and the next are close, any rounding swaps
them, and the error at that position, and at those that attend to it, is no longer of rounding size, in TransformerLens as in
HuggingFace. The golden's own scores tell where that can be: they are seen at every call of ``topk``, whatever the
architecture calls its router.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tlbench.grid import Dtype
from tlbench.metrics.figures import UNIT_ROUNDOFF

STEP = 1e-7
"""Relative, of the embeddings: far below what swaps experts, far above float64's own noise."""
REACH_ROUNDINGS = 16.0
"""A token whose margin is below so many unit roundoffs may be sent elsewhere: a forward pass adds up many roundings, of
random signs. Of 20 draws of the zoo's Mixtral in three dtypes, the tokens that HuggingFace sent elsewhere had up to 5.6."""


class _Scores(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps what every call of ``topk`` chooses from."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[Tensor, int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.topk.default:
            self.seen.append((args[0].detach().double().clone(), int(args[1])))
        return func(*args, **(kwargs or {}))


def margins(model: Any, ids: Tensor, run: Callable[[], Tensor]) -> Tensor:
    """By how much the embeddings of a position must change, relatively, before a router sends it to other experts.

    To first order: the least, over all routers, of the gap between the last expert chosen and the first left out, over what
    a relative change of the embeddings by one moves these scores. Infinite where nothing is chosen.

    Args:
        model: a HuggingFace causal language model in float64.
        ids: token ids ``[batch, pos]``.
        run: evaluates it on them.

    Returns:
        ``[batch, pos]``.
    """
    with _Scores() as here:
        run()
    generator = torch.Generator().manual_seed(0)

    def moved(module: Any, inputs: Any, output: Tensor) -> Tensor:
        noise = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
        return output * (1 + STEP * noise)

    handle = model.get_input_embeddings().register_forward_hook(moved)
    try:
        with _Scores() as there:
            run()
    finally:
        handle.remove()
    least = torch.full((ids.numel(),), torch.inf, dtype=torch.float64)
    for (scores, k), (other, _) in zip(here.seen, there.seen, strict=True):
        rows = scores.reshape(-1, scores.shape[-1])
        if len(rows) != ids.numel() or k >= rows.shape[-1]:
            continue
        last, first_left = rows.topk(k + 1, dim=-1).values[:, -2:].unbind(-1)
        slope = (other.reshape(rows.shape) - rows).square().mean(-1).sqrt() / STEP
        least = torch.minimum(least, (last - first_left) / slope.clamp_min(torch.finfo(torch.float64).tiny))
    return least.view(ids.shape)


def settled(margin: Tensor, dtype: Dtype) -> Tensor:
    """Positions that no rounding at a dtype can send to other experts, nor any position before them, which they attend to.

    Args:
        margin: as :func:`margins` gives it. ``[batch, pos]``.
        dtype: of the arithmetic.

    Returns:
        A mask ``[batch, pos]``.
    """
    return margin.cummin(dim=1).values > REACH_ROUNDINGS * UNIT_ROUNDOFF[dtype]
