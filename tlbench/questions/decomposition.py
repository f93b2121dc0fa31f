"""Do the parts of the residual stream sum to what they claim?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tlbench.components import Component, site
from tlbench.exceptions import CellFailed, NotApplicable
from tlbench.grid import Cell
from tlbench.lens.interface import Lens
from tlbench.metrics.agreement import largest_difference
from tlbench.metrics.relative_error import logit_difference, relative_error
from tlbench.metrics.worst import worst
from tlbench.questions.attempts import Attempts
from tlbench.questions.depth import hook_names
from tlbench.questions.loading import Loaded, load_cell
from tlbench.records.promises import Decomposition
from tlbench.reference import huggingface


def measure_decomposition(cell: Cell, loaded: Loaded | None = None) -> Decomposition:
    """Compare the cache's decompositions with the hooked residual stream and the logits: two forward passes.

    Raises what :func:`load_cell` raises, and CellFailed if running the model raised.
    """
    checkpoint, lens = loaded or load_cell(cell)
    ids = huggingface.tokens(checkpoint, "natural")
    attempts = Attempts(lens.inputs.task)
    with torch.inference_mode():
        logits, cache = lens.run_with_cache(ids)
        stream = _stream(lens, ids)
        return Decomposition(
            cell=cell,
            accumulated=attempts.attempt("accumulated", lambda: _accumulated(cache, stream)),
            logit_lens=attempts.attempt("logit_lens", lambda: _logit_lens(lens, cache, logits)),
            decomposed=attempts.attempt("decomposed", lambda: relative_error(cache.decompose_resid().sum(0), stream[-1])),
            attributed=attempts.attempt("attributed", lambda: _attributed(lens, cache, logits)),
            reasons=attempts.reasons,
        )


def _stream(lens: Lens, ids: Tensor) -> list[Tensor]:
    """The hooked residual stream before each block and after the last."""
    names = hook_names(lens)
    sites = [site(i, Component.RESID_PRE) for i in range(lens.n_blocks)]
    hooks = [names[name] for name in (*sites, site(lens.n_blocks - 1, Component.RESID_POST))]
    if absent := [hook for hook in hooks if not lens.has_hook(hook)]:
        raise NotApplicable(f"this TransformerLens has no {absent[0]}")
    stream: list[Tensor] = []
    lens.run_with_hooks(ids, {hook: lambda value: stream.append(value.clone()) for hook in hooks})
    return stream


def _accumulated(cache: Any, stream: list[Tensor]) -> float:
    accumulated = cache.accumulated_resid()
    if len(accumulated) != len(stream):
        raise CellFailed(f"accumulated_resid has {len(accumulated)} entries: expected {len(stream)}")
    return max(largest_difference(a, b, centre=False) for a, b in zip(accumulated, stream, strict=True))


def _logit_lens(lens: Lens, cache: Any, logits: Tensor) -> float:
    return largest_difference(lens.projected(cache.accumulated_resid(apply_ln=True)[-1]), logits)


def _attributed(lens: Lens, cache: Any, logits: Tensor) -> float:
    if lens.soft_cap:
        raise NotApplicable("the soft cap makes logits that are no sum of parts")
    tokens = logits[:, -1].topk(2, dim=-1).indices
    parts = lens.attributions(cache, cache.decompose_resid(pos_slice=-1), tokens)
    attributed = parts.double().sum(0).cpu() + lens.unembed_bias_difference(tokens)
    return worst((attributed - logit_difference(logits, tokens).cpu()).abs().tolist()) or 0.0
