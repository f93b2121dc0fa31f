"""Interventions half-way through the network, applied alike in the golden, HuggingFace and TransformerLens.

They are the building blocks of causal experiments: scale a block's input, ablate the output of an attention or MLP layer,
patch the residual stream of one prompt into another. Their effect is measured on the logits at the last position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from tlbench.components import Component, site


class Edit(StrEnum):
    """An intervention."""

    DOUBLED_INPUT = "doubled_input"
    NO_ATTENTION = "no_attention"
    NO_MLP = "no_mlp"
    PATCHED = "patched"
    """Patches the second prompt's residual stream into the first prompt at its middle position."""


@dataclass(frozen=True)
class Change:
    """What an intervention does, and to which activation."""

    component: Component
    apply: Callable[[Tensor], Tensor]

    def site(self, n_blocks: int) -> str:
        """The activation's name, in the block half-way through the network."""
        return site(n_blocks // 2, self.component)


def _patch(residual: Tensor) -> Tensor:
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
