"""What each attention head adds to a logit difference, from a HuggingFace model's own weights.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits": the head's output through the final norm,
with the norm's scale held fixed, and the unembedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from tlbench.reference.sites import Block, Sites, find, normalised, sites

OUTPUT_PROJECTION = ("o_proj", "out_proj", "c_proj", "dense")
HEADS, VALUE_BIASES, FOLDED_VALUE_BIASES = "heads", "value_biases", "folded_value_biases"
VALUE_PROJECTION = ("v_proj", "c_attn", "query_key_value")


def head_attribution(model: Any, ids: Tensor, tokens: Tensor) -> Mapping[str, Tensor]:
    """Each head's part of the difference of two tokens' logits at the last position.

    Args:
        model: a HuggingFace causal language model.
        ids: token ids ``[batch, pos]``.
        tokens: the two tokens whose logits are compared, ``[batch, 2]``.

    Returns:
        ``heads``, ``[batch, block, head]`` in nats; ``value_biases``, what of it the value biases contribute, which
        ``fold_value_biases`` moves out of the head; and ``folded_value_biases``, what it moves where ``fold_ln`` has put the
        norm's bias there too. Empty where a norm stands between the head and the residual stream, so that no head has a
        part of its own.
    """
    found = sites(model)
    projections = [find(block.attention, OUTPUT_PROJECTION) for block in found.blocks]
    if any(block.has_post_norm for block in found.blocks) or any(module is None for module in projections):
        return {}
    inputs: list[Tensor] = []
    last: list[Tensor] = []
    with ExitStack() as stack, torch.no_grad():
        for module in projections:
            assert module is not None
            hook = module.register_forward_pre_hook(lambda _, args: inputs.append(args[0][:, -1].double()))
            stack.callback(hook.remove)
        hook = found.ln_final.register_forward_pre_hook(lambda _, args: last.append(args[0][:, -1].double()))
        stack.callback(hook.remove)
        model(ids, use_cache=False)
    directions = _directions(model, found, last[-1], tokens)
    heads = [_through(z, module, directions, model) for z, module in zip(inputs, projections, strict=True)]

    def constant(*, of_norm: bool) -> Tensor:
        values = [_constant_values(block, model, of_norm=of_norm)[None].expand(len(ids), -1) for block in found.blocks]
        return torch.stack([_through(z, p, directions, model) for z, p in zip(values, projections, strict=True)], 1)

    return {
        HEADS: torch.stack(heads, 1),
        VALUE_BIASES: constant(of_norm=False),
        FOLDED_VALUE_BIASES: constant(of_norm=True),
    }


def _directions(model: Any, found: Sites, residual: Tensor, tokens: Tensor) -> Tensor:
    """The direction of the residual stream that the logit difference reads, at the norm's own scale. ``[batch, d_model]``"""
    norm = found.ln_final
    unembedding = model.get_output_embeddings().weight.double()
    direction = (unembedding[tokens[:, 0]] - unembedding[tokens[:, 1]]) * gain(norm)
    # The norm is x -> (x - mean) / scale: its scale is what divides x to give what it passes on.
    centred = residual - residual.mean(-1, keepdim=True) if found.centres else residual
    passed = normalised(residual, norm)
    scale = (centred * passed).sum(-1, keepdim=True) / passed.square().sum(-1, keepdim=True)
    if found.centres:
        direction = direction - direction.mean(-1, keepdim=True)
    scaled: Tensor = direction / scale
    return scaled


def gain(norm: Any) -> Tensor:
    """By what a norm multiplies; Gemma's keeps it less one."""
    weight: Tensor = norm.weight.double()
    return weight + 1 if type(norm).__name__.startswith("Gemma") else weight


def _through(z: Tensor, projection: Any, directions: Tensor, model: Any) -> Tensor:
    """``[batch, head]`` from heads' values ``[batch, head * d_head]``."""
    weight = projection.weight.double()
    # transformers' Conv1D keeps its weight as [in, out], nn.Linear as [out, in].
    matrix = weight.T if isinstance(projection, nn.Linear) else weight
    n_heads = model.config.num_attention_heads
    read = torch.einsum("id,bd->bi", matrix, directions) * z
    of_heads: Tensor = read.view(len(read), n_heads, -1).sum(-1)
    return of_heads


def _constant_values(block: Block, model: Any, *, of_norm: bool) -> Tensor:
    """The values that every position has whatever it reads: the value bias and, if asked for, what the norm's bias makes.

    ``[head * d_head]``; zeros where there is none.
    """
    n_heads = model.config.num_attention_heads
    bias = getattr(block.ln1, "bias", None) if of_norm else None
    module = find(block.attention, VALUE_PROJECTION)
    if module is None:
        projection: Any = find(block.attention, OUTPUT_PROJECTION)
        return torch.zeros(projection.weight.numel() // model.config.hidden_size, dtype=torch.float64)
    dtype = next(module.parameters()).dtype
    read = torch.zeros(model.config.hidden_size, dtype=dtype) if bias is None else bias
    with torch.no_grad():
        values: Tensor = module(read[None])[0].double()
    if hasattr(block.attention, "c_attn"):
        values = values.chunk(3)[2]
    elif hasattr(block.attention, "query_key_value"):
        # GPT-NeoX and BLOOM keep query, key and value of each head together.
        values = values.view(n_heads, 3, -1)[:, 2].reshape(-1)
    n_kv = getattr(model.config, "num_key_value_heads", None) or n_heads
    of_heads: Tensor = values.view(n_kv, -1).repeat_interleave(n_heads // n_kv, 0).reshape(-1)
    return of_heads
