"""The reference server, and the imports that it makes once for all its forks. It computes nothing itself.

The server of the environment under test imports everything but TransformerLens. The measuring server is forked from it, so
torch and transformers are imported once, and references are still computed in processes without TransformerLens.
"""

from __future__ import annotations

import gc
import importlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tlbench import checkpoints
from tlbench.environments.sources import code_digest
from tlbench.execution.client import Server, beside
from tlbench.spans import Category, span

MODULES = (
    "torch",
    "safetensors.torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.generation.utils",
)
GOLDEN = "tlbench.reference.golden"
NAME, PRELOAD = "references", f"{__name__}:preload"


def reference_server(python: Path) -> Server:
    """The server that computes references with this interpreter; see :func:`tlbench.execution.client.beside`."""
    return beside(NAME, python=python, preload=PRELOAD)


def preload() -> None:
    """Import everything that HuggingFace's models need."""
    with collected_once():
        import_all((*MODULES, GOLDEN))
        with suppress(Exception), span(Category.KEEP):
            code_digest(GOLDEN)


def import_all(modules: Sequence[str]) -> None:
    """Import the modules that exist. Ignore failures: code that needs the module will fail again and report it."""
    for name in modules:
        with suppress(Exception), span(Category.IMPORT):
            importlib.import_module(name)
    with suppress(Exception), span(Category.IMPORT):
        # transformers 5 compiles and caches a thousand regular expressions when it first loads a model.
        mapping = importlib.import_module("transformers.conversion_mapping")
        mapping.get_checkpoint_conversion_mapping("llama")


def before_computing(*arguments: str) -> None:
    """In a server, before the fork that computes a reference: what every later fork would import and hash again.

    The last argument is the model's name.
    """
    import_architecture(checkpoints.named(arguments[-1]).folder)


def import_architecture(folder: Path) -> None:
    """Import the transformers module of a checkpoint's architecture, if there is one."""
    with suppress(Exception), span(Category.IMPORT):
        model_type = json.loads((folder / "config.json").read_text())["model_type"]
        auto = importlib.import_module("transformers.models.auto.configuration_auto")
        module = auto.model_type_to_module_name(model_type)
        importlib.import_module(f"transformers.models.{module}.modeling_{module}")


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
