"""What a server that measures does once for all its forks: imports, and the proof of origin."""

from __future__ import annotations

import os
from contextlib import suppress

from tlbench import catalogue
from tlbench.environments import metadata
from tlbench.lens import modules as lens
from tlbench.paths import outcomes_dir
from tlbench.questions import answers
from tlbench.reference import preload as reference
from tlbench.spans import Category, span

MODULES = (*reference.MODULES, *lens.MODULES, "einops._torch_specific", "tlbench.questions.accuracy")


def preload() -> None:
    """Import what exists; what this version lacks or fails to import is met again, and told, by the cell that needs it."""
    with reference.collected_once():
        reference.import_all(MODULES)
        with suppress(Exception), span(Category.VERIFY):
            answers.setting()
        with suppress(Exception), span(Category.KEEP):
            catalogue.load()


def preload_and_record() -> None:
    """As :func:`preload`; then write the metadata of this environment into the folder of outcomes of a run of asv.

    A fork does that: it asks the GPU for its name, and a process that touched CUDA cannot fork others that use it.
    """
    preload()
    if (outcomes := outcomes_dir()) is None:
        return
    pid = os.fork()
    if pid == 0:
        try:
            with span(Category.KEEP):
                metadata.record(outcomes)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
