"""The imports that the reference server makes once for all its forks. It computes nothing itself."""

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
    """Import everything that HuggingFace's models need."""
    with collected_once():
        import_all((*MODULES, "tlbench.reference.golden"))


def import_all(modules: Sequence[str]) -> None:
    """Import the modules that exist. Ignore failures: code that needs the module will fail again and report it."""
    for name in modules:
        with suppress(Exception), span(Category.IMPORT):
            importlib.import_module(name)
    with suppress(Exception), span(Category.IMPORT):
        # transformers 5 compiles and caches a thousand regular expressions when it first loads a model.
        mapping = importlib.import_module("transformers.conversion_mapping")
        mapping.get_checkpoint_conversion_mapping("llama")


@contextmanager
def collected_once() -> Iterator[None]:
    """Within the block the garbage collector is off, and it never visits the objects that the block leaves behind.

    Imports leave little to free. The collector writes to what it visits, so a fork would have to copy those pages.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
