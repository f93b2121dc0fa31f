"""How wrong is the backward pass? The gradient of a logit difference at every block's input, against the golden's."""

from __future__ import annotations

import torch
from torch import Tensor

from tlbench.components import Component, site
from tlbench.exceptions import CellFailed
from tlbench.grid import Cell
from tlbench.lens.interface import Lens, failures
from tlbench.metrics.golden_error import correlation
from tlbench.metrics.relative_error import logit_difference, relative_error
from tlbench.questions.depth import hook_names
from tlbench.questions.loading import Loaded, load_cell
from tlbench.records.inside import GradientError, Gradients
from tlbench.reference import huggingface
from tlbench.reference.activations import exact, huggingface_inside


def measure_gradients(cell: Cell, loaded: Loaded | None = None) -> Gradients:
    """Run one forward and one backward pass, on the logit difference of :attr:`.Exact.tokens`.

    Raises what :func:`load_cell` and :func:`huggingface_inside` raise, and CellFailed if running the model raised or no
    gradient reaches a block.
    """
    checkpoint, lens = loaded or load_cell(cell)
    g = exact(checkpoint, cell.dtype)
    reference = huggingface_inside(checkpoint, cell.dtype).gradients
    with failures("the backward pass"):
        input_gradients = _gradients(lens, huggingface.tokens(checkpoint, "natural"), g.tokens)
    pairs = enumerate(zip(input_gradients, reference, strict=True))
    return Gradients(cell, tuple(_error(t, g.gradient(i), h) for i, (t, h) in pairs))


def _gradients(lens: Lens, ids: Tensor, tokens: Tensor) -> list[Tensor]:
    """The gradients by block, ``[batch, pos, d_model]``. Parameters require none, so nothing else is computed."""
    lens.model.requires_grad_(False)
    inputs: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        if not value.requires_grad:
            value.requires_grad_(True)
        value.retain_grad()
        inputs.append(value)
        return value

    names = hook_names(lens)
    with torch.enable_grad():
        logits = lens.run_with_hooks(ids, {names[site(i, Component.RESID_PRE)]: keep for i in range(lens.n_blocks)})
        torch.autograd.backward(logit_difference(logits, tokens.to(logits.device)).sum())
    input_gradients = [value.grad for value in inputs]
    missing = [i for i, gradient in enumerate(input_gradients) if gradient is None]
    if missing or len(input_gradients) != lens.n_blocks:
        raise CellFailed(f"no gradient reaches the input of block {missing[0] if missing else len(input_gradients)}")
    return [gradient.double().cpu() for gradient in input_gradients if gradient is not None]


def _error(t: Tensor, g: Tensor, h: Tensor) -> GradientError:
    return GradientError(
        error=relative_error(t, g),
        reference_error=relative_error(h, g),
        correlation=correlation(t - g, h - g),
        one_less_cosine=max(1 - correlation(t, g), 0.0),  # in this order ``max`` returns NaN for a NaN cosine
    )
