"""What a measurement needs of a loaded TransformerLens model, and nothing of its version."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Edit = Callable[[Tensor], Tensor | None]
"""What a hook does with an activation: looks at it, or returns what shall stand in its place."""


@dataclass(frozen=True)
class Lens:
    """A model in TransformerLens, ready to run.

    Attributes:
        logits: from token ids ``[batch, pos]`` to logits ``[batch, pos, d_vocab]`` in the model's dtype.
        changed_weights: how many weight tensors the processing changed, read back from the weights. 0 means that the
            option is a no-op for this model, whatever its name promises.
        model: TransformerLens's own object, a module with an ``unembed`` and a ``cfg``.
    """

    logits: Callable[[Tensor], Tensor]
    changed_weights: int
    model: Any

    @property
    def n_blocks(self) -> int:
        """How many blocks it has."""
        return len(self.model.blocks)

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

    def run_with_hooks(self, ids: Tensor, hooks: Mapping[str, Edit]) -> Tensor:
        """The logits ``[batch, pos, d_vocab]`` by TransformerLens's own ``run_with_hooks``.

        Args:
            ids: token ids ``[batch, pos]``.
            hooks: hook points by name, each with a function that is given the activation and may return another.
        """
        logits: Tensor = self.model.run_with_hooks(
            ids, return_type="logits", fwd_hooks=[(name, _as_hook(edit)) for name, edit in hooks.items()]
        )
        return logits

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


def _as_hook(edit: Edit) -> Callable[..., Tensor | None]:
    # TransformerLens passes the hook point by name.
    def hooked(value: Tensor, hook: Any) -> Tensor | None:
        return edit(value)

    return hooked
