"""What a measurement needs of a loaded TransformerLens model, and nothing of its version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Lens:
    """A model in TransformerLens, ready to run.

    Attributes:
        logits: from token ids ``[batch, pos]`` to logits ``[batch, pos, d_vocab]`` in the model's dtype.
        changed_weights: how many weight tensors the processing changed, read back from the weights. 0 means that the
            option is a no-op for this model, whatever its name promises.
        model: TransformerLens's own object, a module with an ``unembed`` and a ``cfg``.
    """

    logits: Callable[[Tensor], Tensor]
    changed_weights: int
    model: Any

    def widen(self) -> None:
        """Turn the model into float64 in place: its processed weights and its tables as they stand, value for value.

        Run it inside :func:`tlbench.reference.float64.true_float64` from then on.
        """
        self.model.double()
        for module in self.model.modules():
            # Older versions cast to this dtype after each norm; the object is shared by all parts.
            if hasattr(getattr(module, "cfg", None), "dtype"):
                module.cfg.dtype = torch.float64
            # transformers 5 computes experts by a grouped product, which torch has for 32 and 16 bits only.
            if getattr(getattr(module, "config", None), "_experts_implementation", None):
                module.config._experts_implementation = "eager"

    @contextmanager
    def reading_unembed_input(self) -> Iterator[list[Tensor]]:
        """Within the block, what the unembedding reads at each forward, ``[batch, pos, d_model]``, is appended."""
        seen: list[Tensor] = []
        handle = self.model.unembed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            yield seen
        finally:
            handle.remove()

    @contextmanager
    def replacing_unembed_input(self, residual: Tensor) -> Iterator[None]:
        """Within the block the unembedding reads ``residual``, ``[batch, pos, d_model]``, whatever comes before it."""
        handle = self.model.unembed.register_forward_pre_hook(lambda _, inputs: (residual, *inputs[1:]))
        try:
            yield
        finally:
            handle.remove()
