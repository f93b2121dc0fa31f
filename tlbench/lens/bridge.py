"""TransformerBridge, TransformerLens 3.0 on. It accepts a local folder and loads the tokenizer from it."""

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
    """Load through ``TransformerBridge.boot_transformers``.

    ``unprocessed`` is the model as booted, which is what its user gets; the other options switch compatibility mode
    on with exactly the steps asked for.

    Raises:
        NotApplicable: if this TransformerLens has no TransformerBridge, or it has no such architecture.
        CellFailed: if loading raised, or the weights were not processed where it is watched.
    """
    wrapper = bridge_class()
    torch_dtype = getattr(torch, dtype)
    name = checkpoint.model.repo if checkpoint.model.source is Source.HUB else str(checkpoint.folder)
    weights_read = _WeightReadback(torch_dtype)

    def process(asked: Option) -> None:
        with _loading_errors(), redirect_stdout(StringIO()):
            bridge.enable_compatibility_mode(disable_warnings=True, **asked.flags())

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
        # What its own `generate` does, in every version; a return type for the cache came with 4.x.
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
    """TransformerBridge.

    Raises:
        NotApplicable: if this TransformerLens has none.
        CellFailed: if it does not import.
    """
    return class_of("transformer_lens.model_bridge", "TransformerBridge", "it came with 3.0")


def _take_cache(bridge: Any) -> Any:
    """The key-value cache that the last forward pass left behind, taken away so that no later one can be given it again.

    Raises:
        CellFailed: if it left none. Without it the next token would be run alone, and its error be taken for the cache's.
    """
    cache = getattr(bridge, "_last_hf_cache", None)
    if cache is None:
        raise CellFailed(
            "TransformerLens changed how it hands out the key-value cache: a forward pass with _capture_hf_cache left no "
            "_last_hf_cache, so a step from the cache cannot be measured; see tlbench/lens/bridge.py"
        )
    del bridge._last_hf_cache
    return cache


class _WeightReadback:
    """Counts the tensors that processing changes: the model's own, as booted, against what ``process_weights`` returns.

    What that function is given will not do: some adapters process before it (Phi-3's folds its norms there). Expert stacks
    (3-D parameters of mixtures) are folded outside it, so the HuggingFace model's own are compared too.
    If it were not called, nothing would be counted, and every option would look like a no-op.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._calls = 0
        self.changed_weights = 0

    @contextmanager
    def watching(self, bridge: Any) -> Iterator[None]:
        """Watch what is processed within the block.

        Raises:
            CellFailed: if the function is not there, was not called, or renamed every weight.
        """
        owner = _weight_processing()
        stacks = weights.fingerprints(self._expert_stacks(bridge), self._dtype)
        booted = weights.fingerprints(bridge.state_dict(), self._dtype)
        with patch.object(owner, "process_weights", staticmethod(self._counting(booted, owner.process_weights))):
            yield
        if not self._calls:
            raise CellFailed(CHANGED_PROCESSING.format("ProcessWeights.process_weights, which is watched, was not called"))
        self.changed_weights += weights.changed(stacks, weights.fingerprints(self._expert_stacks(bridge), self._dtype))

    def _counting(
        self, booted: weights.Fingerprints, original: Callable[..., dict[str, Tensor]]
    ) -> Callable[..., dict[str, Tensor]]:
        def process_weights(state: dict[str, Tensor], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
            self._calls += 1
            processed = original(state, *args, **kwargs)
            after = weights.fingerprints(processed, self._dtype)
            if booted.keys().isdisjoint(after):
                raise CellFailed(CHANGED_PROCESSING.format("process_weights renames every weight, so none can be compared"))
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
        raise CellFailed(CHANGED_PROCESSING.format(f"ProcessWeights does not import ({error})")) from error
    if not hasattr(ProcessWeights, "process_weights"):
        raise CellFailed(CHANGED_PROCESSING.format("ProcessWeights has no process_weights"))
    return ProcessWeights


@contextmanager
def _loading_errors() -> Iterator[None]:
    """An architecture that TransformerBridge says it lacks is `n/a`; everything else is a failure."""
    try:
        yield
    except CellFailed:
        raise
    except Exception as error:
        text = str(error)
        if isinstance(error, (ValueError, KeyError, NotImplementedError)) and "nsupported architecture" in text:
            raise NotApplicable(f"this TransformerBridge lacks the architecture: {text}") from error
        raise CellFailed(f"TransformerBridge raised {type(error).__name__}: {text}") from error
