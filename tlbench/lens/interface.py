"""The version-independent interface to a loaded TransformerLens model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from tlbench import device
from tlbench.catalogue import Task
from tlbench.checkpoints.inputs import Inputs
from tlbench.exceptions import CellFailed, NotApplicable, TlbenchError

Hook = Callable[[Tensor], Tensor | None]
"""A hook function: it receives an activation, and returns None or a replacement."""


class Switch(StrEnum):
    """TransformerLens's switches that expose more activations and must leave the logits alone."""

    ATTN_RESULT = "use_attn_result"
    SPLIT_QKV_INPUT = "use_split_qkv_input"
    ATTN_IN = "use_attn_in"
    HOOK_MLP_IN = "use_hook_mlp_in"


def class_of(module: str, name: str, story: str) -> Any:
    """Get a TransformerLens class from the module that defines it. ``story`` says when it was added or removed.

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


@contextmanager
def failures(what: str) -> Iterator[None]:
    """Within the block, any exception but tlbench's own becomes a CellFailed: "``what`` raised ..."."""
    try:
        yield
    except TlbenchError:
        raise
    except Exception as error:
        raise CellFailed(f"{what} raised {type(error).__name__}: {error}") from error


def _no_model_to_wrap(_: Any) -> Callable[[Tensor], Tensor]:
    raise NotApplicable("HookedTransformer copies the weights of hf_model and never runs it")


