"""How do time and memory grow with length, batch and depth?"""

from __future__ import annotations

import gc
import statistics
from dataclasses import replace

from tlbench import lens
from tlbench.costs.memory import peak_of
from tlbench.costs.operations import RUNS, token_ids, without_gradients
from tlbench.costs.slowdown import located, settle
from tlbench.costs.turns import Candidate, take_turns
from tlbench.device import synchronized_clock
from tlbench.exceptions import NotApplicable
from tlbench.grid import Attention, Operation, RuntimeCell
from tlbench.records.costs import Cost, Scaling
from tlbench.reference import huggingface
from tlbench.reference.lengths import longest

BUDGET_S = 0.5
LONGEST = 1024
"""In tokens. Longer contexts take minutes on a CPU."""
MOST_SEQUENCES = 16
FEW_BLOCKS = 8


def measure_scaling(cell: RuntimeCell) -> Scaling:
    """Measure the cost of a forward pass at doubling sizes.

    Raises what :func:`tlbench.costs.slowdown.measure_slowdown` raises, and NotApplicable for any other operation.
    """
    if cell.operation not in (Operation.FORWARD, Operation.CACHE):
        raise NotApplicable("growth is measured only for forward passes, with or without a cache")
    checkpoint = located(cell)
    settle(cell, checkpoint)
    tl = lens.load(cell.cell, checkpoint, readback=False)
    reference = huggingface.placed_model(checkpoint, cell.dtype, Attention.EAGER)
    in_tl, in_hf = RUNS[cell.operation]

    def cost(batch: int, length: int) -> Cost:
        ids = token_ids(replace(cell, shape=f"{batch}x{length}"), checkpoint)
        return _cost(in_tl(tl, ids), in_hf(reference, ids))

    gc.disable()
    lengths = {n: cost(1, n) for n in _doubling(min(longest(checkpoint.folder), LONGEST))}
    batches = {n: cost(n, cell.length) for n in _doubling(MOST_SEQUENCES)}
    depths: dict[int, Cost] = {}
    reasons: dict[str, str] = {}
    if cell.operation is Operation.FORWARD:
        try:
            ids = token_ids(cell, checkpoint)
            depths = {n: _cost(without_gradients(tl.stopped_at, ids, n)) for n in depths_of(tl.n_blocks)}
        except NotApplicable as error:
            reasons["depth"] = str(error)
    return Scaling(cell, lengths, batches, depths, reasons)


def depths_of(n_blocks: int) -> list[int]:
    """The numbers of blocks to run: doubling, or every number in a shallow model. Never all blocks, which is a full pass."""
    return list(range(1, n_blocks)) if n_blocks <= FEW_BLOCKS else _doubling(n_blocks - 1)


def _doubling(most: int) -> list[int]:
    return [2**k for k in range(most.bit_length())]


def _cost(*candidates: Candidate) -> Cost:
    """The cost of a TransformerLens candidate, and of HuggingFace's if it is given."""
    rounds = take_turns(candidates, synchronized_clock, BUDGET_S, fewest=3, warm_up=1)
    seconds = [statistics.median(side) for side in zip(*rounds, strict=True)]
    peaks = [peak_of(candidate) for candidate in candidates]
    return Cost(*seconds, *peaks) if len(candidates) > 1 else Cost(seconds[0], None, peaks[0], None)
