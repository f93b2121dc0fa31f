"""TransformerLens's side of an operation alone, for those who measure time or memory themselves: asv's own benchmarks."""

from __future__ import annotations

import gc
from functools import lru_cache, partial

from tlbench import lens
from tlbench.costs.operations import own_candidate, token_ids
from tlbench.costs.slowdown import located, settle
from tlbench.costs.stack import with_room
from tlbench.costs.turns import Candidate
from tlbench.exceptions import CheckpointUnavailable, NotApplicable
from tlbench.grid import Operation, Option, RuntimeCell
from tlbench.questions.answers import setting


class Model:
    """A loaded model and what can be done with it. ``run`` is what is to be timed."""

    def __init__(self, cell: RuntimeCell) -> None:
        setting()  # proves which TransformerLens is imported
        checkpoint = located(cell)
        settle(cell, checkpoint)
        tl, ids = lens.load(cell.cell, checkpoint, readback=False), token_ids(cell, checkpoint)
        runs = [operation for operation in Operation if operation not in (Operation.LOADING, Operation.PROCESSING)]
        self._candidates: dict[Operation, Candidate] = {operation: own_candidate(operation, tl, ids) for operation in runs}

    def rest(self) -> None:
        """Drop what a run leaves, such as gradients: before each that is timed."""
        for candidate in self._candidates.values():
            candidate.prepare()

    def run(self, operation: Operation) -> object:
        """Do it once."""
        return with_room(partial(self._candidates[operation].run, None))


class Loading:
    """A checkpoint that can be loaded, and a model, new each time, whose weights can be processed."""

    def __init__(self, cell: RuntimeCell) -> None:
        setting()
        self._option = cell.option
        self._unprocessed = RuntimeCell(**{**vars(cell), "option": Option.UNPROCESSED}).cell
        self._checkpoint = located(cell)
        settle(cell, self._checkpoint)
        self._loaded: lens.Lens | None = None

    def rest(self) -> None:
        """Have a new unprocessed model to process."""
        self._loaded = None
        gc.collect()  # asv's timer has switched the collector off
        self._loaded = self.load()

    def load(self) -> lens.Lens:
        """From the files to a model that can run, unprocessed."""
        return with_room(partial(lens.load, self._unprocessed, self._checkpoint, readback=False))

    def process(self) -> None:
        """Process the weights as the cell's option asks.

        Raises:
            NotApplicable: if it is no option.
        """
        if self._option is Option.UNPROCESSED:
            raise NotApplicable("without an option there is no processing")
        assert self._loaded is not None
        with_room(partial(self._loaded.process, self._option))


@lru_cache(maxsize=1)
def loaded(cell: RuntimeCell) -> Model:
    """The cell's model, loaded once: asv sets up before every call.

    Raises:
        NotApplicable: if there is none here, its checkpoint's absence included.
        CellFailed: if loading raised.
    """
    try:
        return Model(cell)
    except CheckpointUnavailable as reason:
        raise NotApplicable(str(reason)) from None


@lru_cache(maxsize=1)
def loading(cell: RuntimeCell) -> Loading:
    """The same, for loading and processing themselves."""
    try:
        return Loading(cell)
    except CheckpointUnavailable as reason:
        raise NotApplicable(str(reason)) from None
