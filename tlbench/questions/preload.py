"""What a measuring server does once for all its forks: import everything, and verify which TransformerLens it is."""

from __future__ import annotations

import os
from contextlib import suppress

from tlbench import catalogue
from tlbench.environments import metadata, provenance
from tlbench.environments.sources import code_digest
from tlbench.lens import modules as lens
from tlbench.paths import outcomes_dir
from tlbench.questions import answers, registry
from tlbench.reference import preload as reference
from tlbench.spans import Category, span

MODULES = (*reference.MODULES, *lens.MODULES, "einops._torch_specific", "tlbench.questions.accuracy")


def import_libraries() -> None:
    """Import what versions of TransformerLens have in common, but no TransformerLens."""
    with reference.collected_once():
        reference.import_all((*reference.MODULES, *lens.LIBRARIES))
        _digest_code()


def import_everything() -> None:
    """Import every module that imports. The cell that needs a missing or broken one runs into it again, and reports it."""
    provenance.place()
    with reference.collected_once():
        reference.import_all(MODULES)
        _digest_code()


def _digest_code() -> None:
    """Compute the digests of the measuring code, which forks inherit."""
    with suppress(Exception), span(Category.KEEP):
        for question in registry.QUESTIONS.values():
            code_digest(question.module)


def preload() -> None:
    """:func:`import_everything`, then verify what was imported."""
    import_everything()
    with reference.collected_once():
        with suppress(Exception), span(Category.VERIFY):
            answers.setting()
        with suppress(Exception), span(Category.KEEP):
            catalogue.load()


def preload_and_record() -> None:
    """:func:`preload`, then write this environment's metadata into the outcomes folder of an asv run.

    A fork writes it, because it asks the GPU for its name: a process that touched CUDA cannot fork others that use it.
    """
    preload()
    if (outcomes := outcomes_dir()) is None:
        return
    if pid := os.fork():
        os.waitpid(pid, 0)
        return
    try:
        with span(Category.KEEP):
            metadata.record(outcomes)
    finally:
        os._exit(0)
