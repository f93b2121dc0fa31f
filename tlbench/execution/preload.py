"""Do once, in the process that all cells are forked from, what each of them would do again: imports and the proof of origin.

No thread is started and no tensor computed here: a fork after torch has run threads may deadlock.
"""

from __future__ import annotations

import gc
import importlib
from contextlib import suppress

from tlbench import catalogue
from tlbench.execution import memo
from tlbench.spans import Category, span

MODEL_TYPES = (
    *("bloom", "gemma", "gemma2", "gemma3", "gpt2", "gpt_neo", "gpt_neox", "gptj", "llama", "mistral", "mixtral"),
    *("olmo2", "opt", "phi", "phi3", "qwen2", "qwen3", "stablelm"),
)
MODULES = (
    "torch",
    "safetensors.torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.generation.utils",
    "transformer_lens",
    "transformer_lens.loading_from_pretrained",
    "transformer_lens.model_bridge",
    "transformer_lens.model_bridge.sources.transformers_driver",
    "transformer_lens.utilities.bridge_components",
    "transformer_lens.weight_processing",
    "einops._torch_specific",
    "tlbench.questions.measure",
    *(f"transformers.models.{name}.modeling_{name}" for name in MODEL_TYPES),
)


def preload() -> None:
    """Import what exists; what this version lacks or fails to import is met again, and told, by the cell that needs it."""
    # Nearly everything that imports make stays: looking again and again for what does not takes time and finds little.
    gc.disable()
    for name in MODULES:
        with suppress(Exception), span(Category.IMPORT):
            importlib.import_module(name)
    with suppress(Exception), span(Category.VERIFY):
        memo.setting()
    with suppress(Exception), span(Category.KEEP):
        catalogue.load()
    with suppress(Exception), span(Category.IMPORT):
        # transformers 5 compiles a thousand regular expressions when it first loads a model, and keeps them.
        mapping = importlib.import_module("transformers.conversion_mapping")
        mapping.get_checkpoint_conversion_mapping("llama")
    # Objects that are never collected are never written to, and so never copied by a fork.
    gc.freeze()
    gc.enable()
