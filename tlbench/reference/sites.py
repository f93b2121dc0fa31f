"""Where HuggingFace's models compute the activations of :mod:`tlbench.components`, found by module name.

The names are those of transformers 4.57 to 5.23, which agree except for mixtures of experts. The first match counts, so a
module whose output is added to the residual stream comes before the module that contains it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tlbench.components import LN_FINAL, ROUTING, Component, site
from tlbench.exceptions import NotApplicable

BLOCKS = ("model.layers", "transformer.h", "gpt_neox.layers", "model.decoder.layers", "transformer.blocks",
          "backbone.layers", "model.language_model.layers")  # fmt: skip
OPAQUE_BLOCKS = ("rwkv.blocks", "bert.encoder.layer", "roberta.encoder.layer")
"""Blocks of which only the input and the output are read."""
FINAL_NORM = ("model.norm", "transformer.ln_f", "gpt_neox.final_layer_norm", "model.decoder.final_layer_norm",
              "model.final_layernorm", "model.final_norm", "model.norm_f", "backbone.norm_f", "transformer.norm_f",
              "model.embedding_norm", "model.layer_norm", "model.language_model.norm", "rwkv.ln_out")  # fmt: skip
ATTENTION = ("self_attention", "self_attn", "attn.attention", "attn", "attention")
MIXER = ("mixer", "mamba", "linear_attn", "conv", "temporal_block")
"""What stands in place of attention, or beside it."""
# BLOOM's attention and MLP and MPT's MLP add the residual themselves, so what they add is the output of their last matrix.
ATTN_OUT = ("self_attention.dense", *ATTENTION)
MLP_OUT = ("mlp.dense_4h_to_h", "ffn.down_proj", "fc2", "mlp", "block_sparse_moe", "feed_forward")
ROUTER = ("mlp.gate", "block_sparse_moe.gate", "mlp.router")
LN1 = ("input_layernorm", "ln_1", "self_attn_layer_norm", "norm_1", "attn_norm", "operator_norm", "norm")
LN2 = ("pre_ff_layernorm", "post_attention_layernorm", "ln_2", "final_layer_norm", "norm_2", "mlp_norm", "ffn_norm")
# Encoder-decoders. T5Gemma adds what a norm returns, as Gemma does.
ENCODER_BLOCKS = ("encoder.block", "model.encoder.layers", "led.encoder.layers", "model.encoder.text_model.layers")
DECODER_BLOCKS = ("decoder.block", "model.decoder.layers", "led.decoder.layers")
DECODER_NORM = ("decoder.final_layer_norm", "model.decoder.layer_norm", "model.decoder.norm")
ENCODER_NORM = (*(path.replace("decoder", "encoder") for path in DECODER_NORM), "model.encoder.text_model.norm")
SELF_ATTN_OUT = ("post_self_attn_layernorm", *(f"layer.0.{kind}SelfAttention" for kind in ("", "Local", "TransientGlobal")),
                 "self_attn")  # fmt: skip
CROSS_ATTN_OUT = ("post_cross_attn_layernorm", "layer.1.EncDecAttention", "encoder_attn")
FEED_FORWARD_OUT = ("post_feedforward_layernorm", "fc2", *(f"layer.{i}.{name}" for i in (2, 1) for name in ("DenseReluDense",
                    "mlp")))  # fmt: skip
OTHER_LAYER_NORMS = ("CohereLayerNorm", "Cohere2LayerNorm", "OlmoLayerNorm")
"""Norms that subtract the mean and are no nn.LayerNorm."""
EPS_IN_CODE = {"OlmoLayerNorm": 1e-5}
"""The epsilon of norms that have it in their code."""
# Gemma 2, Gemma 3, OLMo 2, GLM-4-0414 and Trinity have a norm after attention and MLP, and add its output. GLM's
# post_attention_layernorm is the norm before the MLP.
POST_MLP = ("post_feedforward_layernorm", "post_mlp_layernorm")
POST_ATTENTION = ("post_self_attn_layernorm", "post_attention_layernorm")
PRE_MLP = ("pre_feedforward_layernorm", "pre_mlp_layernorm")
Seen = Callable[[str, Tensor], None]
Read = Callable[[Any, Any, Any], Tensor | None]
"""Extracts an activation from a module, its inputs and its output, as a forward hook gets them."""


@dataclass(frozen=True)
class Block:
    """One block's modules. What the block lacks, or tlbench does not read in it, is None."""

    block: nn.Module
    attention: nn.Module | None = None
    attn_out: nn.Module | None = None
    mlp_out: nn.Module | None = None
    mixer: nn.Module | None = None
    ln1: nn.Module | None = None
    ln2: nn.Module | None = None
    router: nn.Module | None = None
    cross_attn_out: nn.Module | None = None
    has_post_norm: bool = False

    @property
    def scale(self) -> float:
        """What the outputs of attention and MLP are multiplied by before they are added, as Granite's are."""
        return float(getattr(self.block, "residual_multiplier", 1.0))


