"""TransformerBridge, from TransformerLens 3.0 on. It accepts a local folder and loads the tokenizer from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from tlbench import device
from tlbench.checkpoints import Checkpoint
from tlbench.checkpoints.inputs import Inputs
from tlbench.exceptions import CellFailed, NotApplicable
from tlbench.grid import Dtype, Option
from tlbench.lens import weights
from tlbench.lens.interface import Lens, class_of, failures, generated
from tlbench.spans import Category, span

CHANGED = "TransformerLens changed how it processes weights: {}; see tlbench/lens/bridge.py"


def load_bridge(checkpoint: Checkpoint, dtype: Dtype, option: Option, readback: bool = True) -> Lens:
    """Load a model with ``TransformerBridge.boot_transformers``.

    ``unprocessed`` is the model as booted, which is what a user gets by default. The other options enable compatibility mode
    with exactly their own processing steps.

    Raises:
        NotApplicable: if this TransformerLens has no TransformerBridge, or TransformerBridge lacks the architecture.
        CellFailed: if loading raised, or processing bypassed the function that the readback patches.
    """
    wrapper = bridge_class()
    torch_dtype = getattr(torch, dtype)
    weights_read = _WeightReadback(torch_dtype)

    def process(requested: Option, refactor: bool = False) -> None:
        flags = {**requested.flags(), **({"refactor_factored_attn_matrices": True} if refactor else {})}
        with _loading_errors(), redirect_stdout(StringIO()):
            bridge.enable_compatibility_mode(disable_warnings=True, **flags)

    def around(hf_model: Any) -> Callable[[Tensor], Tensor]:
        with _loading_errors(), redirect_stdout(StringIO()):
            given = wrapper.boot_transformers(
                str(checkpoint.folder), hf_model=hf_model, device=device.current(), dtype=torch_dtype
            )
            if option is not Option.UNPROCESSED:
                given.enable_compatibility_mode(disable_warnings=True, **option.flags())
        return _logits_of(given.eval(), checkpoint.inputs)

    with _loading_errors(), redirect_stdout(StringIO()), span(Category.LOAD):
        place = device.placement(checkpoint, dtype)
        bridge: Any = wrapper.boot_transformers(str(checkpoint.folder), **place, dtype=torch_dtype)
    if option is not Option.UNPROCESSED:
        with weights_read.watching(bridge) if readback else nullcontext(), span(Category.PROCESS):
            process(option)
    bridge.eval()

    def steps(ids: Tensor) -> Iterator[Tensor]:
        # This is how `generate` does it in every version. Only 4.x can return the cache from a forward pass.
        bridge._capture_hf_cache = True
        cache: dict[str, Any] = {}
        try:
            for i in range(ids.shape[1]):
                output: Any = bridge(ids[:, i : i + 1], return_type="logits", use_cache=True, **cache)
                cache = {"past_key_values": _take_cache(bridge)}
                yield output[:, -1]
        finally:
            bridge._capture_hf_cache = False

    def greedy(prompts: Tensor | list[str], n: int) -> Tensor:
        return generated(bridge, prompts, n)

    changed = weights_read.changed_weights
    logits = _logits_of(bridge, checkpoint.inputs)
    return Lens(logits, changed, bridge, steps, greedy, process, around=around, inputs=checkpoint.inputs)


def _logits_of(bridge: Any, inputs: Inputs) -> Callable[[Tensor], Tensor]:
    def logits(ids: Tensor) -> Tensor:
        first, others = inputs.split(ids)
        result: Tensor = bridge(first, return_type="logits", **others)
        return result

    return logits


def bridge_class() -> Any:
    """The TransformerBridge class. Raises what :func:`class_of` raises."""
    return class_of("transformer_lens.model_bridge", "TransformerBridge", "added in 3.0")


def _take_cache(bridge: Any) -> Any:
    """Take the key-value cache that the last forward pass left on the bridge, so that no later pass can reuse it."""
    cache = getattr(bridge, "_last_hf_cache", None)
    if cache is None:  # the next token would run without context, and its error would pass for the cache's
        raise CellFailed(
            "TransformerLens changed how it returns the key-value cache: a forward pass with _capture_hf_cache set no "
            "_last_hf_cache, so generation from the cache cannot be measured; see tlbench/lens/bridge.py"
        )
    if getattr(cache, "get_seq_length", lambda: 1)() == 0:
        raise CellFailed(
            "TransformerLens's key-value cache is empty after a forward pass, so a token at a time runs without context. "
            "TransformerLens 4.3.0 does this with transformers 5.24: take the transformers that tlbench pins"
        )
    del bridge._last_hf_cache
    return cache


class _WeightReadback:
    """Counts the tensors that processing changes, by comparing the booted model with the output of ``process_weights``.

    The input of that function is no baseline, because some adapters process the weights before it: Phi-3's folds its norms
    there. Expert stacks (the 3-D parameters of mixtures) are folded outside the function, so they are compared on the
    HuggingFace model as well.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self.changed_weights = 0

    @contextmanager
    def watching(self, bridge: Any) -> Iterator[None]:
        """Within the block, count the weights that processing changes. CellFailed if it bypasses ``process_weights``."""
        owner = _weight_processing()
        original: Callable[..., dict[str, Tensor]] = owner.process_weights
        calls = 0
        stacks = weights.fingerprints(self._expert_stacks(bridge), self._dtype)
        booted = weights.fingerprints(bridge.state_dict(), self._dtype)

        def process_weights(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
            nonlocal calls
            calls += 1
            processed = original(*args, **kwargs)
            after = weights.fingerprints(processed, self._dtype)
            if booted.keys().isdisjoint(after):
                raise CellFailed(CHANGED.format("process_weights renames every weight, so tlbench cannot compare any"))
            self.changed_weights += weights.changed(booted, after)
            return processed

        with patch.object(owner, "process_weights", staticmethod(process_weights)):
            yield
        if not calls:  # every option would look like a no-op
            raise CellFailed(CHANGED.format("it never called ProcessWeights.process_weights, which tlbench patches"))
        self.changed_weights += weights.changed(stacks, weights.fingerprints(self._expert_stacks(bridge), self._dtype))

    @staticmethod
    def _expert_stacks(bridge: Any) -> dict[str, Tensor]:
        return {name: p for name, p in bridge.original_model.named_parameters() if p.ndim == 3}


def _weight_processing() -> Any:
    """The class whose ``process_weights`` TransformerBridge calls. Raises CellFailed if there is none."""
    try:
        from transformer_lens.weight_processing import ProcessWeights
    except ImportError as error:
        raise CellFailed(CHANGED.format(f"importing ProcessWeights failed ({error})")) from error
    if not hasattr(ProcessWeights, "process_weights"):
        raise CellFailed(CHANGED.format("ProcessWeights has no process_weights"))
    return ProcessWeights


@contextmanager
def _loading_errors() -> Iterator[None]:
    """Map errors while loading: an unsupported architecture is not applicable, anything else is a failure."""
    with failures("TransformerBridge"):
        try:
            yield
        except (ValueError, KeyError, NotImplementedError) as error:
            if "supported architecture" not in str(error):
                raise
            raise NotApplicable(f"TransformerBridge lacks this architecture: {error}") from error
