"""One thing is measured once, however many statistics are read from it.

Within a run the first reader of a cell measures it and leaves the outcome in the run's folder, failures included; the
others read it. Between runs a figure is kept under a hash of everything that decides it (a cell is deterministic), so
that an interrupted run loses nothing; failures are not kept, since a failure may pass (memory, disk).
Set ``TLBENCH_REMEASURE=1`` to measure again.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from tlbench import arithmetic, device
from tlbench.environments.sources import code_digest, libraries
from tlbench.exceptions import CellFailed, NotApplicable, NotMeasured, TlbenchError
from tlbench.files import canonical_json, locked, write_json
from tlbench.grid import Attention, Cell, Import, ReferenceCell, RuntimeCell
from tlbench.paths import cache_dir
from tlbench.records.costs import Memory, Rounds, Scaling, Slowdown
from tlbench.records.depth_profile import DepthProfile
from tlbench.records.inside import ContextLength, Generation, Gradients, HookTruth, Reading
from tlbench.records.measurement import ErrorBudget, Measurement, NoiseFloor, ReferenceMeasurement
from tlbench.spans import Category, span

REMEASURE_VARIABLE = "TLBENCH_REMEASURE"
TRANSFORMER_LENS = "transformer-lens"


class Record(Protocol):
    """What can be kept."""

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """What :meth:`to_json` wrote."""


R = TypeVar("R", bound=Record)
S = TypeVar("S", Cell, ReferenceCell, RuntimeCell, Import)


@dataclass(frozen=True)
class Question(Generic[S, R]):
    """Something that can be asked of every cell.

    Attributes:
        name: how its files are called.
        cell: what it is asked of.
        measurer: ``module:function`` that answers it; imported only where something is measured.
        record: the kind of answer.
        references: which of HuggingFace's logits it reads. Another process computes them, and must have ended before the
            cell's own model is loaded: two large models at once would not fit.
        is_kept: whether the answer is kept between runs, which only what is deterministic may be.
    """

    name: str
    cell: type[S]
    measurer: str
    record: type[R]
    references: tuple[Attention, ...] = ()
    is_kept: bool = True

    @property
    def module(self) -> str:
        """The module of its measurer: all that this imports decides its figures."""
        return self.measurer.split(":")[0]

    def measurer_function(self) -> Callable[..., R]:
        """What answers it, by measuring."""
        module, function = self.measurer.split(":")
        measurer: Callable[..., R] = getattr(importlib.import_module(module), function)
        return measurer


ACCURACY = Question[Cell, Measurement](
    "accuracy", Cell, "tlbench.questions.measure:measure", Measurement, (Attention.EAGER,)
)
REFERENCE = Question[ReferenceCell, ReferenceMeasurement](
    "reference", ReferenceCell, "tlbench.questions.measure:measure_reference", ReferenceMeasurement
)
NOISE_FLOOR = Question[Cell, NoiseFloor](
    "noise-floor", Cell, "tlbench.questions.noise_floor:measure_floor", NoiseFloor, tuple(Attention)
)
ERROR_BUDGET = Question[Cell, ErrorBudget](
    "error-budget", Cell, "tlbench.questions.error_budget:measure_budget", ErrorBudget
)
DEPTH = Question[Cell, DepthProfile]("depth", Cell, "tlbench.questions.depth:measure_depth", DepthProfile)
HOOKS = Question[Cell, HookTruth]("hooks", Cell, "tlbench.questions.hooks:measure_hooks", HookTruth)
READING = Question[Cell, Reading]("reading", Cell, "tlbench.questions.reading:measure_reading", Reading, (Attention.EAGER,))
GENERATION = Question[Cell, Generation]("generation", Cell, "tlbench.questions.generation:measure_generation", Generation)
GRADIENTS = Question[Cell, Gradients]("gradients", Cell, "tlbench.questions.gradients:measure_gradients", Gradients)
CONTEXT_LENGTH = Question[Cell, ContextLength](
    "context-length", Cell, "tlbench.questions.context_length:measure_context", ContextLength
)

SLOWDOWN = Question[RuntimeCell, Slowdown](
    "slowdown", RuntimeCell, "tlbench.costs.slowdown:measure_slowdown", Slowdown, is_kept=False
)
ROUNDS = Question[RuntimeCell, Rounds]("rounds", RuntimeCell, "tlbench.costs.slowdown:measure_rounds", Rounds, is_kept=False)
IMPORT = Question[Import, Slowdown]("import", Import, "tlbench.costs.slowdown:measure_import", Slowdown, is_kept=False)
MEMORY = Question[RuntimeCell, Memory]("memory", RuntimeCell, "tlbench.costs.memory:measure_memory", Memory, is_kept=False)
SCALING = Question[RuntimeCell, Scaling](
    "scaling", RuntimeCell, "tlbench.costs.scaling:measure_scaling", Scaling, is_kept=False
)

_INSIDE = (DEPTH, HOOKS, READING, GENERATION, GRADIENTS, CONTEXT_LENGTH)
_RUNTIME = (SLOWDOWN, ROUNDS, IMPORT, MEMORY, SCALING)
_ALL = (ACCURACY, REFERENCE, NOISE_FLOOR, ERROR_BUDGET, *_INSIDE, *_RUNTIME)
QUESTIONS: dict[str, Question[Any, Any]] = {question.name: question for question in _ALL}


class Kind(StrEnum):
    """How a cell ended."""

    MEASURED = "measured"
    NOT_APPLICABLE = "n/a"
    """This TransformerLens has no such wrapper, option or architecture."""
    NOT_MEASURED = "not measured"
    """It could exist: its model is not on this machine, or it needs a golden that cannot be had here."""
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """A record, or the reason why there is none."""

    kind: Kind
    record: R | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"kind": self.kind.value, "record": self.record.to_json() if self.record else None, "reason": self.reason}

    @classmethod
    def from_json(cls, data: dict[str, Any], record: type[R]) -> Outcome[R]:
        """The outcome that :meth:`to_json` wrote."""
        return cls(Kind(data["kind"]), record.from_json(data["record"]) if data["record"] else None, data["reason"])

    def require(self) -> R:
        """The record.

        Raises:
            NotApplicable: if the cell cannot exist.
            NotMeasured: if it could, and was not measured here.
            CellFailed: if it was and raised.
        """
        if self.record is not None:
            return self.record
        errors = {Kind.NOT_APPLICABLE: NotApplicable, Kind.NOT_MEASURED: NotMeasured}
        raise errors.get(self.kind, CellFailed)(self.reason)


def file_name(question: Question[S, R], cell: S) -> str:
    """The name of an outcome in a folder of outcomes."""
    return f"{question.name}-{str(cell).replace(' ', '-')}.json"


def shared(
    question: Question[S, R],
    cell: S,
    run_folder: Path,
    log_folder: Path | None = None,
    answer: Callable[[Question[S, R], S], Outcome[R]] | None = None,
) -> R:
    """The answer, measured now if no other process of this run has done so.

    Args:
        question: what is asked.
        cell: of which cell.
        run_folder: a folder that lives as long as the run.
        log_folder: where outcomes are kept for those who ask later why a cell failed or was skipped.
        answer: who is asked if nobody was before; by default :func:`attempt`, in this process.

    Raises:
        NotApplicable: if the cell cannot exist.
        NotMeasured: if it could, and its hub model or golden cannot be had here.
        CellFailed: if it could and raised.
    """
    path = run_folder / file_name(question, cell)
    with span(Category.ANSWER):
        if not path.exists():
            with locked(path.with_suffix(".lock")):
                if not path.exists():
                    outcome = (answer or attempt)(question, cell)
                    write_json(path, outcome.to_json())
                    if log_folder is not None:
                        asked = {"question": question.name, "cell": str(cell)}
                        write_json(log_folder / path.name, {**outcome.to_json(), **asked})
        return Outcome.from_json(json.loads(path.read_text()), question.record).require()


def attempt(question: Question[S, R], cell: S, measure: Callable[[S], R] | None = None) -> Outcome[R]:
    """Measure a cell, or take the figure that was kept; whatever goes wrong becomes a reason."""
    try:
        with span(Category.KEEP):
            path = kept_path(question, cell)
            if path and is_there(path):
                return Outcome(Kind.MEASURED, question.record.from_json(json.loads(path.read_text())))
            with span(Category.ARITHMETIC):  # what is anything else within has a span of its own
                record = (measure or question.measurer_function())(cell)
            if path and is_final(record):
                write_json(path, record.to_json())
            return Outcome(Kind.MEASURED, record)
    except NotApplicable as error:
        return Outcome(Kind.NOT_APPLICABLE, reason=str(error))
    except NotMeasured as error:
        return Outcome(Kind.NOT_MEASURED, reason=str(error))
    except TlbenchError as error:
        return Outcome(Kind.FAILED, reason=str(error))
    except Exception as error:
        return Outcome(Kind.FAILED, reason=f"{type(error).__name__}: {error}")


def is_final(record: Record) -> bool:
    """Whether another run would find the same, so that a figure may be kept."""
    return record.is_final if isinstance(record, Measurement | ReferenceMeasurement) else True


def is_there(path: Path | None) -> bool:
    """Whether a figure was kept at a path by an earlier run, and may be used."""
    return path is not None and path.exists() and not os.environ.get(REMEASURE_VARIABLE)


def kept_path(question: Question[S, R], cell: S) -> Path | None:
    """Where a cell's figure is kept: a name made of everything that decides it; None where it is not.

    Raises:
        WrongTransformerLens: if the imported TransformerLens is not the commit asked for, so that no figure may be kept.
        CellFailed: if TransformerLens does not import.
    """
    proved = setting()
    if not question.is_kept or isinstance(cell, Import):
        return None
    key = {"question": question.name, "cell": str(cell), **proved, "checkpoint": _pinned(cell.model)}
    key["code"] = code_digest(question.module)
    name = hashlib.sha256(canonical_json(key).encode()).hexdigest()
    return cache_dir() / "cells" / name[:2] / f"{name}.json"


@lru_cache
def setting() -> dict[str, Any]:
    """What decides every cell alike: the code under test, all libraries behind it, the arithmetic and the device."""
    from tlbench.environments.provenance import prove
    from tlbench.lens import import_transformer_lens

    import_transformer_lens()
    versions = libraries(TRANSFORMER_LENS, "torch", "transformers")
    return {
        "transformer_lens": prove().package_digest,
        # Whatever its commit, TransformerLens calls itself 0.0.0 or its release; its files are what counts.
        "libraries": {name: number for name, number in versions.items() if name != TRANSFORMER_LENS},
        "arithmetic": asdict(arithmetic.establish()),
        "device": device.current(),
    }


def _pinned(name: str) -> dict[str, Any]:
    from tlbench import catalogue as catalogues
    from tlbench.checkpoints.store import read_pins

    catalogue = catalogues.load()
    model = catalogue.get(name)
    entry = {field: value for field, value in asdict(model).items() if field != "path"}  # the files say what lies there
    return {**entry, "files": read_pins(catalogue).get(name)}
