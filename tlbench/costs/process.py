"""TransformerLens's side of an operation alone, for asv's own time and memory benchmarks."""

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
    """A loaded model and its operations. ``run`` is the timed part."""

    def __init__(self, cell: RuntimeCell) -> None:
        setting()  # verifies which TransformerLens is imported
        checkpoint = located(cell)
        settle(cell, checkpoint)
        tl, ids = lens.load(cell.cell, checkpoint, readback=False), token_ids(cell, checkpoint)
        runs = [operation for operation in Operation if operation not in (Operation.LOADING, Operation.PROCESSING)]
        self._candidates: dict[Operation, Candidate] = {operation: own_candidate(operation, tl, ids) for operation in runs}

    def rest(self) -> None:
        """Drop what a run leaves behind, such as gradients. Call before each timed run."""
        for candidate in self._candidates.values():
            candidate.prepare()

    def run(self, operation: Operation) -> object:
        """Run the operation once."""
        return with_room(partial(self._candidates[operation].run, None))


class Loading:
    """A checkpoint to load, and a fresh model whose weights can be processed."""

    def __init__(self, cell: RuntimeCell) -> None:
        setting()
        self._option = cell.option
        self._unprocessed = RuntimeCell(**{**vars(cell), "option": Option.UNPROCESSED}).cell
        self._checkpoint = located(cell)
        settle(cell, self._checkpoint)
        self._loaded: lens.Lens | None = None

    def rest(self) -> None:
        """Load a fresh, unprocessed model to process."""
        self._loaded = None
        gc.collect()  # asv's timer switches the collector off
        self._loaded = self.load()

    def load(self) -> lens.Lens:
        """Load the files into a runnable model, unprocessed."""
        return with_room(partial(lens.load, self._unprocessed, self._checkpoint, readback=False))

    def process(self) -> None:
        """Process the weights with the cell's option.

        Raises:
            NotApplicable: if the option is ``unprocessed``.
        """
        if self._option is Option.UNPROCESSED:
            raise NotApplicable("nothing to process: the option is unprocessed")
        assert self._loaded is not None
        with_room(partial(self._loaded.process, self._option))


@lru_cache(maxsize=1)
def loaded(cell: RuntimeCell) -> Model:
    """The cell's model, loaded only once: asv runs setup before every call.

    Raises:
        NotApplicable: if this TransformerLens does not support the cell, or its checkpoint is not on this machine.
        CellFailed: if loading raised.
    """
    try:
        return Model(cell)
    except CheckpointUnavailable as reason:
        raise NotApplicable(str(reason)) from None


@lru_cache(maxsize=1)
def loading(cell: RuntimeCell) -> Loading:
    """Like :func:`loaded`, for loading and processing themselves."""
    try:
        return Loading(cell)
    except CheckpointUnavailable as reason:
        raise NotApplicable(str(reason)) from None
