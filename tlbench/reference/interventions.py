"""Edits of an activation half-way through the network, made alike in the exact function, HuggingFace and TransformerLens.

They are what causal experiments are made of: a block's input scaled, an attention's or MLP's output removed, and the
residual stream of one prompt patched into another. Their effect is read at the last position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from tlbench.components import Component, site


class Edit(StrEnum):
    """Which edit."""

    DOUBLED_INPUT = "doubled_input"
    NO_ATTENTION = "no_attention"
    NO_MLP = "no_mlp"
    PATCHED = "patched"
    """The first prompt's residual stream at half its length becomes the second prompt's."""


@dataclass(frozen=True)
class Change:
    """What an edit does, and to which quantity."""

    component: Component
    apply: Callable[[Tensor], Tensor]

    def site(self, n_blocks: int) -> str:
        """The quantity's name: in the block half-way."""
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
