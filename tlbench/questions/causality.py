"""Is the model causal? Another last token must leave the earlier logits alone, however the model was made."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from tlbench.grid import Attention, Cell
from tlbench.lens.interface import failures
from tlbench.metrics.agreement import largest_difference
from tlbench.questions.attempts import Attempts
from tlbench.questions.loading import Loaded, load_cell
from tlbench.records.promises import Causality
from tlbench.reference import huggingface


def measure_causality(cell: Cell, loaded: Loaded | None = None) -> Causality:
    """Change the last token of each prompt: four forward passes, and one more load.

    Raises what :func:`load_cell` raises.
    """
    checkpoint, lens = loaded or load_cell(cell)
    ids = huggingface.tokens(checkpoint, "natural")
    attempts = Attempts(lens.inputs.task)

    @cache
    def given() -> Callable[[Tensor], Tensor]:
        return lens.around(huggingface.load_model(checkpoint.folder, cell.dtype, Attention.DEFAULT))

    def distance() -> float:
        logits = given()(ids)
        return largest_difference(logits, huggingface.reference_logits(checkpoint, cell.dtype, Attention.DEFAULT)["natural"])

    with torch.inference_mode():
        with failures("the forward pass"):
            last_token = attempts.attempt("last_token", lambda: _leak(lens.logits, ids))
        leak = attempts.attempt("given_last_token", lambda: _leak(given(), ids))
        difference = attempts.attempt("given_logits", distance)
    return Causality(cell, last_token, leak, difference, attempts.reasons)


def _leak(logits: Callable[[Tensor], Tensor], ids: Tensor) -> float:
    """The largest change of the logits before the last position."""
    plain = logits(ids)
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % plain.shape[-1]
    return largest_difference(logits(changed)[:, :-1], plain[:, :-1])
