"""Measure many commits of TransformerLens in one environment, each with its own package and in its own processes.

A station imports torch, transformers and what all commits import once. For each commit a server is forked from it, which
imports that commit's package from a folder and proves it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from tlbench.environments import reference_python
from tlbench.environments.provenance import PACKAGE_VARIABLE
from tlbench.exceptions import TlbenchError
from tlbench.execution.client import Server, beside
from tlbench.grid import Cell
from tlbench.questions.answers import (
    IMPORT_LIBRARIES,
    MEASURING,
    PRELOAD,
    REMEASURE_VARIABLE,
    Answers,
    Questions,
    ask_each,
    file_name,
    is_small,
    reference_server,
)
from tlbench.reference import preload as reference
from tlbench.reference.preload import before_computing

IMPORT_LENS = "tlbench.lens:import_transformer_lens"
SHARE_CORES = {"OMP_WAIT_POLICY": "PASSIVE"}
"""torch's threads give their cores away while they wait. Otherwise two cells at once take four times as long."""


@dataclass
class Station:
    """The servers of one environment.

    Attributes:
        is_fresh: whether it measures again what is kept.
    """

    python: Path
    is_fresh: bool = False
    _computed: set[tuple[str, str, str]] = field(default_factory=set)
    _number: int = 0

    def close(self) -> None:
        """End all servers."""
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def serving(self, package: Path) -> Iterator[Server]:
        """The measuring server of a commit, for the duration of the block.

        Raises CellFailed if the commit's TransformerLens does not import.
        """
        self._number += 1
        settings = {PACKAGE_VARIABLE: str(package)} | ({REMEASURE_VARIABLE: "1"} if self.is_fresh else {})
        server = Server(f"{MEASURING}-{self._number}", self._folder, self.python, os.getpid(), PRELOAD, settings, self._base)
        try:
            server.call(IMPORT_LENS)
            yield server
        finally:
            server.stop()

    def measure(
        self, server: Server, questions: Questions, cells: Sequence[Cell], at_once: int | None = None
    ) -> Iterator[Answers]:
        """Each cell's answers, in order; by default as many at once as there are cores if the models are small."""
        self._compute_ahead(questions, cells)
        if at_once is None:
            at_once = (os.cpu_count() or 1) if all(is_small(model) for model in {cell.model for cell in cells}) else 1
        for answers in ask_each(server, [(cell, questions) for cell in cells], at_once=at_once):
            for question in questions:  # the next commit's come under the same names
                (self._folder / file_name(question, answers.cell)).unlink(missing_ok=True)
            yield answers

    def _compute_ahead(self, questions: Questions, cells: Sequence[Cell]) -> None:
        """Compute what the questions will read of HuggingFace and the golden, once per model and dtype."""
        for model, dtype in dict.fromkeys((cell.model, cell.dtype) for cell in cells):
            for question in questions:
                for server, address in ((self._goldens, question.golden), (self._references, question.reference)):
                    if address and (address, model, dtype) not in self._computed:
                        self._computed.add((address, model, dtype))
                        with suppress(TlbenchError):  # the cell will fail in the same way, and report it
                            server.call(address, [dtype], model, before=before_computing)

    @cached_property
    def _folder(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="tlbench-"))

    @cached_property
    def _imports(self) -> Server:
        return Server("imports", self._folder, self.python, os.getpid(), reference.PRELOAD, SHARE_CORES)

    @cached_property
    def _base(self) -> Server:
        return Server("libraries", self._folder, self.python, os.getpid(), IMPORT_LIBRARIES, forked_from=self._imports)

    @cached_property
    def _references(self) -> Server:
        return replace(reference_server(self._folder, self.python, os.getpid(), {}), forked_from=self._imports)

    @cached_property
    def _goldens(self) -> Server:
        interpreter = reference_python(self.python)
        is_own = interpreter == self.python
        base = self._imports if is_own else beside("imports", python=interpreter, preload=reference.PRELOAD)
        return replace(reference_server(self._folder, interpreter, os.getpid(), {}), forked_from=base)
