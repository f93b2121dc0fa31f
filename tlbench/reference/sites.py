"""Where HuggingFace's models compute the activations of :mod:`tlbench.components`, found by module name.

The names are those of transformers 4.57 to 5.23, which agree except for mixtures of experts. They are tried in the order
given: a module whose output is added to the residual stream comes before the module that contains it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tlbench.components import LN_FINAL, ROUTING, Component, site
from tlbench.exceptions import NotApplicable

BLOCKS = ("model.layers", "transformer.h", "gpt_neox.layers", "model.decoder.layers")
FINAL_NORM = ("model.norm", "transformer.ln_f", "gpt_neox.final_layer_norm", "model.decoder.final_layer_norm",
              "model.final_layernorm")  # fmt: skip
ATTENTION = ("self_attention", "self_attn", "attn.attention", "attn", "attention")
# BLOOM's attention and MLP add the residual themselves, so what they add is the output of their last matrix.
ATTN_OUT = ("self_attention.dense", *ATTENTION)
MLP_OUT = ("mlp.dense_4h_to_h", "fc2", "mlp", "block_sparse_moe", "feed_forward")
ROUTER = ("mlp.gate", "block_sparse_moe.gate")
LN1 = ("input_layernorm", "ln_1", "self_attn_layer_norm")
LN2 = ("post_attention_layernorm", "ln_2", "final_layer_norm")
# Gemma 2, Gemma 3 and OLMo 2 have a norm after attention and MLP, and add its output.
POST_ATTENTION, POST_MLP, PRE_MLP = "post_attention_layernorm", "post_feedforward_layernorm", "pre_feedforward_layernorm"
Seen = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class Block:
    """One block's modules. A norm or router that the block lacks is None."""

    block: nn.Module
    attention: nn.Module
    attn_out: nn.Module
    mlp_out: nn.Module
    ln1: nn.Module | None
    ln2: nn.Module | None
    router: nn.Module | None
    has_post_norm: bool


@dataclass(frozen=True)
class Sites:
    """A model's blocks and its final norm."""

    blocks: Sequence[Block]
    ln_final: nn.Module

    @property
    def centres(self) -> bool:
        """Whether the norms subtract the mean, judged by the final norm. Only then are the writing weights centred."""
        return isinstance(self.ln_final, nn.LayerNorm)


def sites(model: Any) -> Sites:
    """Find the modules of a HuggingFace causal language model.

    Raises:
        NotApplicable: if it has no blocks, attention or MLP under any of the names above.
    """
    module_list = find(model, BLOCKS)
    if not isinstance(module_list, nn.ModuleList):
        raise NotApplicable(
            f"no blocks found in {type(model).__name__} (looked for {', '.join(BLOCKS)}), so tlbench cannot read its "
            "activations: add the name of their list to tlbench/reference/sites.py"
        )
    blocks = []
    for block in module_list:
        has_post_norm = find(block, (POST_MLP,)) is not None
        blocks.append(
            Block(
                block=block,
                attention=_required(block, ATTENTION),
                attn_out=_required(block, (POST_ATTENTION,) if has_post_norm else ATTN_OUT),
                mlp_out=_required(block, (POST_MLP,) if has_post_norm else MLP_OUT),
                ln1=find(block, LN1),
                ln2=find(block, (PRE_MLP,) if has_post_norm else LN2),
                router=find(block, ROUTER),
                has_post_norm=has_post_norm,
            )
        )
    return Sites(blocks, _required(model, FINAL_NORM))


def find(parent: Any, paths: Sequence[str]) -> nn.Module | None:
    """The first module that exists under one of the paths, else None."""
    for path in paths:
        module = parent
        for name in path.split("."):
            module = getattr(module, name, None)
        if isinstance(module, nn.Module):
            return module
    return None


def _required(parent: Any, paths: Sequence[str]) -> nn.Module:
    module = find(parent, paths)
    if module is None:
        raise NotApplicable(
            f"{type(parent).__name__} has none of {', '.join(paths)}, so tlbench cannot read its activations"
        )
    return module


@contextmanager
def watching(model: Any, seen: Seen) -> Iterator[None]:
    """Within the block, a forward pass calls ``seen`` with the name and value of each activation it computes."""
    model_sites = sites(model)
    k = getattr(model.config, "num_experts_per_tok", 0)
    with ExitStack() as stack:
        watch = _Watch(seen, stack)
        for i, block in enumerate(model_sites.blocks):
            watch.inputs(block.block, site(i, Component.RESID_PRE))
            watch.output(block.router, site(i, ROUTING), lambda output: _expert_mask(_first(output), k))
            watch.norm(block.ln1, site(i, Component.LN1))
            watch.norm(block.ln2, site(i, Component.LN2))
            watch.output(block.attention, site(i, Component.PATTERN), _pattern)
            watch.output(block.attn_out, site(i, Component.ATTN_OUT), _first)
            watch.output(block.mlp_out, site(i, Component.MLP_OUT), _first)
            watch.output(block.block, site(i, Component.RESID_POST), _first)
        watch.norm(model_sites.ln_final, LN_FINAL)
        yield


