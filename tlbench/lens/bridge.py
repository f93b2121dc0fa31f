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
from tlbench.catalogue import Source
from tlbench.checkpoints import Checkpoint
from tlbench.exceptions import CellFailed, NotApplicable
from tlbench.grid import Dtype, Option
from tlbench.lens import weights
from tlbench.lens.interface import Lens, class_of
from tlbench.spans import Category, span

CHANGED_PROCESSING = "TransformerLens changed how it processes weights: {}; see tlbench/lens/bridge.py"


def load_bridge(checkpoint: Checkpoint, dtype: Dtype, option: Option, readback: bool = True) -> Lens:
    """Load a model with ``TransformerBridge.boot_transformers``.

    ``unprocessed`` is the model as booted, which is what a user gets by default. The other options enable compatibility mode
    with exactly their own processing steps.

    Args:
        checkpoint: the checkpoint.
        dtype: the dtype to load it in.
        option: the processing option.
        readback: whether to count the changed weights.

    Raises:
        NotApplicable: if this TransformerLens has no TransformerBridge, or TransformerBridge lacks the architecture.
        CellFailed: if loading raised, or processing bypassed the function that the readback patches.
    """
    wrapper = bridge_class()
    torch_dtype = getattr(torch, dtype)
    name = checkpoint.model.repo if checkpoint.model.source is Source.HUB else str(checkpoint.folder)
    weights_read = _WeightReadback(torch_dtype)

    def process(requested: Option) -> None:
        with _loading_errors(), redirect_stdout(StringIO()):
            bridge.enable_compatibility_mode(disable_warnings=True, **requested.flags())

    with _loading_errors(), redirect_stdout(StringIO()), span(Category.LOAD):
        bridge: Any = wrapper.boot_transformers(name, device=device.current(), dtype=torch_dtype)
    if option is not Option.UNPROCESSED:
        with weights_read.watching(bridge) if readback else nullcontext(), span(Category.PROCESS):
            process(option)
    bridge.eval()

    def logits(tokens: Tensor) -> Tensor:
        output: Tensor = bridge(tokens, return_type="logits")
        return output

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

    def greedy(ids: Tensor, n: int) -> Tensor:
        tokens: Tensor = bridge.generate(ids, max_new_tokens=n, do_sample=False, stop_at_eos=False, verbose=False)
        return tokens

    return Lens(logits, weights_read.changed_weights, bridge, steps, greedy, process)


def bridge_class() -> Any:
    """The TransformerBridge class.

    Raises:
        NotApplicable: if this TransformerLens has none.
        CellFailed: if it does not import.
    """
    return class_of("transformer_lens.model_bridge", "TransformerBridge", "added in 3.0")


def _take_cache(bridge: Any) -> Any:
    """Take the key-value cache that the last forward pass left on the bridge, so that no later pass can reuse it.

    Raises:
        CellFailed: if there is none. The next token would then run without context, and its error would pass for the
            cache's.
    """
    cache = getattr(bridge, "_last_hf_cache", None)
    if cache is None:
        raise CellFailed(
            "TransformerLens changed how it returns the key-value cache: a forward pass with _capture_hf_cache set no "
            "_last_hf_cache, so generation from the cache cannot be measured; see tlbench/lens/bridge.py"
        )
    del bridge._last_hf_cache
    return cache


class _WeightReadback:
    """Counts the tensors that processing changes, by comparing the booted model with the output of ``process_weights``.

    The input of that function is no baseline, because some adapters process the weights before it: Phi-3's folds its norms
    there. Expert stacks (the 3-D parameters of mixtures) are folded outside the function, so they are compared on the
    HuggingFace model as well. If the function were never called, every option would look like a no-op; that raises instead.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._calls = 0
        self.changed_weights = 0

    @contextmanager
    def watching(self, bridge: Any) -> Iterator[None]:
        """Within the block, count the weights that processing changes.

        Raises:
            CellFailed: if ``process_weights`` does not exist, was not called, or renamed every weight.
        """
        owner = _weight_processing()
        stacks = weights.fingerprints(self._expert_stacks(bridge), self._dtype)
        booted = weights.fingerprints(bridge.state_dict(), self._dtype)
        with patch.object(owner, "process_weights", staticmethod(self._counting(booted, owner.process_weights))):
            yield
        if not self._calls:
            raise CellFailed(
                CHANGED_PROCESSING.format("it never called ProcessWeights.process_weights, which tlbench patches")
            )
        self.changed_weights += weights.changed(stacks, weights.fingerprints(self._expert_stacks(bridge), self._dtype))

    def _counting(
        self, booted: weights.Fingerprints, original: Callable[..., dict[str, Tensor]]
    ) -> Callable[..., dict[str, Tensor]]:
        def process_weights(state: dict[str, Tensor], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
            self._calls += 1
            processed = original(state, *args, **kwargs)
            after = weights.fingerprints(processed, self._dtype)
            if booted.keys().isdisjoint(after):
                raise CellFailed(
                    CHANGED_PROCESSING.format("process_weights renames every weight, so tlbench cannot compare any")
                )
            self.changed_weights += weights.changed(booted, after)
            return processed

        return process_weights

    @staticmethod
    def _expert_stacks(bridge: Any) -> dict[str, Tensor]:
        return {name: p for name, p in bridge.original_model.named_parameters() if p.ndim == 3}


def _weight_processing() -> Any:
    """The class whose ``process_weights`` TransformerBridge calls.

    Raises:
        CellFailed: if there is none.
    """
    try:
        from transformer_lens.weight_processing import ProcessWeights
    except ImportError as error:
        raise CellFailed(CHANGED_PROCESSING.format(f"importing ProcessWeights failed ({error})")) from error
    if not hasattr(ProcessWeights, "process_weights"):
        raise CellFailed(CHANGED_PROCESSING.format("ProcessWeights has no process_weights"))
    return ProcessWeights


@contextmanager
def _loading_errors() -> Iterator[None]:
    """Map errors while loading: an unsupported architecture is not applicable, anything else is a failure."""
    try:
        yield
    except CellFailed:
        raise
    except Exception as error:
        text = str(error)
        if isinstance(error, (ValueError, KeyError, NotImplementedError)) and "supported architecture" in text:
            raise NotApplicable(f"TransformerBridge lacks this architecture: {text}") from error
        raise CellFailed(f"TransformerBridge raised {type(error).__name__}: {text}") from error
