"""HuggingFace's variants: the same function of the same weights at the same dtype, computed with another rounding.

What they differ by is what HuggingFace's own rounding can do. Four are taken:

- ``reversed sums``: every matrix product adds up its terms in reverse order. In float32 it is an independent rounding of
  nearly every operation: on the zoo it is 1.1 to 1.5 times as far from eager as eager is from the golden, where two
  independent roundings of one size are sqrt(2) times;
- ``default attention``: the implementation that HuggingFace takes unless told otherwise. In 16 bits, where a product is
  summed in float32 and rounded once, it is the one that differs (1.0 to 1.3 times, where the model has another one);
- ``threads`` and ``batch split``: one thread against two, and each sequence alone. They differ rarely, and cost little.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from tlbench.metrics.closeness import Spread, spread

REVERSED, DEFAULT_ATTENTION, THREADS, BATCH = "reversed sums", "default attention", "threads", "batch split"
PRODUCTS = (torch.matmul, torch.bmm, torch.mm, Tensor.matmul, Tensor.bmm, Tensor.mm, Tensor.__matmul__)


class ReversedSums(TorchFunctionMode):
    """Within the block, matrix products add up their terms in reverse order."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear and len(args) >= 2:
            return func(args[0].flip(-1), args[1].flip(-1), *args[2:], **kwargs)
        if func is torch.addmm and len(args) >= 3:
            return func(args[0], args[1].flip(-1), args[2].flip(0), *args[3:], **kwargs)
        if func in PRODUCTS and len(args) >= 2:
            return func(args[0].flip(-1), args[1].flip(max(-2, -args[1].ndim)), *args[2:], **kwargs)
        return func(*args, **kwargs)


def variants(run: Callable[[Tensor], Tensor], ids: Tensor) -> dict[str, Spread]:
    """How far a model is from itself, by variant; all but the default attention, which is another model.

    Args:
        run: from token ids ``[batch, pos]`` to logits ``[batch, pos, d_vocab]``.
        ids: the token ids.
    """
    h = run(ids)
    with ReversedSums():
        backwards = run(ids)
    alone = torch.cat([run(row[None]) for row in ids])
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        threaded = run(ids)
    finally:
        torch.set_num_threads(threads)
    return {name: spread(v, h) for name, v in ((REVERSED, backwards), (THREADS, threaded), (BATCH, alone))}
