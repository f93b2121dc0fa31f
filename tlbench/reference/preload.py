"""What a server that computes references does once for all its forks: it imports, and computes nothing."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

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
    *(f"transformers.models.{name}.modeling_{name}" for name in MODEL_TYPES),
)


def preload() -> None:
    """Import what HuggingFace's models need."""
    with collected_once():
        import_all((*MODULES, "tlbench.reference.golden"))


def import_all(modules: Sequence[str]) -> None:
    """Import what exists. What this version lacks or fails to import is met again, and reported, by whoever needs it."""
    for name in modules:
        with suppress(Exception), span(Category.IMPORT):
            importlib.import_module(name)
    with suppress(Exception), span(Category.IMPORT):
        # transformers 5 compiles a thousand regular expressions when it first loads a model, and keeps them.
        mapping = importlib.import_module("transformers.conversion_mapping")
        mapping.get_checkpoint_conversion_mapping("llama")


@contextmanager
def collected_once() -> Iterator[None]:
    """Within the block nothing is garbage-collected, and what it leaves never is.

    Nearly all that imports make stays, so looking for what does not takes time and finds little. And objects that are never
    collected are never written to, so no fork copies them.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
