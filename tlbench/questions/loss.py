"""Is the loss right, in nats of the realised token?"""

from __future__ import annotations

import torch

from tlbench.exceptions import CellFailed
from tlbench.grid import Attention, Cell
from tlbench.metrics.agreement import cross_entropy
from tlbench.questions.attempts import Attempts
from tlbench.questions.loading import Loaded, load_cell
from tlbench.records.promises import Loss
from tlbench.reference import huggingface


def measure_loss(cell: Cell, loaded: Loaded | None = None) -> Loss:
    """Compare TransformerLens's loss with the cross-entropy of HuggingFace's logits: two forward passes.

    Raises what :func:`load_cell` raises.
    """
    checkpoint, lens = loaded or load_cell(cell, [Attention.EAGER])
    ids = huggingface.tokens(checkpoint, "natural")
    reference = cross_entropy(huggingface.reference_logits(checkpoint, cell.dtype)["natural"], ids)
    attempts = Attempts(lens.inputs.task)

    def per_token() -> float:
        loss = lens.loss(ids, per_token=True).double().cpu()
        if loss.shape != reference.shape:
            raise CellFailed(f"loss_per_token has shape {list(loss.shape)}: expected {list(reference.shape)}")
        return (loss - reference).abs().max().item()

    with torch.inference_mode():
        mean = attempts.attempt("mean", lambda: abs(lens.loss(ids).double().item() - reference.mean().item()))
        return Loss(cell, mean, attempts.attempt("per_token", per_token), attempts.reasons)
