"""Answer questions about cells in the environment of the TransformerLens under test: JSON lines in, JSON lines out.

``python -m tlbench.execution.worker`` reads one request a line, ``{"cell": [model, dtype, option, wrapper], "questions":
[...]}``, and writes a first line that says which versions it runs and then, for each request, the outcome of each question.
A cell's model is loaded once for all its questions. What TransformerLens prints goes to standard error.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import IO, Any

from tlbench.execution.memo import QUESTIONS, Question, attempt
from tlbench.grid import Cell

VERSIONS = ("transformer-lens", "torch", "transformers", "numpy", "tokenizers")


class _Subject:
    """A cell whose model is loaded when the first question needs it, after all that another process has to load it for."""

    def __init__(self, cell: Cell, questions: Sequence[Question[Cell, Any]]) -> None:
        self.cell = cell
        self.references = list(dict.fromkeys(kind for question in questions for kind in question.references))

    @cached_property
    def loaded(self) -> Any:
        from tlbench.questions.measure import load_cell

        return load_cell(self.cell, self.references)

    def answer(self, question: Question[Cell, Any]) -> dict[str, Any]:
        def measure(cell: Cell) -> Any:
            return question.measurer_function()(cell, self.loaded)

        return attempt(question, self.cell, measure).to_json()


def main() -> int:
    """Serve until the input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    _say(out, {"versions": {name: _version(name) for name in VERSIONS}})
    for answer in serve(sys.stdin):
        _say(out, answer)
    return 0


def serve(requests: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The answers to the requests, question by question. One model at a time is in memory."""
    for line in requests:
        request = json.loads(line)
        yield from _answers(Cell(*request["cell"]), [QUESTIONS[name] for name in request["questions"]])
        # The model is out of reach now, but for cycles.
        gc.collect()


def _answers(cell: Cell, questions: Sequence[Question[Cell, Any]]) -> Iterator[dict[str, Any]]:
    subject = _Subject(cell, questions)
    for question in questions:
        yield {"question": question.name, "outcome": subject.answer(question)}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _say(out: IO[str], value: dict[str, Any]) -> None:
    out.write(json.dumps(value) + "\n")
    out.flush()


if __name__ == "__main__":
    raise SystemExit(main())
