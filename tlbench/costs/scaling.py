"""How do time and memory grow with length, batch and depth?"""

from __future__ import annotations

import gc
import statistics

import torch
from torch import Tensor

from tlbench import lens
from tlbench.costs.memory import peak_of
from tlbench.costs.operations import forward_pair, hf_model, token_ids
from tlbench.costs.slowdown import located, settle
from tlbench.costs.turns import Candidate, take_turns
from tlbench.device import synchronized_clock
from tlbench.exceptions import NotApplicable
from tlbench.grid import Attention, Operation, RuntimeCell
from tlbench.records.costs import Cost, Scaling
from tlbench.reference.lengths import longest

BUDGET_S = 0.5
LONGEST = 1024
"""In tokens. Longer contexts take minutes on a CPU."""
MOST_SEQUENCES = 16
FEW_BLOCKS = 8


def measure_scaling(cell: RuntimeCell) -> Scaling:
    """Measure the cost of a forward pass at doubling sizes.

    Raises:
        BadInput: if the model is not in the catalogue, or its checkpoint is missing or altered.
        CheckpointUnavailable: if it is a hub model that is not on this machine.
        NotApplicable: if this TransformerLens has no such wrapper, option or architecture, the model's context is too
            short, this machine lacks the device, or the operation is not a forward pass.
        CellFailed: if loading or running raised.
    """
    if cell.operation not in (Operation.FORWARD, Operation.CACHE):
        raise NotApplicable("growth is measured only for forward passes, with or without a cache")
    checkpoint = located(cell)
    settle(cell, checkpoint)
    tl = lens.load(cell.cell, checkpoint, readback=False)
    reference = hf_model(cell, checkpoint, Attention.EAGER)
    reasons: dict[str, str] = {}

    def cost(batch: int, length: int) -> Cost:
        ids = token_ids(RuntimeCell(**{**vars(cell), "shape": f"{batch}x{length}"}), checkpoint)
        return _cost(*forward_pair(cell.operation, tl, reference, ids))

    def to_block(block: int, ids: Tensor) -> Cost:
        def run(_: object) -> Tensor:
            with torch.inference_mode():
                return tl.stopped_at(ids, block)

        return _cost(Candidate(run))

    gc.disable()
    lengths = {n: cost(1, n) for n in _doubling(min(longest(checkpoint.folder), LONGEST))}
    batches = {n: cost(n, cell.length) for n in _doubling(MOST_SEQUENCES)}
    depths: dict[int, Cost] = {}
    if cell.operation is Operation.FORWARD:
        try:
            depths = {n: to_block(n, token_ids(cell, checkpoint)) for n in depths_of(tl.n_blocks)}
        except NotApplicable as error:
            reasons["depth"] = str(error)
    return Scaling(cell, lengths, batches, depths, reasons)


def depths_of(n_blocks: int) -> list[int]:
    """The numbers of blocks to run: doubling, or every number in a shallow model. Never all blocks, which is a full pass."""
    return list(range(1, n_blocks)) if n_blocks <= FEW_BLOCKS else _doubling(n_blocks - 1)


def _doubling(most: int) -> list[int]:
    return [2**k for k in range(most.bit_length())]


def _cost(tl: Candidate, reference: Candidate | None = None) -> Cost:
    candidates = [tl, reference] if reference else [tl]
    rounds = take_turns(candidates, synchronized_clock, BUDGET_S, fewest=3, warm_up=1)
    seconds = [statistics.median(side) for side in zip(*rounds, strict=True)]
    peaks = [peak_of(candidate) for candidate in candidates]
    if reference is None:
        return Cost(seconds[0], None, peaks[0], None)
    return Cost(*seconds, *peaks)
