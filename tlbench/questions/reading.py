"""What a researcher computes from activations, in nats: a logit difference, a patch's effect, each head's contribution."""

from __future__ import annotations

import torch
from torch import Tensor

from tlbench.checkpoints import Checkpoint
from tlbench.components import LOGITS
from tlbench.exceptions import NotApplicable
from tlbench.grid import Cell
from tlbench.lens.interface import Lens
from tlbench.metrics.relative_error import logit_difference
from tlbench.questions.attempts import Attempts
from tlbench.questions.depth import hook_names
from tlbench.questions.loading import Loaded, forward, load_cell
from tlbench.records.inside import Pair, Reading
from tlbench.reference import huggingface
from tlbench.reference.activations import Exact, exact, huggingface_inside
from tlbench.reference.interventions import CHANGES, Edit


def measure_reading(cell: Cell, loaded: Loaded | None = None) -> Reading:
    """Measure the errors of these quantities in a cell's model: three forward passes.

    Raises what :func:`load_cell` and :func:`exact` raise, and CellFailed if running the model raised.
    """
    checkpoint, lens = loaded or load_cell(cell)
    g = exact(checkpoint, cell.dtype)
    ids = huggingface.tokens(checkpoint, "natural")
    plain = forward(lens, ids)
    attempts = Attempts(lens.inputs.task)
    with torch.inference_mode():
        difference = attempts.attempt("logit_difference", lambda: _difference(checkpoint, cell, g, plain))
        effects = attempts.attempt("patch_effect", lambda: _patch(checkpoint, cell, g, lens, ids, plain))
        heads = attempts.attempt("head_attribution", lambda: _heads(cell, g, lens, ids))
    patch_effect, exact_patch_effect = effects or (None, None)
    head_error, largest_head = heads or (None, None)
    return Reading(cell, difference, patch_effect, exact_patch_effect, head_error, largest_head, attempts.reasons)


def _difference(checkpoint: Checkpoint, cell: Cell, g: Exact, plain: Tensor) -> Pair:
    golden_difference = logit_difference(g.tensors[LOGITS], g.tokens)
    reference = huggingface.reference_logits(checkpoint, cell.dtype)["natural"]
    errors = [(logit_difference(z, g.tokens) - golden_difference).abs().max().item() for z in (plain, reference)]
    return Pair(*errors)


def _patch(checkpoint: Checkpoint, cell: Cell, g: Exact, lens: Lens, ids: Tensor, plain: Tensor) -> tuple[Pair, float]:
    """The error of a patch's effect on the first prompt, HuggingFace's own error, and the golden effect."""
    change = CHANGES[Edit.PATCHED]
    patched = lens.run_with_hooks(ids, {hook_names(lens)[change.site(lens.n_blocks)]: change.apply})
    reference = huggingface.reference_logits(checkpoint, cell.dtype)["natural"]
    reference_patched = huggingface_inside(checkpoint, cell.dtype).edited[Edit.PATCHED]

    def effect(after: Tensor, before: Tensor) -> float:
        return (logit_difference(after, g.tokens) - logit_difference(before, g.tokens))[0].item()

    golden = effect(g.edited(Edit.PATCHED), g.tensors[LOGITS])
    return Pair(abs(effect(patched, plain) - golden), abs(effect(reference_patched, reference) - golden)), golden


def _heads(cell: Cell, g: Exact, lens: Lens, ids: Tensor) -> tuple[float, float]:
    """The largest error of any head's contribution, and the largest golden contribution."""
    golden_attribution = g.head_attribution(cell.option)
    if golden_attribution is None:
        raise NotApplicable("a norm sits between the heads and the residual stream, so no head has its own contribution")
    attribution = lens.head_attribution(ids, g.tokens).double().cpu()
    return (attribution - golden_attribution).abs().max().item(), golden_attribution.abs().max().item()
