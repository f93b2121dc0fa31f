"""HuggingFace's variants: the same function of the same weights at the same dtype, but rounded differently.

Their differences show how far HuggingFace's own rounding can go. There are four:

- ``random rounding``: every result is changed by up to half a unit in the last place, at random but the same in every run.
  On the zoo this is 0.8 to 1.5 times as far from HuggingFace as HuggingFace is from the golden in float32, where two
  independent roundings of one size would give sqrt(2), and 2.0 to 2.2 times in 16 bits, where it is rounded once more.
  Source: Parker, Monte Carlo Arithmetic, 1997.
- ``reversed sums``: every matrix product sums its terms in reverse order, which rounds them anew: 1.1 to 1.5 times in
  float32, and less in 16 bits, where a product is summed in float32 and rounded once.
- ``threads`` and ``batch split``: one thread against two, and each sequence by itself. They rarely differ, and cost little.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from tlbench.metrics.closeness import Spread, spread

REVERSED, RANDOM, DEFAULT_ATTENTION, THREADS, BATCH = (
    "reversed sums",
    "random rounding",
    "default attention",
    "threads",
    "batch split",
)
MOVES = {
    getattr(torch.ops.aten, name)
    for name in (
        *(
            "clone",
            "_to_copy",
            "cat",
            "stack",
            "embedding",
            "index",
            "index_select",
            "gather",
            "scatter",
            "where",
            "masked_fill",
        ),
        *("topk", "sort", "max", "amax", "histc", "one_hot"),
    )
}
"""Operations that move numbers or count. A count that is no integer would send tokens to other experts."""
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


class RandomRounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within the block, every floating-point result is multiplied by 1 + u, with u drawn from half a unit of roundoff.

    What only moves numbers (views, copies, gathers) rounds nothing and stays as it is.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._draws = torch.Generator().manual_seed(0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in MOVES or any(value.alias_info for value in func._schema.returns):
            return result
        return tree_map_only(Tensor, self._rounded, result)

    def _rounded(self, value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        u = torch.rand(value.shape, generator=self._draws, dtype=torch.float32).to(value.device) - 0.5
        return (value.double() * (1 + u.double() * torch.finfo(value.dtype).eps)).to(value.dtype)


def variants(run: Callable[[Tensor], Tensor], ids: Tensor) -> dict[str, Spread]:
    """The distance of each variant from the model.

    ``run`` is the model, from token ids ``[batch, pos]`` to logits ``[batch, pos, d_vocab]``.
    """
    h = run(ids)
    with ReversedSums():
        backwards = run(ids)
    with RandomRounding():
        jittered = run(ids)
    alone = torch.cat([run(row[None]) for row in ids])
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        threaded = run(ids)
    finally:
        torch.set_num_threads(threads)
    every = ((REVERSED, backwards), (RANDOM, jittered), (THREADS, threaded), (BATCH, alone))
    return {name: spread(v, h) for name, v in every}
