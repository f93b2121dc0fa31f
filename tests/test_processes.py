"""asv's own measures of costs skip what cannot exist, and process a new model every time."""

import pytest
from asv_runner.benchmarks.mark import SkipNotImplemented

from benchmarks.runtime import Process, ProcessLoading, ProcessProcessing
from tlbench.arithmetic import LANE_VARIABLE
from tlbench.costs import process as costs
from tlbench.exceptions import NotApplicable

CELL = ("zoo-gpt2", "float32", "all_options", "HookedTransformer")
RUN = (*CELL, "1x64", "cpu")
STEPS = [
    (Process, RUN, "setup"),
    (ProcessLoading, CELL, "time_loading"),
    (ProcessLoading, CELL, "peakmem_loading"),
    (ProcessProcessing, CELL, "setup"),
    (ProcessProcessing, CELL, "time_processing"),
    (ProcessProcessing, CELL, "peakmem_processing"),
]


class Absent:
    """A checkpoint of which this TransformerLens has no such model."""

    def load(self):
        raise NotApplicable("no such wrapper")

    rest = process = load


@pytest.mark.parametrize(("benchmark", "cell", "step"), STEPS)
def test_a_wrapper_that_is_not_there_is_skipped(monkeypatch, benchmark, cell, step):
    monkeypatch.setenv(LANE_VARIABLE, "native")  # in the other lane nothing is timed
    monkeypatch.setattr(costs, "loading", lambda _: Absent())
    monkeypatch.setattr(costs, "loaded", lambda _: Absent().load())
    case = benchmark()
    if step != "setup":
        case.loads = Absent()
    with pytest.raises(SkipNotImplemented, match="no such wrapper"):
        getattr(case, step)(*cell)


def test_processed_weights_are_never_processed_again():
    """asv sets up before each sample, and a sample is one call."""
    assert (ProcessProcessing.number, ProcessProcessing.warmup_time) == (1, 0)
