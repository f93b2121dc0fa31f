"""Ask questions about cells in another environment, and hear each answer as it comes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tlbench import arithmetic
from tlbench.exceptions import BadInput
from tlbench.execution.memo import Kind, Outcome, Question
from tlbench.grid import Cell
from tlbench.paths import package_dir

Questions = Sequence[Question[Cell, Any]]


@dataclass(frozen=True)
class Answers:
    """What was answered of one cell, by the question's name."""

    cell: Cell
    outcomes: Mapping[str, Outcome[Any]]


@dataclass
class Interview:
    """A series of cells, asked one after another in a process of an environment's own.

    Attributes:
        python: the environment's interpreter.
        questions: what each cell is asked.
        settings: environment variables of the process.
        versions: what the environment runs, known once the first answer is there.
    """

    python: Path
    questions: Questions
    settings: Mapping[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def ask(self, cells: Sequence[Cell], starting: Callable[[Cell], None] = lambda _: None) -> Iterator[Answers]:
        """Each cell's answers, in order. A process that dies fails the cell it was at, and another goes on.

        Raises:
            BadInput: if the environment cannot run tlbench at all.
        """
        waiting = list(cells)
        while waiting:
            with tempfile.TemporaryFile("w+") as errors, self._process(errors) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                self._greet(process.stdout, errors)
                while waiting:
                    cell = waiting[0]
                    starting(cell)
                    outcomes = self._ask_one(process, cell)
                    waiting.pop(0)
                    if len(outcomes) < len(self.questions):
                        process.wait()
                        yield Answers(cell, {**self._died(process.returncode), **outcomes})
                        break
                    yield Answers(cell, outcomes)

    def _process(self, errors: IO[str]) -> subprocess.Popen[str]:
        environment = arithmetic.environment(arithmetic.wanted(), {**os.environ, **self.settings})
        environment |= {"PYTHONPATH": str(package_dir().parent), "TRANSFORMERS_VERBOSITY": "error"}
        environment |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        return subprocess.Popen(
            [str(self.python), "-m", "tlbench.execution.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )

    def _greet(self, answers: IO[str], errors: IO[str]) -> None:
        line = answers.readline()
        if not line:
            errors.seek(0)
            last = errors.read().strip().splitlines()[-1:] or ["no message"]
            raise BadInput(f"{self.python} cannot run tlbench: {last[0]}")
        self.versions = json.loads(line)["versions"]

    def _ask_one(self, process: subprocess.Popen[str], cell: Cell) -> dict[str, Outcome[Any]]:
        assert process.stdin is not None
        assert process.stdout is not None
        request = {
            "cell": [cell.model, cell.dtype, cell.option, cell.wrapper],
            "questions": [q.name for q in self.questions],
        }
        outcomes: dict[str, Outcome[Any]] = {}
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return outcomes
        for question in self.questions:
            line = process.stdout.readline()
            if not line:
                break
            outcomes[question.name] = Outcome.from_json(json.loads(line)["outcome"], question.record)
        return outcomes

    def _died(self, status: int) -> dict[str, Outcome[Any]]:
        by = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        hint = ": it may have run out of memory" if status == -signal.SIGKILL else ""
        reason = f"the measuring process ended with {by}{hint}"
        return {question.name: Outcome(Kind.FAILED, reason=reason) for question in self.questions}
