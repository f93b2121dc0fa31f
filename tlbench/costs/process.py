"""TransformerLens's side of an operation alone, for asv's own time and memory benchmarks."""

from __future__ import annotations

import gc
from dataclasses import replace
from functools import lru_cache, partial

from tlbench import lens
from tlbench.costs.operations import RUNS, token_ids
from tlbench.costs.slowdown import located, settle
from tlbench.costs.stack import with_room
from tlbench.environments.metadata import record
from tlbench.exceptions import NotApplicable
from tlbench.grid import Operation, Option, RuntimeCell
from tlbench.paths import outcomes_dir
from tlbench.questions.answers import setting


class Model:
    """A loaded model and its operations. ``run`` is the timed part. Raises as the measurement of a slowdown does."""

    def __init__(self, cell: RuntimeCell) -> None:
        _begin()
        checkpoint = located(cell)
        settle(cell, checkpoint)
        tl, ids = lens.load(cell.cell, checkpoint, readback=False), token_ids(cell, checkpoint)
        self._candidates = {operation: in_tl(tl, ids) for operation, (in_tl, _) in RUNS.items()}

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
        _begin()
        self._cell = cell.cell
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
        unprocessed = replace(self._cell, option=Option.UNPROCESSED)
        return with_room(partial(lens.load, unprocessed, self._checkpoint, readback=False))

    def process(self) -> None:
        """Process the weights with the cell's option. Raises NotApplicable if that is ``unprocessed``."""
        if self._cell.option is Option.UNPROCESSED:
            raise NotApplicable("nothing to process: the option is unprocessed")
        assert self._loaded is not None
        with_room(partial(self._loaded.process, self._cell.option))


def _begin() -> None:
    """Verify which TransformerLens is imported, and write this process's metadata: no server measures these benchmarks."""
    setting()
    if outcomes := outcomes_dir():
        record(outcomes)


# Each is loaded only once: asv runs setup before every call.
loaded = lru_cache(maxsize=1)(Model)
loading = lru_cache(maxsize=1)(Loading)
