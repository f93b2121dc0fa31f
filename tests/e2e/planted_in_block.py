"""Faults in block 2 alone that ``planting.py`` adds to a copy of the release.

The HuggingFace reference does not see it. Some of the bridge's classes compute with numbers of their own and others with
those of the HuggingFace module that they wrap, so a fault goes where the class that is there looks.
"""

import copy as _copy

import torch as _torch


def _attention_scale(block):
    """Scores are a tenth too large. Bridges that split a fused matrix take the scale from the head's width: so here q is."""
    if hasattr(block.attn, "split_qkv_matrix"):
        for parameter in block.attn.q.original_component.parameters():
            parameter.mul_(1.1)
    else:
        block.attn.original_component.scaling *= 1.1


def _epsilon(norm):
    """The norm's output is a few percent too small. Gemma's residual stream is the square root of its width as large."""
    epsilon = 0.2 * (len(norm.weight) if norm.uses_weight_offset else 1)
    # LayerNorm's bridge reads the configuration that all norms share, RMSNorm's the HuggingFace module.
    norm.config = _copy.copy(norm.config)
    norm.config.eps = epsilon
    for name in ("eps", "variance_epsilon"):
        if hasattr(norm.original_component, name):
            setattr(norm.original_component, name, epsilon)


def _dropped_bias(block):
    """The MLP writes no bias."""
    biases = [p for name, p in block.mlp.named_parameters() if name.endswith("bias") and len(p) == len(block.ln1.weight)]
    biases[-1].zero_()


def _no_soft_cap(block):
    block.attn.original_component.attn_logit_softcapping = None


def _soft_cap(block):
    """A tenth of what it should be."""
    block.attn.original_component.attn_logit_softcapping /= 10


def _rotary_base(block):
    """Queries and keys are rotated with the base 2000, which none of the models has."""

    def rotated(_, args, kwargs):
        cos, sin = kwargs["position_embeddings"]
        n_pos, width = cos.shape[-2:]
        frequencies = 2000.0 ** -(_torch.arange(0, width, 2) / width)
        angles = _torch.arange(n_pos)[:, None] * _torch.cat([frequencies, frequencies])
        tables = (angles.cos().to(cos.dtype).expand_as(cos), angles.sin().to(sin.dtype).expand_as(sin))
        return args, {**kwargs, "position_embeddings": tables}

    block.attn.register_forward_pre_hook(rotated, with_kwargs=True)


_IN_BLOCK = {
    "attention scale": _attention_scale,
    "epsilon of ln1": lambda block: _epsilon(block.ln1),
    "epsilon of ln2": lambda block: _epsilon(block.ln2),
    "dropped bias": _dropped_bias,
    "soft cap": _soft_cap,
    "no soft cap": _no_soft_cap,
    "rotary base": _rotary_base,
}


def _cross_attention_scale(bridge):
    """The decoder's block 1 takes a tenth more from the encoder."""
    bridge.decoder_blocks[1].cross_attn.o.original_component.weight.mul_(1.1)


_FAULTS = {
    **{name: lambda bridge, plant=plant: plant(bridge.blocks[2]) for name, plant in _IN_BLOCK.items()},
    "cross-attention scale": _cross_attention_scale,
}
