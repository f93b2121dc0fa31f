"""The quantities inside a block that every implementation has and no processing option changes.

Options move weights between modules: a norm's gain into the next matrix, a value bias past the attention, or the mean out
of what is written to the residual stream. Only the last changes these quantities, and centring over d_model removes it, in
models whose norms centre.
"""

from __future__ import annotations

from enum import StrEnum


class Component(StrEnum):
    """The quantities in order of computation, so that the first wrong one locates a fault."""

    RESID_PRE = "resid_pre"
    """The block's input. ``[batch, pos, d_model]``"""
    LN1 = "ln1"
    """The output of the norm before attention, without its gain and bias."""
    MIXER_OUT = "mixer_out"
    """What a state space, a convolution, linear attention or a recurrence returns, in place of attention or beside it."""
    PATTERN = "pattern"
    """The attention probabilities. ``[batch, head, query_pos, key_pos]``"""
    ATTN_OUT = "attn_out"
    """What attention adds to the residual stream."""
    CROSS_ATTN_OUT = "cross_attn_out"
    """What a decoder's attention to its encoder adds to the residual stream."""
    LN2 = "ln2"
    """The output of the norm before the MLP, without its gain and bias."""
    MLP_OUT = "mlp_out"
    """What the MLP adds to the residual stream."""
    RESID_POST = "resid_post"
    """The block's output and the next block's input."""

    @property
    def is_residual(self) -> bool:
        """Whether it lives in the residual stream, and so is centred if writing weights may be."""
        return self not in (Component.LN1, Component.PATTERN, Component.LN2)

    @property
    def part(self) -> str:
        """The part of the network that computes it."""
        parts = ("embedding", "norm", "mixer", "attention", "attention", "cross-attention", "norm", "mlp", "residual")
        return dict(zip(Component, parts, strict=True))[self]


BLOCK_COMPONENTS = tuple(Component)
ROUTING = "routing"
"""Which experts each token goes to, in mixtures of experts: a mask ``[batch, pos, expert]``, which is right or wrong."""
LN_FINAL, LOGITS = END = ("ln_final", "logits")
"""What comes after the last block."""


def site(block: int, component: Component | str) -> str:
    """The name of a quantity, for tensors stored by name."""
    return f"blocks.{block}.{component}"
