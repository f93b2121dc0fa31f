"""HuggingFace's eager attention, some queries at a time: the same function, with scores that grow with the length only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

QUERIES = 256
"""At once: enough that a matrix product is efficient."""
EAGER = "eager_attention_forward"


def can_be_blocked(model: Any) -> bool:
    """Whether the modeling file of this HuggingFace model has its eager attention as a function of its own."""
    return hasattr(sys.modules[type(model).__module__], EAGER)


@contextmanager
def in_blocks(model: Any, queries: int = QUERIES) -> Iterator[None]:
    """Within the block, this model's eager attention reads ``queries`` queries at a time; all models' of its file do.

    A row of the scores depends on its own query only, so that nothing changes but the shape of the products. Models whose
    file has no such function (:func:`can_be_blocked`) are left as they are.
    """
    modeling = sys.modules[type(model).__module__]
    whole = getattr(modeling, EAGER, None)
    if whole is None:
        yield
        return
    setattr(modeling, EAGER, _in_blocks(whole, queries))
    try:
        yield
    finally:
        setattr(modeling, EAGER, whole)


def _in_blocks(whole: Callable[..., tuple[Tensor, Tensor]], queries: int) -> Callable[..., tuple[Tensor, None]]:
    def attention(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, None]:
        outputs = []
        for start in range(0, query.shape[-2], queries):
            rows = slice(start, start + queries)
            mask = None if attention_mask is None else attention_mask[:, :, rows]
            # The function returns [batch, query, head, width].
            outputs.append(whole(module, query[:, :, rows], key, value, mask, *args, **kwargs)[0])
        return torch.cat(outputs, 1), None

    return attention
