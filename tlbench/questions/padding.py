"""Do prompts of unequal length in one batch get the numbers that each gets alone?"""

from __future__ import annotations

import torch
from torch import Tensor

from tlbench.checkpoints.prompts import Prompts
from tlbench.exceptions import NotApplicable
from tlbench.grid import Cell
from tlbench.lens.interface import Lens
from tlbench.metrics.agreement import cross_entropy, largest_difference
from tlbench.questions.attempts import Attempts
from tlbench.questions.loading import Loaded, load_cell
from tlbench.records.promises import Padding
from tlbench.reference import huggingface

LONG, SHORT, NEW_TOKENS = 32, 24, 8
TEXTS = ("When on board H.M.S.", "Call me Ishmael. Some years ago,")
"""How the prompts' texts begin: unequal numbers of tokens."""


def measure_padding(cell: Cell, loaded: Loaded | None = None) -> Padding:
    """Run two prompts alone and in one padded batch, forward, in ``generate`` and for the loss.

    Raises what :func:`load_cell` raises, and CellFailed if running the model raised.
    """
    checkpoint, lens = loaded or load_cell(cell)
    ids = huggingface.tokens(checkpoint, "natural")
    alone = [ids[:1, :SHORT], ids[1:2, :LONG]]
    attempts = Attempts(lens.inputs.task)
    with torch.inference_mode():
        return Padding(
            cell=cell,
            left=attempts.attempt("left", lambda: _logits(lens, alone, left=True)),
            right=attempts.attempt("right", lambda: _logits(lens, alone, left=False)),
            generated=attempts.attempt("generated", lambda: _generated(lens, alone)),
            loss=attempts.attempt("loss", lambda: _loss(lens, alone)),
            listed=attempts.attempt("listed", lambda: _listed(lens, checkpoint.prompts)),
            reasons=attempts.reasons,
        )


def _batch(alone: list[Tensor], *, left: bool) -> tuple[Tensor, Tensor]:
    """Both prompts padded with token 0, and the mask. ``[batch, pos]``"""
    ids = torch.zeros(len(alone), LONG, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(alone):
        place = slice(LONG - prompt.shape[1], None) if left else slice(prompt.shape[1])
        ids[row, place], mask[row, place] = prompt[0], 1
    return ids, mask


def _logits(lens: Lens, alone: list[Tensor], *, left: bool) -> float:
    ids, mask = _batch(alone, left=left)
    logits = lens.masked_logits(ids, mask)
    rows = [logits[row, mask[row].bool()] for row in range(len(ids))]
    return max(largest_difference(z[None], lens.logits(prompt)) for z, prompt in zip(rows, alone, strict=True))


def _generated(lens: Lens, alone: list[Tensor]) -> int:
    ids, mask = _batch(alone, left=True)
    together = lens.masked_greedy(ids, mask, NEW_TOKENS)
    if not isinstance(together, Tensor):
        raise NotApplicable(f"generate returned {type(together).__name__}: expected token ids")
    return _differing(together, [lens.greedy(prompt, NEW_TOKENS) for prompt in alone])


def _listed(lens: Lens, prompts: Prompts) -> int:
    if prompts.drawn:
        raise NotApplicable(f"its prompts are ids and no texts: {prompts.drawn}")
    return _differing(lens.greedy(list(TEXTS), NEW_TOKENS), [lens.greedy([text], NEW_TOKENS) for text in TEXTS])


def _differing(together: Tensor, apart: list[Tensor]) -> int:
    """The number of new tokens from the first that differs, in any prompt."""
    differs = (together[:, -NEW_TOKENS:].cpu() != torch.cat([one[:, -NEW_TOKENS:] for one in apart]).cpu()).any(0)
    return int(differs.flip(0).nonzero().max()) + 1 if differs.any() else 0


def _loss(lens: Lens, alone: list[Tensor]) -> float:
    ids, mask = _batch(alone, left=True)
    exact = torch.cat([cross_entropy(lens.logits(prompt), prompt).flatten() for prompt in alone]).mean()
    return abs(lens.loss(ids, mask).double().item() - exact.item())
