"""HuggingFace's variants: the same function of the same weights at the same dtype, but rounded differently.

Their differences show how far HuggingFace's own rounding can go. There are four:

- ``reversed sums``: every matrix product sums its terms in reverse order. In float32 this rounds nearly every operation
  independently: on the zoo it is 1.1 to 1.5 times as far from eager attention as eager attention is from the golden, and
  two independent roundings of one size would give sqrt(2).
- ``default attention``: the implementation that HuggingFace picks by itself. In 16 bits, where a product is summed in
  float32 and rounded once, this is the variant that differs: 1.0 to 1.3 times, if the model has a second implementation.
- ``threads`` and ``batch split``: one thread against two, and each sequence by itself. They rarely differ, and cost little.
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
    """Within the block, matrix products sum their terms in reverse order."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear and len(args) >= 2:
            return func(args[0].flip(-1), args[1].flip(-1), *args[2:], **kwargs)
        if func is torch.addmm and len(args) >= 3:
            return func(args[0], args[1].flip(-1), args[2].flip(0), *args[3:], **kwargs)
        if func in PRODUCTS and len(args) >= 2:
            return func(args[0].flip(-1), args[1].flip(max(-2, -args[1].ndim)), *args[2:], **kwargs)
        return func(*args, **kwargs)


def variants(run: Callable[[Tensor], Tensor], ids: Tensor) -> dict[str, Spread]:
    """The distance of each variant from the model, except of the default attention, which needs another load.

    ``run`` is the model, from token ids ``[batch, pos]`` to logits ``[batch, pos, d_vocab]``.
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