@dataclass(frozen=True)
class Sites:
    """A model's blocks and its final norm.

    Attributes:
        blocks: all, an encoder's before its decoder's.
        ln_final: the final norm of the last stack of blocks, if it has one.
        n_encoder_blocks: how many of the blocks are an encoder's.
        encoder_norm: the encoder's final norm, if it has one.
    """

    blocks: Sequence[Block]
    ln_final: nn.Module | None
    n_encoder_blocks: int = 0
    encoder_norm: nn.Module | None = None

    @property
    def ends(self) -> list[tuple[nn.Module, nn.Module | None]]:
        """The last block of each stack, with the norm that reads it."""
        decoder = (self.blocks[-1].block, self.ln_final)
        if not self.n_encoder_blocks:
            return [decoder]
        return [(self.blocks[self.n_encoder_blocks - 1].block, self.encoder_norm), decoder]

    @property
    def centres(self) -> bool:
        """Whether the norms subtract the mean, judged by the final norm. Only then are the writing weights centred."""
        return isinstance(self.ln_final, nn.LayerNorm) or type(self.ln_final).__name__ in OTHER_LAYER_NORMS

    @property
    def is_whole(self) -> bool:
        """Whether every block is attention and an MLP, which :func:`editing` takes for granted."""
        return all(block.attn_out and block.mlp_out for block in self.blocks)


def sites(model: Any) -> Sites:
    """The modules of a HuggingFace language model.

    Raises:
        NotApplicable: if it has no blocks under any of the names above.
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        encoder, decoder = _block_list(model, ENCODER_BLOCKS), _block_list(model, DECODER_BLOCKS)
        blocks = [_block_of_two(module) for module in (*encoder, *decoder)]
        return Sites(blocks, find(model, DECODER_NORM), len(encoder), find(model, ENCODER_NORM))
    if isinstance(opaque := find(model, OPAQUE_BLOCKS), nn.ModuleList):
        return Sites([Block(module) for module in opaque], find(model, FINAL_NORM))
    return Sites([_block(module) for module in _block_list(model, BLOCKS)], find(model, FINAL_NORM))


def _block_list(model: Any, paths: Sequence[str]) -> nn.ModuleList:
    """The list of a stack's blocks. Raises what :func:`sites` raises."""
    module_list = find(model, paths)
    if not isinstance(module_list, nn.ModuleList):
        raise NotApplicable(
            f"no blocks found in {type(model).__name__} (looked for {', '.join(paths)}), so tlbench cannot read its "
            "activations: add the name of their list to tlbench/reference/sites.py"
        )
    return module_list


def _block_of_two(block: nn.Module) -> Block:
    """Find the modules of one block of an encoder or its decoder. Raises what :func:`sites` raises."""
    attn_out = _required(block, SELF_ATTN_OUT)
    return Block(
        block=block,
        attention=attn_out,
        attn_out=attn_out,
        mlp_out=_required(block, FEED_FORWARD_OUT),
        cross_attn_out=find(block, CROSS_ATTN_OUT),
    )


