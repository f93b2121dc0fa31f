"""What a measurement needs of a loaded TransformerLens model, and nothing of its version."""

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
"""What a hook does with an activation: looks at it, or returns what shall stand in its place."""


def class_of(module: str, name: str, story: str) -> Any:
    """A class of TransformerLens.

    Args:
        module: where it is.
        name: how it is called.
        story: when it came or went.

    Raises:
        NotApplicable: if this TransformerLens has none.
        CellFailed: if it has, and something that it needs does not import.
    """
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        # What TransformerLens 4 removed it tells of by an ImportError that bears the class's own name.
        missing = error.name or ""
        if isinstance(error, ImportError) and missing != name and not missing.startswith("transformer_lens"):
            raise CellFailed(f"{name} does not import ({type(error).__name__}: {error})") from error
        raise NotApplicable(f"this TransformerLens has no {name} ({story})") from None


@dataclass(frozen=True)
class Lens:
    """A model in TransformerLens, ready to run.

    Attributes:
        logits: from token ids ``[batch, pos]`` to logits ``[batch, pos, d_vocab]`` in the model's dtype.
        changed_weights: how many weight tensors the processing changed, read back from the weights. 0 means that the
            option is a no-op for this model, whatever its name promises. 0 also where they were not to be read.
        model: TransformerLens's own object, a module with an ``unembed`` and a ``cfg``.
        steps: from token ids ``[batch, pos]`` to the logits ``[batch, d_vocab]`` at one position after another, each from
            that token alone and the key-value cache.
        greedy: from token ids and a number to those ids and as many more, ``[batch, pos]``, by TransformerLens's
            ``generate``, greedily and with the key-value cache.
        process: process the weights of a model that was loaded unprocessed, in place, as an option asks.
    """

    logits: Callable[[Tensor], Tensor]
    changed_weights: int
    model: Any
    steps: Callable[[Tensor], Iterator[Tensor]]
    greedy: Callable[[Tensor, int], Tensor]
    process: Callable[[Option], None]

    @property
    def n_blocks(self) -> int:
        """How many blocks it has."""
        return len(self.model.blocks)

    def longest_context(self) -> int | None:
        """The longest context that it takes, if it names one."""
        longest = getattr(self.model.cfg, "n_ctx", None)
        return int(longest) if longest else None

    def rotary_table(self) -> int | None:
        """For how many positions there is a rotary table now, where it is one that grows with the text (2.17 to 3.x)."""
        attention = self.model.blocks[0].attn
        if not hasattr(attention, "_extend_rotary_embeddings") or not hasattr(attention, "rotary_sin"):
            return None
        return len(attention.rotary_sin)

    def has_hook(self, name: str) -> bool:
        """Whether it has a hook point of this name."""
        return name in self.model.hook_dict

    def before_gain(self, hook: str) -> Callable[[Tensor], Tensor]:
        """What turns the activation at a norm's ``hook_normalized`` into that before the norm's gain and bias.

        HookedTransformer's LayerNorm has the hook behind them up to 2.18; every other norm has it before them. Which it is
        is found by running the norm once.
        """
        norm = self.model.get_submodule(hook.rsplit(".", 1)[0])
        gain, bias = getattr(norm, "w", None), getattr(norm, "b", None)
        if not isinstance(gain, Tensor) or not isinstance(bias, Tensor):
            return lambda value: value
        hooked: list[Tensor] = []
        handle = norm.hook_normalized.register_forward_hook(lambda _, inputs, output: hooked.append(output))
        try:
            with torch.inference_mode():
                output = norm(torch.linspace(-1, 1, gain.shape[-1], dtype=gain.dtype, device=gain.device)[None, None])
        finally:
            handle.remove()
        if not torch.equal(hooked[-1].to(output.dtype), output):
            return lambda value: value
        return lambda value: (value.double() - bias.double()) / gain.double()

    def hook_names(self) -> list[str]:
        """Every hook point."""
        return list(self.model.hook_dict)

    def accepts_hook(self, name: str) -> bool:
        """Whether a hook can be added there: some exist and are refused unless the model is told to compute them."""
        try:
            with self.model.hooks(fwd_hooks=[(name, _as_hook(lambda value: None))]):
                return True
        except (ValueError, AssertionError):
            return False

    def count_hooks(self) -> int:
        """How many hooks are there now."""
        points = {id(point): point for point in self.model.hook_dict.values()}
        return sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in points.values())

    def run_with_cache(self, ids: Tensor) -> tuple[Tensor, Any]:
        """The logits and TransformerLens's cache of all activations."""
        logits, cache = self.model.run_with_cache(ids, return_type="logits")
        return logits, cache

    def head_attribution(self, ids: Tensor, tokens: Tensor) -> Tensor:
        """What each head adds to a logit difference at the last position, by TransformerLens's own cache.

        Args:
            ids: token ids ``[batch, pos]``.
            tokens: the two tokens whose logits are compared, ``[batch, 2]``.

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
        """The logits that final norm, unembedding and soft cap make of a residual stream ``[batch, pos, d_model]``."""
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
        """The logits that ``start_at_layer`` makes of a residual stream.

        Raises:
            NotApplicable: if this TransformerLens has no ``start_at_layer``.
        """
        return self._called("start_at_layer", residual, layer)

    def masked_logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The logits where ``mask``, ``[batch, pos]``, is 0 on padding.

        Raises:
            NotApplicable: if this TransformerLens takes no ``attention_mask``.
        """
        return self._called("attention_mask", ids, mask)

    def _called(self, argument: str, value: Tensor, given: int | Tensor) -> Tensor:
        if argument not in inspect.signature(self.model.forward).parameters:
            raise NotApplicable(f"this TransformerLens has no {argument}")
        result: Tensor = self.model(value, return_type="logits", **{argument: given})
        return result

    def run_with_hooks(self, ids: Tensor, hooks: Mapping[str, Hook]) -> Tensor:
        """The logits ``[batch, pos, d_vocab]`` by TransformerLens's own ``run_with_hooks``.

        Args:
            ids: token ids ``[batch, pos]``.
            hooks: hook points by name, each with a function that is given the activation and may return another.
        """
        logits: Tensor = self.model.run_with_hooks(
            ids, return_type="logits", fwd_hooks=[(name, _as_hook(edit)) for name, edit in hooks.items()]
        )
        return logits

    def require_gradients(self, wanted: bool) -> None:
        """Whether a backward pass computes the gradients of the parameters."""
        self.model.requires_grad_(wanted)

    def widen(self) -> None:
        """Turn the model into float64 in place: its processed weights and its tables as they stand, value for value.

        Run it inside :func:`tlbench.reference.float64.true_float64` from then on.
        """
        self.model.double()
        for module in self.model.modules():
            # Older versions cast to this dtype after each norm; the object is shared by all parts.
            if hasattr(getattr(module, "cfg", None), "dtype"):
                module.cfg.dtype = torch.float64
            # transformers 5 computes experts by a grouped product, which torch has for 32 and 16 bits only.
            if getattr(getattr(module, "config", None), "_experts_implementation", None):
                module.config._experts_implementation = "eager"

    @contextmanager
    def reading_unembed_input(self) -> Iterator[list[Tensor]]:
        """Within the block, what the unembedding reads at each forward, ``[batch, pos, d_model]``, is appended."""
        seen: list[Tensor] = []
        handle = self.model.unembed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            yield seen
        finally:
            handle.remove()

    @contextmanager
    def replacing_unembed_input(self, residual: Tensor) -> Iterator[None]:
        """Within the block the unembedding reads ``residual``, ``[batch, pos, d_model]``, whatever comes before it."""
        handle = self.model.unembed.register_forward_pre_hook(lambda _, inputs: (residual, *inputs[1:]))
        try:
            yield
        finally:
            handle.remove()


def _as_hook(edit: Hook) -> Callable[..., Tensor | None]:
    # TransformerLens passes the hook point by name.
    def hooked(value: Tensor, hook: Any) -> Tensor | None:
        return edit(value)

    return hooked
