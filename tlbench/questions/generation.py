"""Does the key-value cache match the full forward pass, and do greedy continuations match HuggingFace's?"""

from __future__ import annotations

import torch
from torch import Tensor

from tlbench.exceptions import CellFailed, NotApplicable
from tlbench.grid import Cell, Dtype
from tlbench.lens.interface import Lens
from tlbench.metrics.golden_error import is_tie
from tlbench.metrics.hf_error import centred
from tlbench.questions.attempts import Attempts
from tlbench.questions.loading import Loaded, forward, load_cell
from tlbench.records.inside import Generation
from tlbench.reference import huggingface
from tlbench.reference.activations import GREEDY_START, GREEDY_TOKENS, Generated, huggingface_inside


def measure_generation(cell: Cell, loaded: Loaded | None = None) -> Generation:
    """Compare a full forward pass with one token at a time from the cache, and a greedy continuation with HuggingFace's.

    Raises what :func:`load_cell` and :func:`huggingface_inside` raise, and CellFailed if running the model raised.
    """
    checkpoint, lens = loaded or load_cell(cell)
    reference = huggingface_inside(checkpoint, cell.dtype).generated
    if reference is None:
        raise NotApplicable(f"{cell.model} has no key-value cache in HuggingFace")
    ids = huggingface.tokens(checkpoint, "natural")
    full = forward(lens, ids)
    attempts = Attempts(lens.inputs.task)
    with torch.inference_mode():
        steps = tuple(attempts.attempt("steps", lambda: _steps(lens, ids, full)) or ())
        diverged, tie = attempts.attempt("greedy", lambda: _greedy(lens, ids, reference, cell.dtype)) or (None, None)
    return Generation(cell, steps, tuple(reference.steps), GREEDY_TOKENS, diverged, tie, attempts.reasons)


def _steps(lens: Lens, ids: Tensor, full: Tensor) -> list[float]:
    z = centred(full)
    steps = []
    for i, logits in enumerate(lens.steps(ids)):
        if logits.shape != z[:, i].shape:
            raise CellFailed(f"a step with the key-value cache returned logits of shape {list(logits.shape)}")
        steps.append((centred(logits.cpu()) - z[:, i]).abs().max().item())
    return steps


def _greedy(lens: Lens, ids: Tensor, reference: Generated, dtype: Dtype) -> tuple[int | None, bool | None]:
    """The first token in any prompt that differs from HuggingFace's, and whether it is a tie. Real differences go first."""
    tokens = lens.greedy(ids[:, :GREEDY_START], GREEDY_TOKENS)
    expected = list(reference.greedy.shape)
    actual = list(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
    if actual != expected:
        raise NotApplicable(f"generate returned {actual}: expected token ids of shape {expected}")
    tokens = tokens.cpu()
    differs = tokens != reference.greedy
    divergences = []
    for row in range(len(tokens)):
        if differs[row].any():
            first = int(differs[row].nonzero()[0])
            logits = reference.greedy_logits[row, first - GREEDY_START].double()
            pair = torch.stack([logits.max(), logits[tokens[row, first]]])
            divergences.append((bool(is_tie(pair[0] - pair[1], pair.abs().max(), dtype)), first - GREEDY_START))
    tie, step = min(divergences, default=(None, None))
    return step, tie
