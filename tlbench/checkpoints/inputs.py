"""What a model reads: the one place that makes its inputs of token ids.

Every question runs a model on token ids ``[batch, pos]`` and judges its logits ``[batch, pos, d_vocab]``:

- A causal model reads the ids.
- A masked encoder reads them too, with no token masked.
- An encoder-decoder's decoder reads them, and the logits are the decoder's. Its encoder reads :data:`SOURCE_TOKENS` tokens
  of the last natural-text prompt, turned by the first id. So sequences of a batch have different sources, which depend on
  no other sequence and on no later token. The decoder stays causal, and one prompt alone gets what it gets in a batch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlbench.catalogue import Task

if TYPE_CHECKING:
    from torch import Tensor

SOURCE_TOKENS = 40
"""Length of the encoder's text: other than the decoder's, so that no one mistakes one for the other."""
CLASSES = {
    Task.CAUSAL: "AutoModelForCausalLM",
    Task.ENCODER_DECODER: "AutoModelForSeq2SeqLM",
    Task.MASKED: "AutoModelForMaskedLM",
}
"""transformers' automatic class of each task."""


def task_of(folder: Path) -> Task:
    """The task that a checkpoint's config.json says."""
    config = json.loads((folder / "config.json").read_text())
    if config.get("is_encoder_decoder"):
        return Task.ENCODER_DECODER
    is_masked = any(str(name).endswith("ForMaskedLM") for name in config.get("architectures") or ())
    return Task.MASKED if is_masked else Task.CAUSAL


def automatic_class(task: Task) -> Any:
    """transformers' class that builds and loads models of a task."""
    import transformers

    return getattr(transformers, CLASSES[task])


@dataclass(frozen=True)
class Inputs:
    """Makes a model's inputs.

    Attributes:
        task: the model's.
        source: what an encoder-decoder's encoder reads, before it is turned; else unused.
    """

    task: Task = Task.CAUSAL
    source: tuple[int, ...] = ()

    @classmethod
    def of(cls, folder: Path, natural: Sequence[Sequence[int]]) -> Inputs:
        """The inputs of a checkpoint with these natural-text prompts."""
        return cls(task_of(folder), tuple(natural[-1][:SOURCE_TOKENS]))

    def named(self, ids: Tensor) -> dict[str, Tensor]:
        """The inputs by transformers' names."""
        if self.task is not Task.ENCODER_DECODER:
            return {"input_ids": ids}
        import torch

        source = torch.tensor(self.source, device=ids.device)
        turned = (ids[:, :1] + torch.arange(len(source), device=ids.device)) % len(source)
        return {"input_ids": source[turned], "decoder_input_ids": ids}

    def split(self, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The first input, which TransformerLens has another name for, and the others by name."""
        others = self.named(ids)
        return others.pop("input_ids"), others

    def attached(self, model: Any) -> Any:
        """A model of HuggingFace that, called with token ids, reads these inputs."""

        def read(_: Any, ids: Any, further: dict[str, Any]) -> Any:
            return (), {**(self.named(ids[0]) if ids else {}), **further}

        if self.task is Task.ENCODER_DECODER:
            model.register_forward_pre_hook(read, with_kwargs=True)
        return model
