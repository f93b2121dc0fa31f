"""Read back from the weights whether processing changed anything, rather than assume it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import xxhash
from torch import Tensor

from tlbench.spans import Category, span

Fingerprints = dict[str, str]
"""A hash of each parameter's values, by name."""


def fingerprints(state: Mapping[str, Any], dtype: torch.dtype) -> Fingerprints:
    """Hash each floating-point tensor's values at ``dtype`` with 128-bit XXH3, which runs at memory speed."""
    with span(Category.FINGERPRINT):
        return {
            name: _fingerprint(value.detach().to(dtype))
            for name, value in state.items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }


def changed(before: Fingerprints, after: Fingerprints) -> int:
    """Count the tensors that differ, among those present on both sides.

    Folding removes a norm's gain, so the gain is on one side only. The matrix that it was folded into is on both.
    """
    return sum(before[name] != after[name] for name in before.keys() & after.keys())


def _fingerprint(tensor: Tensor) -> str:
    raw = tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
    return xxhash.xxh3_128_hexdigest(raw.data)