def _block(block: nn.Module) -> Block:
    """Find the modules of one block."""
    post_mlp = find(block, POST_MLP)
    has_post_norm = post_mlp is not None
    attention = find(block, ATTENTION)
    ln2: Sequence[str] = LN2
    if has_post_norm:
        ln2 = PRE_MLP if find(block, POST_ATTENTION[:1]) is None else POST_ATTENTION[1:]
    return Block(
        block=block,
        attention=attention,
        attn_out=attention and find(block, POST_ATTENTION if has_post_norm else ATTN_OUT),
        mlp_out=post_mlp or find(block, MLP_OUT),
        mixer=find(block, MIXER),
        ln1=_norm(block, LN1),
        ln2=_norm(block, ln2),
        router=find(block, ROUTER),
        has_post_norm=has_post_norm,
    )


def find(parent: nn.Module, paths: Sequence[str]) -> nn.Module | None:
    """The first module that exists under one of the paths, else None."""
    for path in paths:
        with suppress(AttributeError):
            return parent.get_submodule(path)
    return None


def _norm(block: nn.Module, paths: Sequence[str]) -> nn.Module | None:
    """The norm under one of the paths; None where a block has none, or one that does nothing."""
    module = find(block, paths)
    return None if isinstance(module, nn.Identity) else module


def _required(parent: nn.Module, paths: Sequence[str]) -> nn.Module:
    if (module := find(parent, paths)) is not None:
        return module
    raise NotApplicable(f"{type(parent).__name__} has none of {', '.join(paths)}, so tlbench cannot read its activations")


@contextmanager
def watching(model: Any, seen: Seen) -> Iterator[None]:
    """Within the block, a forward pass calls ``seen`` with the name and value of each activation it computes."""
    model_sites = sites(model)
    experts = partial(_expert_mask, getattr(model.config, "num_experts_per_tok", 0))
    shape: tuple[int, ...] = ()

    def see_input(name: str, hidden: Tensor) -> Tensor:
        nonlocal shape
        if hidden.ndim != 3:
            raise NotApplicable(
                f"{name} has shape {list(hidden.shape)}: tlbench reads one residual stream, [batch, pos, d_model]"
            )
        shape = tuple(hidden.shape[:-1])
        seen(name, hidden)
        return hidden

    def see(name: str, read: Read, module: nn.Module, inputs: Any, output: Any) -> None:
        if (value := read(module, inputs, output)) is not None:
            # OPT's second norm and MLP, and some routers, flatten batch and position into one dimension.
            seen(name, value.reshape(*shape, value.shape[-1]) if value.ndim == 2 else value)

    with ExitStack() as stack:
        readings: list[tuple[nn.Module | None, str, Read]] = [(model_sites.ln_final, LN_FINAL, _before_gain)]
        for i, block in enumerate(model_sites.blocks):
            stack.enter_context(_edit_input(block.block, partial(see_input, site(i, Component.RESID_PRE))))
            readings += [
                (block.router, site(i, ROUTING), experts),
                (block.ln1, site(i, Component.LN1), _before_gain),
                (block.mixer, site(i, Component.MIXER_OUT), _first),
                (block.ln2, site(i, Component.LN2), _before_gain),
                # T5's attention returns its relative positions too, which look like a pattern.
                (None if model_sites.n_encoder_blocks else block.attention, site(i, Component.PATTERN), _pattern),
                (block.attn_out, site(i, Component.ATTN_OUT), partial(_scaled, block.scale)),
                (block.cross_attn_out, site(i, Component.CROSS_ATTN_OUT), _first),
                (block.mlp_out, site(i, Component.MLP_OUT), partial(_scaled, block.scale)),
                (block.block, site(i, Component.RESID_POST), _first),
            ]
        for module, name, read in readings:
            if module is not None:
                stack.enter_context(module.register_forward_hook(partial(see, name, read)))
        yield