class _Watch:
    """Registers hooks that report to ``seen`` until ``stack`` closes."""

    def __init__(self, seen: Seen, stack: ExitStack) -> None:
        self._seen = seen
        self._stack = stack
        self._shape: tuple[int, ...] = ()

    def inputs(self, block: nn.Module, name: str) -> None:
        """Report a block's input."""

        def before(_: Any, args: Any, kwargs: Any) -> None:
            hidden = _hidden(args, kwargs)
            self._shape = tuple(hidden.shape[:-1])
            self._seen(name, hidden)

        self._stack.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)

    def norm(self, norm: nn.Module | None, name: str) -> None:
        """Report a norm's output before its gain and bias."""
        if norm is not None:
            self._after(norm, lambda inputs, _: self._report(name, normalised(inputs[0], norm)))

    def output(self, module: nn.Module | None, name: str, read: Callable[[Any], Tensor | None]) -> None:
        """Report what ``read`` extracts from a module's output."""
        if module is not None:
            self._after(module, lambda _, output: self._report(name, read(output)))

    def _after(self, module: nn.Module, do: Callable[[Any, Any], None]) -> None:
        self._stack.callback(module.register_forward_hook(lambda _, inputs, output: do(inputs, output)).remove)

    def _report(self, name: str, value: Tensor | None) -> None:
        if value is not None:
            # OPT's second norm and MLP, and some routers, flatten batch and position into one dimension.
            self._seen(name, value.reshape(*self._shape, value.shape[-1]) if value.ndim == 2 else value)


@contextmanager
def feeding(model: Any, inputs: Sequence[Tensor]) -> Iterator[None]:
    """Within the block, replace the input of every transformer block and of the final norm in a forward pass.

    Args:
        model: a HuggingFace causal language model.
        inputs: the replacement for each transformer block, then for the final norm, each ``[batch, pos, d_model]``.
    """
    model_sites = sites(model)
    readers = [*(block.block for block in model_sites.blocks), model_sites.ln_final]
    with ExitStack() as stack:
        for module, value in zip(readers, inputs, strict=True):

            def replace(_: Any, args: Any, kwargs: Any, value: Tensor = value) -> Any:
                hidden = value.to(_hidden(args, kwargs).dtype)
                return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

            stack.callback(module.register_forward_pre_hook(replace, with_kwargs=True).remove)
        yield


@contextmanager
def editing(model: Any, block: int, component: Component, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the block, apply the intervention ``edit`` to a component in one transformer block."""
    target = sites(model).blocks[block]
    if component is Component.RESID_PRE:

        def before(_: Any, args: Any, kwargs: Any) -> Any:
            hidden = edit(_hidden(args, kwargs))
            return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

        handle = target.block.register_forward_pre_hook(before, with_kwargs=True)
    else:

        def after(_: Any, inputs: Any, output: Any) -> Any:
            return edit(output) if isinstance(output, Tensor) else (edit(output[0]), *output[1:])

        module = {Component.ATTN_OUT: target.attn_out, Component.MLP_OUT: target.mlp_out}[component]
        handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def normalised(x: Tensor, norm: Any) -> Tensor:
    """The output of a LayerNorm or RMSNorm for ``x`` before its gain and bias, in float64.

    Source: Ba et al. 2016, equation 3; Zhang and Sennrich 2019, equation 4.
    """
    eps = next(getattr(norm, name) for name in ("variance_epsilon", "eps") if hasattr(norm, name))
    z = x.double()
    if isinstance(norm, nn.LayerNorm):
        z = z - z.mean(-1, keepdim=True)
    return z / torch.sqrt(z.square().mean(-1, keepdim=True) + eps)


def _hidden(args: Any, kwargs: Any) -> Tensor:
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def _first(output: Any) -> Tensor:
    tensor: Tensor = output if isinstance(output, Tensor) else output[0]
    return tensor


def _pattern(output: Any) -> Tensor | None:
    """The attention pattern. Attention's outputs vary by version, but only the pattern is square and has four dimensions."""
    for value in output if isinstance(output, (tuple, list)) else ():
        if isinstance(value, Tensor) and value.ndim == 4 and value.shape[-1] == value.shape[-2]:
            return value
    return None


def _expert_mask(router_logits: Tensor, k: int) -> Tensor:
    """The ``k`` experts that each token goes to, as a mask ``[token, expert]`` of ones and zeros."""
    return torch.zeros_like(router_logits).scatter(-1, router_logits.topk(k, dim=-1).indices, 1)
