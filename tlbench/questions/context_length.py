"""How does the error grow along the sequence? By length, by position, and at edges such as a sliding window's."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tlbench.catalogue import Task
from tlbench.exceptions import NotApplicable
from tlbench.grid import Cell
from tlbench.lens.interface import Lens
from tlbench.metrics.hf_error import centred
from tlbench.questions.attempts import Attempts
from tlbench.questions.loading import Loaded, forward, load_cell
from tlbench.records.inside import ContextLength
from tlbench.reference.lengths import context, edges, huggingface_lengths, long_ids, measure_lengths

PADDED_TOKENS, PADDING = 32, 8


def measure_context(cell: Cell, loaded: Loaded | None = None) -> ContextLength:
    """Measure a model's error at each length, doubling from one token to its longest context.

    Raises what :func:`load_cell` raises, NoGolden if there is no golden, and CellFailed if running the model raised.
    """
    checkpoint, lens = loaded or load_cell(cell)
    if lens.inputs.task is not Task.CAUSAL:
        raise NotApplicable(
            f"contexts are measured of causal models, and {cell.model} is none: its task is {lens.inputs.task}"
        )
    exact = context(checkpoint, cell.dtype)
    reference = huggingface_lengths(checkpoint, cell.dtype)
    ids = long_ids(checkpoint, exact.lengths[-1])
    longest = lens.longest_context()
    edge_positions = edges(checkpoint.folder)
    if (table := lens.rotary_table()) is not None:
        edge_positions["rotary_table"] = table
    supported = [length for length in exact.lengths if longest is None or length <= longest]
    lengths = measure_lengths(replace(exact, lengths=supported), ids, lambda prefix: forward(lens, prefix))
    attempts = Attempts(lens.inputs.task)
    limit = f"TransformerLens's longest context is {longest} tokens" if supported != exact.lengths else ""
    return ContextLength(
        cell=cell,
        errors=lengths.errors,
        reference_errors=reference.errors,
        positions=lengths.positions,
        reference_positions=reference.positions,
        edges=edge_positions,
        stopped=lengths.stopped or limit,
        left_padding=attempts.attempt("left_padding", lambda: _left_padding(lens, ids[:, :PADDED_TOKENS])),
        reasons=attempts.reasons,
    )


def _left_padding(lens: Lens, ids: Tensor) -> float:
    """The largest change that masked left padding makes to the other tokens' centred logits, in nats."""
    padded = torch.cat([torch.zeros_like(ids[:, :PADDING]), ids], -1)
    mask = torch.ones_like(padded)
    mask[:, :PADDING] = 0
    with torch.inference_mode():
        logits = lens.masked_logits(padded, mask)[:, PADDING:]
        alone = lens.logits(ids)
    return (centred(logits) - centred(alone)).abs().max().item()
