"""TransformerBridge, TransformerLens 3.0 on. It accepts a local folder and loads the tokenizer from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from tlbench import device
from tlbench.catalogue import Source
from tlbench.cells import Dtype, Option
from tlbench.checkpoints import Checkpoint
from tlbench.exceptions import CellFailed, NotApplicable
from tlbench.lens import weights
from tlbench.lens.interface import Lens, class_of
from tlbench.spans import Category, span


def load_bridge(checkpoint: Checkpoint, dtype: Dtype, option: Option, readback: bool = True) -> Lens:
    """Load through ``TransformerBridge.boot_transformers``.

    ``unprocessed`` is the model as booted, which is what its user gets; the other options switch compatibility mode
    on with exactly the steps asked for.

    Raises:
        NotApplicable: if this TransformerLens has no TransformerBridge, or it has no such architecture.
        CellFailed: if loading raised.
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
                yield output[:, -1]
                cache = {"past_key_values": bridge._last_hf_cache}
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


class _WeightReadback:
    """Counts the tensors that ``ProcessWeights.process_weights`` changes.

    Expert stacks (3-D parameters of mixtures) are folded outside it, so the HuggingFace model's own are compared too.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self.changed_weights = 0

    @contextmanager
    def watching(self, bridge: Any) -> Iterator[None]:
        from transformer_lens.weight_processing import ProcessWeights

        original = ProcessWeights.process_weights

        def process_weights(state: dict[str, Tensor], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
            before = weights.fingerprints(state, self._dtype)
            processed: dict[str, Tensor] = original(state, *args, **kwargs)
            self.changed_weights += weights.changed(before, weights.fingerprints(processed, self._dtype))
            return processed

        stacks = weights.fingerprints(self._expert_stacks(bridge), self._dtype)
        with patch.object(ProcessWeights, "process_weights", staticmethod(process_weights)):
            yield
        self.changed_weights += weights.changed(stacks, weights.fingerprints(self._expert_stacks(bridge), self._dtype))

    @staticmethod
    def _expert_stacks(bridge: Any) -> dict[str, Tensor]:
        return {name: p for name, p in bridge.original_model.named_parameters() if p.ndim == 3}


@contextmanager
def _loading_errors() -> Iterator[None]:
    """An architecture that TransformerBridge says it lacks is `n/a`; everything else is a failure."""
    try:
        yield
    except Exception as error:
        text = str(error)
        if isinstance(error, (ValueError, KeyError, NotImplementedError)) and "nsupported architecture" in text:
            raise NotApplicable(f"this TransformerBridge lacks the architecture: {text}") from error
        raise CellFailed(f"TransformerBridge raised {type(error).__name__}: {text}") from error
