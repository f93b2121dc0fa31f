"""The noise floor of a cell: how much runs that should agree differ. No error below it means anything."""

from __future__ import annotations

import torch
from torch import Tensor

from tlbench.exceptions import NonFiniteLogits
from tlbench.grid import Attention, Cell
from tlbench.metrics.hf_error import centred_difference, count_nonfinite
from tlbench.questions.loading import Loaded, forward, load_cell
from tlbench.records.measurement import NoiseFloor
from tlbench.reference import huggingface


def measure_floor(cell: Cell, loaded: Loaded | None = None) -> NoiseFloor:
    """Measure a cell's noise floor with one load and four forward passes.

    Raises what :func:`load_cell` raises, and CellFailed if running the model raised or a logit is not finite.
    """
    checkpoint, model = loaded or load_cell(cell, list(Attention))
    ids = huggingface.tokens(checkpoint, "natural")
    first = forward(model, ids)
    if bad := count_nonfinite(first):
        raise NonFiniteLogits(f"TransformerLens returned {bad} non-finite logits, so there is no noise floor")
    again = forward(model, ids)
    alone = torch.cat([forward(model, row.unsqueeze(0)) for row in ids])
    torch.set_num_threads(1 if checkpoint.model.threads > 1 else 2)
    threaded = forward(model, ids)
    torch.set_num_threads(checkpoint.model.threads)
    eager, default = (huggingface.reference_logits(checkpoint, cell.dtype, kind)["natural"] for kind in Attention)
    return NoiseFloor(
        cell=cell,
        repeat=_largest(first, again),
        threads=_largest(first, threaded),
        batch=_largest(first, alone),
        attention=_largest(eager, default),
    )


def _largest(a: Tensor, b: Tensor) -> float:
    return max(error.max().item() for error in centred_difference(a, b))
