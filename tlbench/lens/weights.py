"""Whether weight processing changed anything is read back from the weights, never assumed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from tlbench.spans import Category, span

Fingerprints = dict[str, str]
"""Parameter name to a hash of its values."""


def fingerprints(state: Mapping[str, Any], dtype: torch.dtype) -> Fingerprints:
    """A hash of each floating-point tensor's values at ``dtype``."""
    floats = {name: v.detach() for name, v in state.items() if isinstance(v, Tensor) and v.is_floating_point()}
    # The largest first, or one thread ends with it alone.
    floats = dict(sorted(floats.items(), key=lambda item: -item[1].numel()))
    # hashlib and torch both leave Python's lock while they work.
    with span(Category.FINGERPRINT), ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return dict(zip(floats, threads.map(lambda value: _fingerprint(value.to(dtype)), floats.values()), strict=True))


def changed(before: Fingerprints, after: Fingerprints) -> int:
    """How many tensors that stand on both sides differ.

    A norm's gain that folding takes away stands on one side only; what it was folded into stands on both.
    """
    return sum(before[name] != after[name] for name in before.keys() & after.keys())


def _fingerprint(tensor: Tensor) -> str:
    raw = tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha1(raw.data, usedforsecurity=False).hexdigest()
