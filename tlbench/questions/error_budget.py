"""The error budget of a cell: its total error, split by source."""

from __future__ import annotations

import torch
from torch import Tensor

from tlbench.exceptions import CellFailed, NonFiniteLogits
from tlbench.grid import Cell
from tlbench.lens import Lens
from tlbench.metrics.golden_error import rms
from tlbench.metrics.hf_error import centred_difference, count_nonfinite
from tlbench.questions.loading import Loaded, forward, load_cell
from tlbench.records.measurement import ErrorBudget
from tlbench.reference import golden, huggingface
from tlbench.reference.float64 import low_precision_operations, true_float64
from tlbench.reference.golden import Weights


def measure_budget(cell: Cell, loaded: Loaded | None = None) -> ErrorBudget:
    """Split a cell's error by switching on one source of rounding at a time.

    TransformerLens's model runs at the cell's dtype, then in float64 with the same weights and tables: once from the
    tokens, and once with the unembedding fed the input it had at the dtype. The model stays in float64 afterwards.

    Raises what :func:`load_cell` raises, NoGolden if there is no golden, and CellFailed if running raised, a logit is not
    finite, or TransformerLens does not run in float64.
    """
    checkpoint, model = loaded or load_cell(cell)
    ids = huggingface.tokens(checkpoint, "natural")
    g = golden.golden(checkpoint, Weights(cell.dtype), makeshift=False)
    original = golden.golden(checkpoint, Weights.ORIGINAL, makeshift=False)
    with model.reading_unembed_input() as unembed_inputs:
        t = forward(model, ids)
    if bad := count_nonfinite(t):
        raise NonFiniteLogits(f"TransformerLens returned {bad} non-finite logits, so there is no error budget")
    model.widen()
    processed = _float64_forward(model, ids)
    with model.replacing_unembed_input(unembed_inputs[-1].double()):
        unrounded = _float64_forward(model, ids)
    rounded = unrounded.to(t.dtype)
    return ErrorBudget(
        cell=cell,
        total=rms(centred_difference(t, original.logits)),
        weight_rounding=rms(centred_difference(g.logits, original.logits)),
        weight_processing=rms(centred_difference(processed, g.logits)),
        forward_arithmetic=rms(centred_difference(unrounded, processed)),
        final_rounding=rms(centred_difference(rounded, unrounded)),
        unexplained=rms(centred_difference(t, rounded)),
        rotary_tables=g.rotary.square().mean().sqrt().item(),
    )


def _float64_forward(model: Lens, ids: Tensor) -> Tensor:
    with true_float64(), torch.inference_mode(), low_precision_operations() as seen:
        logits = forward(model, ids)
    if seen:
        raise CellFailed(f"TransformerLens's forward pass is not float64 all the way: {next(iter(seen))}")
    return logits
