"""The grid that every question runs on, and the one measurement per cell that all tracks read."""

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
    """Benchmarks that share measurements.

    ``setup_cache`` is empty on purpose: asv runs benchmarks that share it in one folder, which lasts as long as the run. The
    first to reach a cell leaves its measurement there.
    """

    timeout = 1800

    def setup_cache(self):
        pass


class GridOfCells(SharedRun):
    """A benchmark over model x dtype x option x wrapper.

    ``question`` defaults to the error of the logits.
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
    """Skip if HuggingFace's own logits are not finite: there is no error to compute, and TransformerLens did not fail."""
    if measurement.reference_nonfinite:
        raise SkipNotImplemented(measurement.no_accuracy)


def skip_without_golden(measurement):
    """Skip a cell without a golden: it has no figures against one, and did not fail."""
    if measurement.lacks_golden:
        raise SkipNotImplemented(measurement.no_truth)


def figure(value, reason):
    """A figure for asv. Without a value, skip if the reason is not applicable and fail otherwise.

    A value that is not finite fails too: asv takes NaN for a skip, and cannot show infinity.
    """
    if value is None and reason.startswith(NOT_APPLICABLE):
        raise SkipNotImplemented(reason)
    if value is None:
        raise CellFailed(reason)
    if not math.isfinite(value):
        raise NonFiniteLogits("an activation is not finite, so there is no error to compute")
    return float(value)


def answer(question, cell):
    """The answer, which the whole run shares."""
    return or_skip(shared, question, cell, server())


def server():
    """The measuring server. It runs in asv's folder for this run and stops with asv."""
    return Server(MEASURING, Path.cwd(), owner=os.getppid(), preload=PRELOAD_AND_RECORD)


def or_skip(function, *arguments):
    """The result of a function. Skip if the cell is not applicable or cannot be measured here; any other error fails."""
    try:
        return function(*arguments)
    except (NotApplicable, NotMeasured) as reason:
        raise SkipNotImplemented(str(reason)) from None