@contextmanager
def feeding(model: Any, inputs: Sequence[Tensor]) -> Iterator[None]:
    """Within the block, feed ``inputs``, each ``[batch, pos, d_model]``, to all blocks and behind each stack of them."""
    model_sites = sites(model)
    into, behind = inputs[: len(model_sites.blocks)], inputs[len(model_sites.blocks) :]
    with ExitStack() as stack:
        for block, value in zip(model_sites.blocks, into, strict=True):
            stack.enter_context(_edit_input(block.block, value.to))  # value.to(hidden) takes its dtype
        for (last, norm), value in zip(model_sites.ends, behind, strict=True):
            stack.enter_context(_edit_output(last, value.to) if norm is None else _edit_input(norm, value.to))
        yield


@contextmanager
def editing(model: Any, block: int, component: Component, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the block, apply the intervention ``edit`` to a component in one transformer block."""
    target = sites(model).blocks[block]
    if component is Component.RESID_PRE:
        handle = _edit_input(target.block, edit)
    else:
        module = {Component.ATTN_OUT: target.attn_out, Component.MLP_OUT: target.mlp_out}[component]
        if module is None:
            raise NotApplicable(f"{type(target.block).__name__} has no {component}")
        handle = _edit_output(module, edit)
    with handle:
        yield


def _edit_output(module: nn.Module, edit: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Register a hook that applies ``edit`` to a module's output, or to the first of its outputs."""

    def after(_: Any, inputs: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return edit(output)
        return type(output)([edit(output[0]), *output[1:]])

    return module.register_forward_hook(after)


def _edit_input(module: nn.Module, edit: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Register a hook that applies ``edit`` to a module's hidden states before it runs."""

    def before(_: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (edit(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edit(kwargs["hidden_states"])}

    return module.register_forward_pre_hook(before, with_kwargs=True)


def normalised(x: Tensor, norm: Any) -> Tensor:
    """The output of a LayerNorm or RMSNorm for ``x`` before its gain and bias, in float64.

    Source: Ba et al. 2016, equation 3; Zhang and Sennrich 2019, equation 4. Raises NotApplicable if eps is not known.
    """
    kind = type(norm).__name__
    eps = next((getattr(norm, name) for name in ("variance_epsilon", "eps") if hasattr(norm, name)), EPS_IN_CODE.get(kind))
    if eps is None:
        raise NotApplicable(f"{kind} has no epsilon that tlbench knows: add it to tlbench/reference/sites.py")
    z = x.double()
    if isinstance(norm, nn.LayerNorm) or kind in OTHER_LAYER_NORMS:
        z = z - z.mean(-1, keepdim=True)
    return z / torch.sqrt(z.square().mean(-1, keepdim=True) + eps)


def _before_gain(norm: Any, inputs: Any, _: Any) -> Tensor:
    return normalised(inputs[0], norm)


def _first(_: Any, inputs: Any, output: Tensor | Sequence[Tensor]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def _scaled(scale: float, module: Any, inputs: Any, output: Any) -> Tensor:
    return _first(module, inputs, output) * scale


def _pattern(_: Any, inputs: Any, output: Any) -> Tensor | None:
    """The attention pattern. Attention's outputs vary by version, but only the pattern is square and has four dimensions."""
    for value in output if isinstance(output, (tuple, list)) else ():
        if isinstance(value, Tensor) and value.ndim == 4 and value.shape[-1] == value.shape[-2]:
            return value
    return None


def _expert_mask(k: int, router: Any, inputs: Any, output: Any) -> Tensor:
    """The ``k`` experts that each token goes to, as a mask ``[token, expert]`` of ones and zeros."""
    router_logits = _first(router, inputs, output)
    return torch.zeros_like(router_logits).scatter(-1, router_logits.topk(k, dim=-1).indices, 1)
