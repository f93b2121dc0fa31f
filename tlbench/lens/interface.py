"""The version-independent interface to a loaded TransformerLens model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from tlbench.exceptions import CellFailed, NotApplicable
from tlbench.grid import Option

Hook = Callable[[Tensor], Tensor | None]
"""A hook function: it receives an activation, and returns None or a replacement."""


def class_of(module: str, name: str, story: str) -> Any:
    """Get a TransformerLens class.

    Args:
        module: the module that defines it.
        name: its name.
        story: when it was added or removed, for the message.

    Raises:
        NotApplicable: if this TransformerLens has no such class.
        CellFailed: if it has, but one of the class's imports fails.
    """
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        # For a removed class, TransformerLens 4 raises an ImportError whose name is that class.
        missing = error.name or ""
        if isinstance(error, ImportError) and missing != name and not missing.startswith("transformer_lens"):
            raise CellFailed(f"importing {name} failed ({type(error).__name__}: {error})") from error
        raise NotApplicable(f"this TransformerLens has no {name} ({story})") from None


@dataclass(frozen=True)
class Lens:
    """A loaded TransformerLens model, ready to run.

    Attributes:
        logits: maps token ids ``[batch, pos]`` to logits ``[batch, pos, d_vocab]`` in the model's dtype.
        changed_weights: how many weight tensors the processing changed, read back from the weights. 0 means that the
            option is a no-op for this model, or that readback was off.
        model: TransformerLens's own object, a module with an ``unembed`` and a ``cfg``.
        steps: maps token ids ``[batch, pos]`` to the logits ``[batch, d_vocab]`` at each position in turn, computed from
            that token and the key-value cache.
        greedy: maps token ids and n to those ids followed by n more, ``[batch, pos]``. It calls TransformerLens's
            ``generate``, greedily and with the key-value cache.
        process: applies a processing option in place to a model that was loaded unprocessed.
    """

    logits: Callable[[Tensor], Tensor]
    changed_weights: int
    model: Any
    steps: Callable[[Tensor], Iterator[Tensor]]
    greedy: Callable[[Tensor, int], Tensor]
    process: Callable[[Option], None]

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self.model.blocks)

    def longest_context(self) -> int | None:
        """The longest context that the model accepts, or None if it sets no limit."""
        longest = getattr(self.model.cfg, "n_ctx", None)
        return int(longest) if longest else None

    def rotary_table(self) -> int | None:
        """The current length of a rotary table that grows with the text (TransformerLens 2.17 to 3.x), else None."""
        attention = self.model.blocks[0].attn
        if not hasattr(attention, "_extend_rotary_embeddings") or not hasattr(attention, "rotary_sin"):
            return None
        return len(attention.rotary_sin)

    def has_hook(self, name: str) -> bool:
        """Whether the model has a hook point of this name."""
        return name in self.model.hook_dict

    def before_gain(self, hook: str) -> Callable[[Tensor], Tensor]:
        """A function that removes a norm's gain and bias from the activation at its ``hook_normalized``.

        Up to 2.18, HookedTransformer's LayerNorm places this hook after gain and bias. Every other norm places it before
        them, and then the function does nothing. Running the norm once tells which it is.
        """
        norm = self.model.get_submodule(hook.rsplit(".", 1)[0])
        gain, bias = getattr(norm, "w", None), getattr(norm, "b", None)
        if not isinstance(gain, Tensor) or not isinstance(bias, Tensor):
            return lambda value: value
        hook_outputs: list[Tensor] = []
        handle = norm.hook_normalized.register_forward_hook(lambda _, inputs, output: hook_outputs.append(output))
        try:
            with torch.inference_mode():
                output = norm(torch.linspace(-1, 1, gain.shape[-1], dtype=gain.dtype, device=gain.device)[None, None])
        finally:
            handle.remove()
        if not torch.equal(hook_outputs[-1].to(output.dtype), output):
            return lambda value: value
        return lambda value: (value.double() - bias.double()) / gain.double()

    def hook_names(self) -> list[str]:
        """The names of all hook points."""
        return list(self.model.hook_dict)

    def accepts_hook(self, name: str) -> bool:
        """Whether the model accepts a hook there. Some hook points exist but are rejected unless configured."""
        try:
            with self.model.hooks(fwd_hooks=[(name, _as_hook(lambda value: None))]):
                return True
        except (ValueError, AssertionError):
            return False

    def count_hooks(self) -> int:
        """Number of hooks that are currently attached."""
        points = {id(point): point for point in self.model.hook_dict.values()}
        return sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in points.values())

    def run_with_cache(self, ids: Tensor) -> tuple[Tensor, Any]:
        """The logits and TransformerLens's ``ActivationCache``."""
        logits, cache = self.model.run_with_cache(ids, return_type="logits")
        return logits, cache

    def head_attribution(self, ids: Tensor, tokens: Tensor) -> Tensor:
        """Each head's contribution to a logit difference at the last position, from TransformerLens's ``logit_attrs``.

        Args:
            ids: token ids ``[batch, pos]``.
            tokens: the two tokens to compare, ``[batch, 2]``.

        Returns:
            ``[batch, block, head]``.

        Raises:
            NotApplicable: if this TransformerLens has no ``logit_attrs``.
        """
        _, cache = self.run_with_cache(ids)
        if not hasattr(cache, "logit_attrs"):
            raise NotApplicable("this TransformerLens has no ActivationCache.logit_attrs")
        heads = cache.stack_head_results(layer=-1, pos_slice=-1)
        pair = {"tokens": tokens[:, 0], "incorrect_tokens": tokens[:, 1]}
        attribution: Tensor = cache.logit_attrs(heads, **pair, pos_slice=-1, has_batch_dim=True)
        return attribution.T.reshape(len(ids), self.n_blocks, -1)

    def unembedded(self, residual: Tensor) -> Tensor:
        """Apply final norm, unembedding and soft cap to a residual stream ``[batch, pos, d_model]``."""
        logits: Tensor = self.model.unembed(self.model.ln_final(residual))
        cap = getattr(self.model.cfg, "output_logits_soft_cap", None) or -1.0
        return cap * torch.tanh(logits / cap) if cap > 0 else logits

    def stopped_at(self, ids: Tensor, layer: int) -> Tensor:
        """The residual stream that ``stop_at_layer`` returns, ``[batch, pos, d_model]``.

        Raises:
            NotApplicable: if this TransformerLens has no ``stop_at_layer``.
        """
        return self._called("stop_at_layer", ids, layer)

    def started_at(self, residual: Tensor, layer: int) -> Tensor:
        """The logits of a forward pass that starts with a residual stream at ``start_at_layer``.

        Raises:
            NotApplicable: if this TransformerLens has no ``start_at_layer``.
        """
        return self._called("start_at_layer", residual, layer)

    def masked_logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The logits with an attention mask ``[batch, pos]`` that is 0 on padding.

        Raises:
            NotApplicable: if this TransformerLens has no ``attention_mask``.
        """
        return self._called("attention_mask", ids, mask)

    def _called(self, argument: str, value: Tensor, argument_value: int | Tensor) -> Tensor:
        if argument not in inspect.signature(self.model.forward).parameters:
            raise NotApplicable(f"this TransformerLens has no {argument}")
        result: Tensor = self.model(value, return_type="logits", **{argument: argument_value})
        return result

    def run_with_hooks(self, ids: Tensor, hooks: Mapping[str, Hook]) -> Tensor:
        """The logits ``[batch, pos, d_vocab]`` from TransformerLens's own ``run_with_hooks``.

        Args:
            ids: token ids ``[batch, pos]``.
            hooks: hook functions by the name of their hook point.
        """
        logits: Tensor = self.model.run_with_hooks(
            ids, return_type="logits", fwd_hooks=[(name, _as_hook(edit)) for name, edit in hooks.items()]
        )
        return logits

    def require_gradients(self, wanted: bool) -> None:
        """Turn gradients of the parameters on or off."""
        self.model.requires_grad_(wanted)

    def widen(self) -> None:
        """Convert the model to float64 in place, keeping the values of its processed weights and its tables.

        From then on, run it inside :func:`tlbench.reference.float64.true_float64`.
        """
        self.model.double()
        for module in self.model.modules():
            # Older versions cast to this dtype after each norm. All parts share one config.
            if hasattr(getattr(module, "cfg", None), "dtype"):
                module.cfg.dtype = torch.float64
            # transformers 5 runs experts with a grouped matrix product, which torch implements for 32 and 16 bits only.
            if getattr(getattr(module, "config", None), "_experts_implementation", None):
                module.config._experts_implementation = "eager"

    @contextmanager
    def reading_unembed_input(self) -> Iterator[list[Tensor]]:
        """Within the block, collect the unembedding's input of each forward pass, ``[batch, pos, d_model]``."""
        unembed_inputs: list[Tensor] = []
        handle = self.model.unembed.register_forward_pre_hook(lambda _, inputs: unembed_inputs.append(inputs[0]))
        try:
            yield unembed_inputs
        finally:
            handle.remove()

    @contextmanager
    def replacing_unembed_input(self, residual: Tensor) -> Iterator[None]:
        """Within the block, the unembedding reads ``residual``, ``[batch, pos, d_model]``, instead of its own input."""
        handle = self.model.unembed.register_forward_pre_hook(lambda _, inputs: (residual, *inputs[1:]))
        try:
            yield
        finally:
            handle.remove()


def _as_hook(edit: Hook) -> Callable[..., Tensor | None]:
    # TransformerLens passes the hook point as the keyword `hook`.
    def hook_function(value: Tensor, hook: Any) -> Tensor | None:
        return edit(value)

    return hook_function
