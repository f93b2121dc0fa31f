"""The timed operations: each as a TransformerLens candidate and its HuggingFace counterparts."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
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
    """Load what an operation needs on both sides.

    Raises:
        NotApplicable: if this TransformerLens has no such wrapper, option, architecture or operation, or the model's
            context is too short.
        CellFailed: if loading raised.
    """
    if cell.operation in (Operation.LOADING, Operation.PROCESSING):
        return _LOADERS[cell.operation](cell, checkpoint)
    ids = token_ids(cell, checkpoint)
    tl = lens.load(cell.cell, checkpoint, readback=False)
    hf = {attention: hf_model(cell, checkpoint, attention) for attention in Attention}
    in_tl, in_hf = _RUNS[cell.operation]
    return Pair(in_tl(tl, ids), in_hf(hf[Attention.EAGER], ids), in_hf(hf[Attention.DEFAULT], ids))


def forward_pair(operation: Operation, tl: lens.Lens, eager: Any, ids: Tensor) -> tuple[Candidate, Candidate]:
    """The candidates of an operation on loaded models, in TransformerLens and in HuggingFace."""
    in_tl, in_hf = _RUNS[operation]
    return in_tl(tl, ids), in_hf(eager, ids)


def own_candidate(operation: Operation, tl: lens.Lens, ids: Tensor) -> Candidate:
    """The candidate of an operation on a loaded TransformerLens model alone."""
    return _RUNS[operation][0](tl, ids)


def token_ids(cell: RuntimeCell, checkpoint: Checkpoint) -> Tensor:
    """Natural text in the cell's shape, ``[batch, pos]``. Each sequence continues where the previous one ends.

    Raises:
        NotApplicable: if the model's longest context is shorter.
    """
    end = cell.length + (GENERATED if cell.operation is Operation.GENERATION else 0)
    if end > longest(checkpoint.folder):
        raise NotApplicable(f"{cell.model}'s longest context is {longest(checkpoint.folder)} tokens: {end} are too many")
    return long_ids(checkpoint, cell.batch * cell.length).reshape(cell.batch, cell.length).to(device.current())


def hf_model(cell: RuntimeCell, checkpoint: Checkpoint, attention: Attention) -> Any:
    """HuggingFace's model on the current device."""
    return huggingface.load_model(checkpoint.folder, cell.dtype, attention).to(device.current())


# Forward passes ------------------------------------------------------------------------------------------------------


def _plain(model: Any, ids: Tensor) -> Candidate:
    return _without_gradients(lambda: model(ids, use_cache=False).logits)


def _forward(tl: lens.Lens, ids: Tensor) -> Candidate:
    return _without_gradients(lambda: tl.logits(ids))


def _hooks(tl: lens.Lens, ids: Tensor) -> Candidate:
    hooks: dict[str, lens.Hook] = {name: _no_op for name in tl.hook_names() if tl.accepts_hook(name)}
    return _without_gradients(lambda: tl.run_with_hooks(ids, hooks))


def _no_op(value: Tensor) -> None:
    return None


def _cache(tl: lens.Lens, ids: Tensor) -> Candidate:
    return _without_gradients(lambda: tl.run_with_cache(ids))


def _without_gradients(run: Callable[[], object]) -> Candidate:
    def timed(_: object) -> object:
        with torch.inference_mode():
            return run()

    return Candidate(timed)


# Backwards -----------------------------------------------------------------------------------------------------------


def _backward(tl: lens.Lens, ids: Tensor) -> Candidate:
    return _with_gradients(tl.model, lambda: tl.logits(ids), ids)


def _plain_backward(model: Any, ids: Tensor) -> Candidate:
    return _with_gradients(model, lambda: model(ids, use_cache=False).logits, ids)


def _with_gradients(model: Any, logits: Callable[[], Tensor], ids: Tensor) -> Candidate:
    model.requires_grad_(True)

    def prepare() -> None:
        model.zero_grad(set_to_none=True)

    def timed(_: object) -> None:
        with torch.enable_grad():
            predictions = logits()[:, :-1].flatten(0, 1).float()
            torch.autograd.backward(torch.nn.functional.cross_entropy(predictions, ids[:, 1:].flatten()))

    return Candidate(timed, prepare)


# Generation ----------------------------------------------------------------------------------------------------------


def _generation(tl: lens.Lens, ids: Tensor) -> Candidate:
    return _without_gradients(lambda: tl.greedy(ids, GENERATED))


def _plain_generation(model: Any, ids: Tensor) -> Candidate:
    model.generation_config.eos_token_id = None  # always generate the full length, as TransformerLens does
    settings = {"max_new_tokens": GENERATED, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(ids)
    return _without_gradients(lambda: model.generate(ids, attention_mask=mask, **settings))


# Loading and processing ----------------------------------------------------------------------------------------------


def _loading(cell: RuntimeCell, checkpoint: Checkpoint) -> Pair:
    tl = Candidate(lambda _: lens.load(cell.cell, checkpoint, readback=False), gc.collect)
    return Pair(tl, _plain_loading(cell, checkpoint), None)


def _plain_loading(cell: RuntimeCell, checkpoint: Checkpoint) -> Candidate:
    return Candidate(lambda _: hf_model(cell, checkpoint, Attention.EAGER), gc.collect)


def _processing(cell: RuntimeCell, checkpoint: Checkpoint) -> Pair:
    if cell.option is Option.UNPROCESSED:
        raise NotApplicable("nothing to process: the option is unprocessed")
    unprocessed = RuntimeCell(**{**vars(cell), "option": Option.UNPROCESSED}).cell

    def prepare() -> lens.Lens:
        gc.collect()
        return lens.load(unprocessed, checkpoint, readback=False)

    return Pair(Candidate(lambda tl: tl.process(cell.option), prepare), _plain_loading(cell, checkpoint), None)


_LOADERS = {Operation.LOADING: _loading, Operation.PROCESSING: _processing}
_RUNS: dict[Operation, tuple[Callable[[lens.Lens, Tensor], Candidate], Callable[[Any, Tensor], Candidate]]] = {
    Operation.FORWARD: (_forward, _plain),
    Operation.HOOKS: (_hooks, _plain),
    Operation.CACHE: (_cache, _plain),
    Operation.BACKWARD: (_backward, _plain_backward),
    Operation.GENERATION: (_generation, _plain_generation),
}
