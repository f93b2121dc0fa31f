"""The timed operations: each as a TransformerLens candidate and its HuggingFace counterparts."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tlbench import device, lens
from tlbench.checkpoints import Checkpoint
from tlbench.costs.turns import Candidate
from tlbench.exceptions import NotApplicable
from tlbench.grid import Attention, Operation, Option, RuntimeCell
from tlbench.reference import huggingface
from tlbench.reference.lengths import long_ids, longest

GENERATED = 16
"""Tokens per generation. The prompt has the shape's length."""


@dataclass(frozen=True)
class Pair:
    """One operation on both sides.

    Attributes:
        tl: in TransformerLens.
        eager: in HuggingFace, with the attention that TransformerLens forces.
        default: in HuggingFace, with its default attention; None if attention plays no part.
    """

    tl: Candidate
    eager: Candidate
    default: Candidate | None

    @property
    def candidates(self) -> list[Candidate]:
        """The candidates that exist, TransformerLens's first."""
        return [candidate for candidate in (self.tl, self.eager, self.default) if candidate is not None]


def prepare(cell: RuntimeCell, checkpoint: Checkpoint) -> Pair:
    """Load what an operation needs on both sides. Raises what :func:`tlbench.costs.slowdown.measure_slowdown` raises."""
    if cell.operation in _LOADERS:
        plain_loading = Candidate(lambda _: huggingface.placed_model(checkpoint, cell.dtype, Attention.EAGER), gc.collect)
        return Pair(_LOADERS[cell.operation](cell, checkpoint), plain_loading, None)
    ids = token_ids(cell, checkpoint)
    tl = lens.load(cell.cell, checkpoint, readback=False)
    hf = {attention: huggingface.placed_model(checkpoint, cell.dtype, attention) for attention in Attention}
    in_tl, in_hf = RUNS[cell.operation]
    return Pair(in_tl(tl, ids), in_hf(hf[Attention.EAGER], ids), in_hf(hf[Attention.DEFAULT], ids))


def token_ids(cell: RuntimeCell, checkpoint: Checkpoint) -> Tensor:
    """Natural text in the cell's shape, ``[batch, pos]``. Each sequence continues where the previous one ends.

    Raises NotApplicable if the model's longest context is shorter.
    """
    end = cell.length + (GENERATED if cell.operation is Operation.GENERATION else 0)
    if end > longest(checkpoint.folder):
        raise NotApplicable(f"{cell.model}'s longest context is {longest(checkpoint.folder)} tokens: {end} are too many")
    return long_ids(checkpoint, cell.batch * cell.length).reshape(cell.batch, cell.length).to(device.current())


def without_gradients(run: Callable[..., object], *arguments: object) -> Candidate:
    """The candidate that calls a function in inference mode."""

    def timed(_: object) -> object:
        with torch.inference_mode():
            return run(*arguments)

    return Candidate(timed)


def _with_gradients(model: Any, logits: Callable[[Tensor], Tensor], ids: Tensor) -> Candidate:
    model.requires_grad_(True)

    def timed(_: object) -> None:
        with torch.enable_grad():
            predictions = logits(ids)[:, :-1].flatten(0, 1).float()
            torch.autograd.backward(torch.nn.functional.cross_entropy(predictions, ids[:, 1:].flatten()))

    return Candidate(timed, lambda: model.zero_grad(set_to_none=True))


def _plain_logits(model: Any, ids: Tensor) -> Any:
    return model(ids, use_cache=False).logits


def _plain(model: Any, ids: Tensor) -> Candidate:
    return without_gradients(_plain_logits, model, ids)


def _hooks(tl: lens.Lens, ids: Tensor) -> Candidate:
    no_ops: dict[str, lens.Hook] = {name: lambda value: None for name in tl.hook_names() if tl.accepts_hook(name)}
    return without_gradients(tl.run_with_hooks, ids, no_ops)


def _plain_generation(model: Any, ids: Tensor) -> Candidate:
    model.generation_config.eos_token_id = None  # always generate the full length, as TransformerLens does
    settings = {"max_new_tokens": GENERATED, "do_sample": False, "pad_token_id": 0}
    return without_gradients(partial(model.generate, attention_mask=torch.ones_like(ids), **settings), ids)


def _loading(cell: RuntimeCell, checkpoint: Checkpoint) -> Candidate:
    return Candidate(lambda _: lens.load(cell.cell, checkpoint, readback=False), gc.collect)


def _processing(cell: RuntimeCell, checkpoint: Checkpoint) -> Candidate:
    if cell.option is Option.UNPROCESSED:
        raise NotApplicable("nothing to process: the option is unprocessed")

    def unprocessed() -> lens.Lens:
        gc.collect()
        return lens.load(replace(cell.cell, option=Option.UNPROCESSED), checkpoint, readback=False)

    return Candidate(lambda tl: tl.process(cell.option), unprocessed)


_LOADERS = {Operation.LOADING: _loading, Operation.PROCESSING: _processing}
RUNS: dict[Operation, tuple[Callable[[lens.Lens, Tensor], Candidate], Callable[[Any, Tensor], Candidate]]] = {
    Operation.FORWARD: (lambda tl, ids: without_gradients(tl.logits, ids), _plain),
    Operation.HOOKS: (_hooks, _plain),
    Operation.CACHE: (lambda tl, ids: without_gradients(tl.run_with_cache, ids), _plain),
    Operation.BACKWARD: (
        lambda tl, ids: _with_gradients(tl.model, tl.logits, ids),
        lambda model, ids: _with_gradients(model, partial(_plain_logits, model), ids),
    ),
    Operation.GENERATION: (lambda tl, ids: without_gradients(tl.greedy, ids, GENERATED), _plain_generation),
}
"""The candidates of each operation on a loaded model, in TransformerLens and in HuggingFace."""
