"""Whether weight processing changed anything is read back from the weights, never assumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import xxhash
from torch import Tensor

from tlbench.spans import Category, span

Fingerprints = dict[str, str]
"""Parameter name to a hash of its values."""


def fingerprints(state: Mapping[str, Any], dtype: torch.dtype) -> Fingerprints:
    """A hash of each floating-point tensor's values at ``dtype``: XXH3's 128 bits, which is as fast as memory is."""
    with span(Category.FINGERPRINT):
        return {
            name: _fingerprint(value.detach().to(dtype))
            for name, value in state.items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }


def changed(before: Fingerprints, after: Fingerprints) -> int:
    """How many tensors that stand on both sides differ.

    A norm's gain that folding takes away stands on one side only; what it was folded into stands on both.
    """
    return sum(before[name] != after[name] for name in before.keys() & after.keys())


def _fingerprint(tensor: Tensor) -> str:
    raw = tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
    return xxhash.xxh3_128_hexdigest(raw.data)
