"""Do backward hooks and cached gradients agree with autograd?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from tlbench.components import Component, site
from tlbench.exceptions import CellFailed
from tlbench.grid import Cell
from tlbench.lens.interface import Hook, Lens
from tlbench.metrics.agreement import cross_entropy
from tlbench.metrics.relative_error import logit_difference, relative_error
from tlbench.questions.attempts import Attempts
from tlbench.questions.depth import hook_names
from tlbench.questions.loading import Loaded, load_cell
from tlbench.records.promises import Backward
from tlbench.reference import huggingface

LOOKED_AT = (Component.RESID_PRE, Component.ATTN_OUT, Component.MLP_OUT)
Gradients = dict[str, Tensor]


def measure_backward_hooks(cell: Cell, loaded: Loaded | None = None) -> Backward:
    """Compare the gradients at every block's input, attention and MLP: four forward and backward passes.

    Raises what :func:`load_cell` raises.
    """
    checkpoint, lens = loaded or load_cell(cell)
    ids = huggingface.tokens(checkpoint, "natural")
    names = hook_names(lens)
    sites = [names[site(i, component)] for i in range(lens.n_blocks) for component in LOOKED_AT]
    sites = [hook for hook in sites if lens.has_hook(hook)]
    attempts = Attempts(lens.inputs.task)
    lens.model.requires_grad_(True)
    try:
        with torch.enable_grad():
            bwd_hooks = attempts.attempt("bwd_hooks", lambda: _bwd_hooks(lens, ids, sites))
            incl_bwd = attempts.attempt("incl_bwd", lambda: _incl_bwd(lens, ids, sites))
    finally:
        lens.model.zero_grad()
        lens.model.requires_grad_(False)
    return Backward(cell, bwd_hooks, incl_bwd, attempts.reasons)


def _bwd_hooks(lens: Lens, ids: Tensor, sites: list[str]) -> float:
    def of_difference(logits: Tensor) -> Tensor:
        return logit_difference(logits, logits[:, -1].detach().topk(2, dim=-1).indices).sum()

    seen: Gradients = {}

    def look(name: str, gradient: Tensor) -> None:
        seen[name] = gradient.detach().clone()

    hooks: dict[str, Hook] = {name: partial(look, name) for name in sites}
    lens.run_with_backward_hooks(ids, hooks, lambda logits: torch.autograd.backward(of_difference(logits)))
    return _largest(seen, _autograd(lens, ids, sites, of_difference))


def _incl_bwd(lens: Lens, ids: Tensor, sites: list[str]) -> float:
    cache = lens.run_with_gradients(ids)
    stored = {name: cache[f"{name}_grad"] for name in sites if f"{name}_grad" in cache.keys()}  # noqa: SIM118
    return _largest(stored, _autograd(lens, ids, sites, lambda logits: cross_entropy(logits, ids).mean()))


def _autograd(lens: Lens, ids: Tensor, sites: list[str], scalar: Callable[[Tensor], Tensor]) -> Gradients:
    """The gradients that autograd retains at the hook points."""
    values: dict[str, Tensor] = {}

    def keep(name: str, value: Tensor) -> Tensor:
        value.retain_grad()
        values[name] = value
        return value

    logits = lens.run_with_hooks(ids, {name: partial(keep, name) for name in sites})
    torch.autograd.backward(scalar(logits))
    return {name: value.grad for name, value in values.items() if value.grad is not None}


def _largest(gradients: Gradients, exact: Gradients) -> float:
    if missing := exact.keys() - gradients.keys():
        raise CellFailed(f"no gradient of {len(missing)} of {len(exact)} hook points, such as {min(missing)}")
    if not exact:
        raise CellFailed("no gradient reaches any hook point")
    return max(relative_error(gradients[name].reshape(value.shape), value) for name, value in exact.items())
