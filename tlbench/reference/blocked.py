"""HuggingFace's eager attention in blocks of queries: the same function, with memory for scores linear in the length."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

QUERIES = 256
"""Queries per block: enough for an efficient matrix product."""
EAGER = "eager_attention_forward"


def can_be_blocked(model: Any) -> bool:
    """Whether this HuggingFace model's modeling file defines its eager attention as a separate function."""
    return hasattr(sys.modules[type(model).__module__], EAGER)


@contextmanager
def in_blocks(model: Any, queries: int = QUERIES) -> Iterator[None]:
    """Within the block, this model's eager attention processes ``queries`` queries at a time.

    A row of the scores depends only on its own query, so only the shape of the matrix products changes. This patches every
    model of the same modeling file, and does nothing if the file has no such function (:func:`can_be_blocked`).
    """
    modeling = sys.modules[type(model).__module__]
    original = getattr(modeling, EAGER, None)
    with ExitStack() as restore:
        if original is not None:
            restore.callback(setattr, modeling, EAGER, original)
            setattr(modeling, EAGER, _in_blocks(original, queries))
        yield


def _in_blocks(original: Callable[..., tuple[Tensor, Tensor]], queries: int) -> Callable[..., tuple[Tensor, None]]:
    def attention(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, None]:
        outputs = []
        for start in range(0, query.shape[-2], queries):
            rows = slice(start, start + queries)
            mask = None if attention_mask is None else attention_mask[:, :, rows]
            # The original returns [batch, query, head, d_head].
            outputs.append(original(module, query[:, :, rows], key, value, mask, *args, **kwargs)[0])
        return torch.cat(outputs, 1), None

    return attention
