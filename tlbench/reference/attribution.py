"""Direct logit attribution of attention heads, from a HuggingFace model's own weights.

A head's output passes through the final norm, with the norm's scale held fixed, and the unembedding. Source: Elhage et al.
2021, "A Mathematical Framework for Transformer Circuits".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from tlbench.reference.sites import Block, Sites, find, normalised, sites

OUTPUT_PROJECTION = ("o_proj", "out_proj", "c_proj", "dense")
PLUS_ONE = ("Gemma", "VaultGemma", "NemotronLayerNorm1P")
HEADS, VALUE_BIASES, FOLDED_VALUE_BIASES = "heads", "value_biases", "folded_value_biases"
VALUE_PROJECTION = ("v_proj", "c_attn", "query_key_value")


def head_attribution(model: Any, ids: Tensor, tokens: Tensor) -> Mapping[str, Tensor]:
    """Each head's contribution to the difference between two tokens' logits at the last position.

    Args:
        ids: token ids ``[batch, pos]``.
        tokens: the two tokens to compare, ``[batch, 2]``.

    Returns:
        Three tensors ``[batch, block, head]`` in nats. ``heads`` is the whole contribution. ``value_biases`` is the part
        that comes from the value biases, which ``fold_value_biases`` moves out of the head. ``folded_value_biases`` is what
        it moves after ``fold_ln`` has added the norm's bias to them. Empty if a norm follows the heads, because their
        contributions cannot then be separated.
    """
    model_sites = sites(model)
    blocks = model_sites.blocks
    projections = [module for block in blocks if (module := _output_projection(block)) is not None]
    ln_final = model_sites.ln_final
    if ln_final is None or model_sites.n_encoder_blocks:
        return {}
    if any(block.has_post_norm for block in blocks) or len(projections) < len(blocks):
        return {}
    last_inputs: dict[nn.Module, Tensor] = {}  # nanochat's final norm runs behind the embedding too
    with ExitStack() as stack, torch.no_grad():
        for module in (*projections, ln_final):
            hook = module.register_forward_pre_hook(lambda own, args: last_inputs.update({own: args[0][:, -1].double()}))
            stack.enter_context(hook)
        model(ids, use_cache=False)
    *head_values, residual = (last_inputs[module] for module in (*projections, ln_final))
    directions = _directions(model, model_sites, residual, tokens)

    def contributions(values: Sequence[Tensor]) -> Tensor:
        return torch.stack([_through(z, p, directions, model) for z, p in zip(values, projections, strict=True)], 1)

    def constants(*, of_norm: bool) -> list[Tensor]:
        return [_constant_values(block, model, of_norm=of_norm)[None].expand(len(ids), -1) for block in blocks]

    return {
        HEADS: contributions(head_values),
        VALUE_BIASES: contributions(constants(of_norm=False)),
        FOLDED_VALUE_BIASES: contributions(constants(of_norm=True)),
    }


def _output_projection(block: Block) -> nn.Module | None:
    return find(block.attention, OUTPUT_PROJECTION) if block.attention else None


def _directions(model: Any, model_sites: Sites, residual: Tensor, tokens: Tensor) -> Tensor:
    """The residual-stream direction that the logit difference reads, divided by the norm's scale. ``[batch, d_model]``"""
    norm = model_sites.ln_final
    unembedding: Tensor = model.get_output_embeddings().weight.double()
    direction = (unembedding[tokens[:, 0]] - unembedding[tokens[:, 1]]) * gain(norm)
    # The norm is x -> (x - mean) / scale, so comparing its input and output gives the scale.
    centred = residual - residual.mean(-1, keepdim=True) if model_sites.centres else residual
    normed = normalised(residual, norm)
    scale = (centred * normed).sum(-1, keepdim=True) / normed.square().sum(-1, keepdim=True)
    if model_sites.centres:
        direction = direction - direction.mean(-1, keepdim=True)
    return direction / scale


def gain(norm: Any) -> Tensor:
    """The factor that a norm multiplies by. Gemma's and Nemotron's norms store it minus one; some have none."""
    if getattr(norm, "weight", None) is None:
        return torch.ones((), dtype=torch.float64)
    weight: Tensor = norm.weight.double()
    return weight + 1 if type(norm).__name__.startswith(PLUS_ONE) else weight


def _through(z: Tensor, projection: Any, directions: Tensor, model: Any) -> Tensor:
    """What the heads' values ``[batch, head * d_head]`` add along the directions, ``[batch, head]``."""
    weight: Tensor = projection.weight.double()
    # transformers' Conv1D stores its weight as [in, out], nn.Linear as [out, in].
    matrix = weight.T if isinstance(projection, nn.Linear) else weight
    products = torch.einsum("id,bd->bi", matrix, directions) * z
    return products.view(len(products), model.config.num_attention_heads, -1).sum(-1)


def _constant_values(block: Block, model: Any, *, of_norm: bool) -> Tensor:
    """The constant part of the heads' values, ``[head * d_head]``: the value biases, or zeros if there are none.

    ``of_norm`` adds what the value projection makes of the norm's bias.
    """
    n_heads, d_model = model.config.num_attention_heads, model.config.hidden_size
    assert block.attention is not None
    module = find(block.attention, VALUE_PROJECTION)
    if module is None:
        projection: Any = _output_projection(block)
        return torch.zeros(projection.weight.numel() // d_model, dtype=torch.float64)
    bias = getattr(block.ln1, "bias", None) if of_norm else None
    norm_output = torch.zeros(d_model, dtype=next(module.parameters()).dtype) if bias is None else bias
    with torch.no_grad():
        values: Tensor = module(norm_output[None])[0].double()
    d_head = getattr(model.config, "head_dim", None) or d_model // n_heads
    if module is not find(block.attention, VALUE_PROJECTION[:1]):  # fused with queries and keys
        n_kv = (len(values) // d_head - n_heads) // 2
        if hasattr(block.attention, "c_attn"):
            values = values[-n_kv * d_head :]
        else:  # GPT-NeoX, BLOOM and Falcon have the queries, the key and the value of each group together
            values = values.view(n_kv, -1, d_head)[:, -1].reshape(-1)
    n_kv = len(values) // d_head
    return values.view(n_kv, -1).repeat_interleave(n_heads // n_kv, 0).reshape(-1)
