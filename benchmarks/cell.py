"""The grid that every question runs on, and the one measurement per cell that all tracks read."""

import math
import os
import sys
from functools import lru_cache
from pathlib import Path

from asv_runner.benchmarks.mark import SkipNotImplemented

from tlbench import Attention, Cell, Dtype, NotApplicable, Option, ReferenceCell
from tlbench.catalogue import load
from tlbench.exceptions import CellFailed, NonFiniteLogits, NotMeasured
from tlbench.grid import words_of
from tlbench.questions.answers import recording_server, shared
from tlbench.questions.attempts import NOT_APPLICABLE
from tlbench.questions.registry import ACCURACY, REFERENCE


class SharedRun:
    """Benchmarks that share measurements.

    ``setup_cache`` is empty on purpose: asv runs benchmarks that share it in one folder, which lasts as long as the run. The
    first to reach a cell leaves its measurement there. asv ignores classes that start with an underscore.
    """

    timeout = 1800
    version = "1"  # a class whose figures change their meaning sets its own

    def setup_cache(self):
        pass


class GridOfCells(SharedRun):
    """A benchmark over models in the wrappers that load them x dtype x option. The default question is the logits' error."""

    question = ACCURACY
    params = [load().loadable(), [*map(str, Dtype)], [*map(str, Option)]]
    param_names = ["model and wrapper", "dtype", "option"]

    def setup(self, *parameters):
        self.measurement = answer(self.question, Cell(*words_of(*parameters)))


class GridOfEnds(GridOfCells):
    """The same with no option and with all of them. What a single option does in between is seen in the logits."""

    params = [*GridOfCells.params[:2], [str(Option.UNPROCESSED), str(Option.ALL_OPTIONS)]]


class GridOfReferences(SharedRun):
    """A benchmark of HuggingFace itself, over model x dtype x attention."""

    params = [load().names(), [*map(str, Dtype)], [*map(str, Attention)]]
    param_names = ["model", "dtype", "attention"]

    def setup(self, model, dtype, attention):
        self.measurement = answer(REFERENCE, ReferenceCell(model, dtype, attention))


def accuracy(measurement):
    """The error against HuggingFace. If its own logits are not finite there is none, and TransformerLens did not fail."""
    skip_if(measurement.reference_nonfinite, measurement.no_accuracy)
    return measurement.require_accuracy()


def skip_if(condition, reason):
    """Skip a cell that has no figure and did not fail."""
    if condition:
        raise SkipNotImplemented(reason)


def figure(value, reason):
    """A figure for asv. Without a value, skip if the reason is not applicable and fail otherwise.

    A value that is not finite fails too: asv takes NaN for a skip, and cannot show infinity.
    """
    skip_if(value is None and reason.startswith(NOT_APPLICABLE), reason)
    if value is None:
        raise CellFailed(reason)
    if not math.isfinite(value):
        raise NonFiniteLogits("an activation is not finite, so there is no error to compute")
    return float(value)


@lru_cache(maxsize=4096)
def answer(question, cell):
    """The answer, which the whole run shares. The server that measures it runs in asv's folder and stops with asv."""
    server = recording_server(Path.cwd(), Path(sys.executable), os.getppid())
    return or_skip(shared, question, cell, server)


def or_skip(function, *arguments):
    """The result of a function. Skip if the cell is not applicable or cannot be measured here; any other error fails."""
    try:
        return function(*arguments)
    except (NotApplicable, NotMeasured) as reason:
        raise SkipNotImplemented(str(reason)) from None
