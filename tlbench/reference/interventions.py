"""Interventions half-way through the network, the same in the golden, HuggingFace and TransformerLens.

These are the building blocks of causal experiments. Their effect is measured on the logits at the last position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from tlbench.components import Component, site


class Edit(StrEnum):
    """Scale a block's input, ablate a layer's output, or patch the residual stream of one prompt into another."""

    DOUBLED_INPUT = "doubled_input"
    NO_ATTENTION = "no_attention"
    NO_MLP = "no_mlp"
    PATCHED = "patched"


@dataclass(frozen=True)
class Change:
    """What an intervention does to which component."""

    component: Component
    apply: Callable[[Tensor], Tensor]

    def site(self, n_blocks: int) -> str:
        """The activation's name, in the block half-way through the network."""
        return site(n_blocks // 2, self.component)


def _patch(residual: Tensor) -> Tensor:
    """Patch the second prompt's middle position into the first prompt."""
    patched = residual.clone()
    half = residual.shape[1] // 2
    patched[0, half] = residual[1, half]
    return patched


CHANGES = {
    Edit.DOUBLED_INPUT: Change(Component.RESID_PRE, lambda x: 2 * x),
    Edit.NO_ATTENTION: Change(Component.ATTN_OUT, torch.zeros_like),
    Edit.NO_MLP: Change(Component.MLP_OUT, torch.zeros_like),
    Edit.PATCHED: Change(Component.RESID_PRE, _patch),
}