@dataclass(frozen=True)
class Lens:
    """A loaded TransformerLens model, ready to run.

    Attributes:
        logits: maps token ids ``[batch, pos]`` to logits ``[batch, pos, d_vocab]`` in the model's dtype.
        changed_weights: number of weight tensors that processing changed. 0 if the option is a no-op or readback was off.
        model: TransformerLens's own object, a module with an ``unembed`` and a ``cfg``.
        steps: maps token ids ``[batch, pos]`` to logits ``[batch, d_vocab]`` position by position, with the key-value cache.
        greedy: maps token ids, or texts, and n to their ids plus n more, ``[batch, pos]``, by TransformerLens's cached
            ``generate``, which pads texts of unequal length itself.
        process: applies a processing option in place to a model that was loaded unprocessed; if its second argument is
            true, with ``refactor_factored_attn_matrices`` too.
        other_constants: which constants it has that are not the checkpoint's, and whose they are; "" if there are none.
        around: loads a bridge around a given HuggingFace model, as ``hf_model=`` does, and returns its ``logits``.
        inputs: makes the model's inputs of token ids.
    """

    logits: Callable[[Tensor], Tensor]
    changed_weights: int
    model: Any
    steps: Callable[[Tensor], Iterator[Tensor]]
    greedy: Callable[[Tensor | list[str], int], Tensor]
    process: Callable[..., None]
    other_constants: str = ""
    around: Callable[[Any], Callable[[Tensor], Tensor]] = _no_model_to_wrap
    inputs: Inputs = field(default_factory=Inputs)

    def __post_init__(self) -> None:
        for name in ("logits", "steps", "greedy"):
            object.__setattr__(self, name, _on_the_device(getattr(self, name)))

    @property
    def blocks(self) -> list[str]:
        """The names of the blocks, such as ``blocks.0``; an encoder-decoder's encoder comes first."""
        lists = ("blocks",) if self.inputs.task is not Task.ENCODER_DECODER else ("encoder_blocks", "decoder_blocks")
        return [f"{name}.{i}" for name in lists for i in range(len(getattr(self.model, name)))]

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def longest_context(self) -> int | None:
        """The longest context that the model accepts, or None if it sets no limit."""
        longest = getattr(self.model.cfg, "n_ctx", None)
        return int(longest) if longest else None

    def rotary_table(self) -> int | None:
        """The current length of a rotary table that grows with the text (TransformerLens 2.17 to 3.x), else None."""
        attention = self.model.blocks[0].attn
        grows = hasattr(attention, "_extend_rotary_embeddings") and hasattr(attention, "rotary_sin")
        return len(attention.rotary_sin) if grows else None

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
        watching = norm.hook_normalized.register_forward_hook(lambda _, inputs, output: hook_outputs.append(output))
        with watching, torch.inference_mode():
            output = norm(torch.linspace(-1, 1, gain.shape[-1], dtype=gain.dtype, device=gain.device)[None, None])
        if not torch.equal(hook_outputs[-1].to(output.dtype), output):
            return lambda value: value
        return lambda value: (value.double() - bias.double()) / gain.double()

    def hook_names(self) -> list[str]:
        """The names of all hook points."""
        return list(self.model.hook_dict)

    def accepts_hook(self, name: str) -> bool:
        """Whether the model accepts a hook there. It rejects some of its hook points unless configured."""
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
        first, others = self.inputs.split(ids.to(device.current()))
        logits, cache = self.model.run_with_cache(first, return_type="logits", **others)
        return logits, cache

    def head_attribution(self, ids: Tensor, tokens: Tensor) -> Tensor:
        """What each head adds to a logit difference at the last position, ``[batch, block, head]``.

        ``tokens`` are the two tokens of each prompt, ``[batch, 2]``. NotApplicable if ``logit_attrs`` is missing.
        """
        _, cache = self.run_with_cache(ids)
        if not hasattr(cache, "logit_attrs"):
            raise NotApplicable("this TransformerLens has no ActivationCache.logit_attrs")
        attribution = self.attributions(cache, cache.stack_head_results(layer=-1, pos_slice=-1), tokens)
        return attribution.T.reshape(len(ids), self.n_blocks, -1)

    def attributions(self, cache: Any, stack: Tensor, tokens: Tensor) -> Tensor:
        """What each part of a stack ``[part, batch, d_model]`` adds to a logit difference, by ``logit_attrs``."""
        tokens = tokens.to(device.current())
        pair = {"tokens": tokens[:, 0], "incorrect_tokens": tokens[:, 1]}
        attribution: Tensor = cache.logit_attrs(stack, **pair, pos_slice=-1, has_batch_dim=True)
        return attribution

    @property
    def soft_cap(self) -> float | None:
        """The final logits' soft cap, or None."""
        cap = getattr(self.model.cfg, "output_logits_soft_cap", None) or -1.0
        return float(cap) if cap > 0 else None

    def unembedded(self, residual: Tensor) -> Tensor:
        """Apply final norm, unembedding and soft cap to a residual stream ``[batch, pos, d_model]``."""
        return self.projected(self.model.ln_final(residual))

    def projected(self, normalised: Tensor) -> Tensor:
        """Apply unembedding and soft cap to the final norm's output ``[batch, pos, d_model]``."""
        logits: Tensor = self.model.unembed(normalised)
        cap = self.soft_cap
        return cap * torch.tanh(logits / cap) if cap else logits

    def unembed_bias_difference(self, tokens: Tensor) -> Tensor:
        """What the unembedding's bias adds to the logit difference of two tokens ``[batch, 2]``, in nats. ``[batch]``"""
        try:
            bias = self.weight("b_U").double().cpu()
        except NotApplicable:
            return torch.zeros(len(tokens), dtype=torch.float64)
        return bias[tokens[:, 0].cpu()] - bias[tokens[:, 1].cpu()]

    def held_bytes(self) -> int:
        """Bytes of every tensor that the model holds, shared ones once."""
        wrapped = getattr(self.model, "original_model", None)
        modules = [*self.model.modules(), *(wrapped.modules() if isinstance(wrapped, torch.nn.Module) else ())]
        return sum(_storages([vars(module) for module in modules]).values())

    def stopped_at(self, ids: Tensor, layer: int) -> Tensor:
        """The residual stream that ``stop_at_layer`` returns, ``[batch, pos, d_model]``. NotApplicable if it is missing."""
        return self._forward_with("stop_at_layer", ids, layer)

    def started_at(self, residual: Tensor, layer: int) -> Tensor:
        """The logits of a forward pass from a residual stream at ``start_at_layer``. NotApplicable if it is missing."""
        return self._forward_with("start_at_layer", residual, layer)

    def masked_logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The logits with an ``attention_mask`` ``[batch, pos]`` that is 0 on padding. NotApplicable if it is missing."""
        return self._forward_with("attention_mask", ids, mask)

    def loss(self, ids: Tensor, mask: Tensor | None = None, *, per_token: bool = False) -> Tensor:
        """The loss in nats that ``return_type="loss"`` gives: the mean, or by token ``[batch, pos - 1]``."""
        argument, value = ("loss_per_token", per_token) if mask is None else ("attention_mask", mask)
        return self._forward_with(argument, ids, value, return_type="loss")

    def masked_greedy(self, ids: Tensor, mask: Tensor, n: int) -> Tensor:
        """Token ids and n more, by ``generate`` with an ``attention_mask``. NotApplicable if it has none."""
        parameters = inspect.signature(self.model.generate).parameters
        # Before 3.9.0 TransformerBridge takes it with other keywords for multimodal models, and says nothing.
        if "attention_mask" not in parameters and all(one.kind is not one.VAR_KEYWORD for one in parameters.values()):
            raise NotApplicable("this TransformerLens's generate has no attention_mask")
        mask = mask.to(device.current())
        fixed: dict[str, Any] = {"do_sample": False, "stop_at_eos": False, "verbose": False}
        tokens: Tensor = self.model.generate(ids.to(device.current()), max_new_tokens=n, attention_mask=mask, **fixed)
        return tokens

    @contextmanager
    def switched(self, switch: Switch) -> Iterator[None]:
        """Within the block, a switch is on. NotApplicable if this TransformerLens or this architecture lacks it."""
        if (setter := getattr(self.model, f"set_{switch}", None)) is None:
            raise NotApplicable(f"this TransformerLens has no set_{switch}")
        try:
            setter(True)
        except NotImplementedError as error:
            raise NotApplicable(str(error)) from error
        try:
            yield
        finally:
            setter(False)

    def weight(self, name: str) -> Tensor:
        """An accessor's weights, such as ``W_Q``: those of a block are stacked. NotApplicable if the model has none."""
        try:
            found = getattr(self.model, name)
        except (AttributeError, NotImplementedError) as error:
            raise NotApplicable(f"no {name}: {error}") from None
        if not isinstance(found, Tensor):
            raise NotApplicable(f"no {name}")
        return found.detach()

    def product(self, name: str) -> Tensor:
        """The product of ``QK`` or ``OV``, ``[block, head, d_model, d_model]``. NotApplicable if the model has none."""
        try:
            product: Tensor = getattr(self.model, name).AB
        except (AttributeError, NotImplementedError) as error:
            raise NotApplicable(f"no {name}: {error}") from None
        return product.detach()

    def _forward_with(
        self, argument: str, value: Tensor, argument_value: int | Tensor, return_type: str = "logits"
    ) -> Tensor:
        if argument not in inspect.signature(self.model.forward).parameters:
            raise NotApplicable(f"this TransformerLens has no {argument}")
        if isinstance(argument_value, Tensor):
            argument_value = argument_value.to(device.current())
        value, others = value.to(device.current()), dict[str, Tensor]()
        if not value.is_floating_point():  # else it is a residual stream
            value, others = self.inputs.split(value)
        result: Tensor = self.model(value, return_type=return_type, **{argument: argument_value}, **others)
        return result

    def run_with_hooks(self, ids: Tensor, hooks: Mapping[str, Hook]) -> Tensor:
        """The logits ``[batch, pos, d_vocab]`` from TransformerLens's ``run_with_hooks``, with hooks by hook point name."""
        fwd_hooks = [(name, _as_hook(edit)) for name, edit in hooks.items()]
        first, others = self.inputs.split(ids.to(device.current()))
        logits: Tensor = self.model.run_with_hooks(first, return_type="logits", fwd_hooks=fwd_hooks, **others)
        return logits

    def run_with_backward_hooks(self, ids: Tensor, hooks: Mapping[str, Hook], backward: Callable[[Tensor], None]) -> None:
        """Pass the logits to ``backward`` while TransformerLens's ``bwd_hooks`` look at gradients, by hook point name."""
        bwd_hooks = [(name, _as_hook(look)) for name, look in hooks.items()]
        first, others = self.inputs.split(ids.to(device.current()))
        choices = {"return_type": "logits", "bwd_hooks": bwd_hooks, "reset_hooks_end": False}
        try:  # with ``reset_hooks_end`` they would be gone before the backward pass
            backward(self.model.run_with_hooks(first, **choices, **others))
        finally:
            self.model.reset_hooks()

    def run_with_gradients(self, ids: Tensor) -> Any:
        """The ``ActivationCache`` of the loss with ``incl_bwd``: gradients under ``NAME_grad``."""
        first, others = self.inputs.split(ids.to(device.current()))
        _, cache = self.model.run_with_cache(first, return_type="loss", incl_bwd=True, **others)
        return cache

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
        with self.model.unembed.register_forward_pre_hook(lambda _, inputs: unembed_inputs.append(inputs[0])):
            yield unembed_inputs

    @contextmanager
    def replacing_unembed_input(self, residual: Tensor) -> Iterator[None]:
        """Within the block, the unembedding reads ``residual``, ``[batch, pos, d_model]``, instead of its own input."""
        with self.model.unembed.register_forward_pre_hook(lambda _, inputs: (residual, *inputs[1:])):
            yield


def _storages(value: Any) -> dict[int, int]:
    """The bytes of each storage behind a tensor or a container of tensors, by its address."""
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        return {storage.data_ptr(): storage.nbytes()}
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
    return {address: size for one in inside for address, size in _storages(one).items()}


def _on_the_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of token ids, which it moves to the device that the model is on, or of texts."""

    def moving(prompts: Tensor | list[str], *arguments: Any) -> Any:
        return function(prompts.to(device.current()) if isinstance(prompts, Tensor) else prompts, *arguments)

    return moving


def _as_hook(edit: Hook) -> Callable[..., Tensor | None]:
    """Make a hook take the keyword ``hook`` too, as which TransformerLens passes the hook point."""
    return lambda value, hook: edit(value)


def generated(model: Any, prompts: Tensor | list[str], n: int) -> Tensor:
    """What ``generate`` makes of token ids or texts, greedily and with its cache: ids, ``[batch, pos]``."""
    kind = {} if isinstance(prompts, Tensor) else {"return_type": "tokens"}
    tokens: Tensor = model.generate(prompts, max_new_tokens=n, do_sample=False, stop_at_eos=False, verbose=False, **kind)
    return tokens
