"""What a measurement needs of a loaded TransformerLens model, and nothing of its version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Lens:
    """A model in TransformerLens, ready to run.

    Attributes:
        logits: from token ids ``[batch, pos]`` to logits ``[batch, pos, d_vocab]`` in the model's dtype.
        changed_weights: how many weight tensors the processing changed, read back from the weights. 0 means that the
            option is a no-op for this model, whatever its name promises.
    """

    logits: Callable[[Tensor], Tensor]
    changed_weights: int
