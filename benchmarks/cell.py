"""The grid that every question is asked of, and the one measurement of each cell that all tracks read."""

import math
import os
from pathlib import Path

from asv_runner.benchmarks.mark import SkipNotImplemented

from tlbench import Attention, Cell, Dtype, NotApplicable, Option, ReferenceCell, Wrapper
from tlbench.catalogue import load
from tlbench.exceptions import CellFailed, NonFiniteLogits, NotMeasured
from tlbench.execution.client import Server
from tlbench.questions.answers import MEASURING, PRELOAD_AND_RECORD, shared
from tlbench.questions.attempts import NOT_APPLICABLE
from tlbench.questions.registry import ACCURACY, REFERENCE


class SharedRun:
    """Benchmarks that read each other's measurements.

    ``setup_cache`` is empty on purpose: benchmarks that share it run in one folder that lives as long as the run, and the
    first of them to meet a cell leaves its measurement there.
    """

    timeout = 1800

    def setup_cache(self):
        pass


class GridOfCells(SharedRun):
    """A benchmark over model x dtype x option x wrapper.

    A benchmark of another question than the error of the logits names it in ``question``.
    """

    question = ACCURACY
    params = [load().names(), [*map(str, Dtype)], [*map(str, Option)], [*map(str, Wrapper)]]
    param_names = ["model", "dtype", "option", "wrapper"]

    def setup(self, model, dtype, option, wrapper):
        self.measurement = answer(self.question, Cell(model, dtype, option, wrapper))


class GridOfReferences(SharedRun):
    """A benchmark of HuggingFace itself, over model x dtype x attention."""

    params = [load().names(), [*map(str, Dtype)], [*map(str, Attention)]]
    param_names = ["model", "dtype", "attention"]

    def setup(self, model, dtype, attention):
        self.measurement = answer(REFERENCE, ReferenceCell(model, dtype, attention))


def accuracy(measurement):
    """The error against HuggingFace."""
    skip_without_reference(measurement)
    return measurement.require_accuracy()


def skip_without_reference(measurement):
    """Where HuggingFace's own logits are not finite there is no error to state, which is no failure of TransformerLens's."""
    if measurement.reference_nonfinite:
        raise SkipNotImplemented(measurement.no_accuracy)


def skip_without_golden(measurement):
    """A cell without a golden has no figure against it, which is no failure."""
    if measurement.lacks_golden:
        raise SkipNotImplemented(measurement.no_truth)


def figure(value, reason):
    """A figure for asv; where there is none, a skip if the reason says n/a, else a failure; a failure if it is not finite.

    asv takes a NaN for a skip and cannot show an infinity.
    """
    if value is None and reason.startswith(NOT_APPLICABLE):
        raise SkipNotImplemented(reason)
    if value is None:
        raise CellFailed(reason)
    if not math.isfinite(value):
        raise NonFiniteLogits("an activation is not finite, so its error cannot be stated")
    return float(value)


def answer(question, cell):
    """The answer that the whole run shares."""
    return or_skip(shared, question, cell, server())


def server():
    """The server that measures: it runs in asv's folder of this run, and ends with asv."""
    return Server(MEASURING, Path.cwd(), owner=os.getppid(), preload=PRELOAD_AND_RECORD)


def or_skip(function, *arguments):
    """What a function returns; asv's skip, where the cell cannot exist or be measured here; else a failure."""
    try:
        return function(*arguments)
    except (NotApplicable, NotMeasured) as reason:
        raise SkipNotImplemented(str(reason)) from None
