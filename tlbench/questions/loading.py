"""Load and run a cell's model: deterministically, and the same way for every question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from tlbench import arithmetic, checkpoints, device, lens
from tlbench.checkpoints import Checkpoint
from tlbench.exceptions import CellFailed, NoGolden
from tlbench.files import sha256_of_unchanged
from tlbench.grid import Attention, Cell, Dtype
from tlbench.lens.interface import failures
from tlbench.reference import golden, huggingface, soundness
from tlbench.reference.golden import Weights
from tlbench.spans import Category, span

Loaded = tuple[Checkpoint, lens.Lens]
"""A cell's verified checkpoint and its TransformerLens model. Every measurer loads them itself unless it is passed them."""


def load_cell(cell: Cell, references: Iterable[Attention] = ()) -> Loaded:
    """Verify the cell's checkpoint and load its TransformerLens model, ready to run deterministically.

    HuggingFace's logits with these ``references`` are computed first, so that two large models are never in memory at once.

    Raises:
        BadInput: if the model is not in the catalogue, or its checkpoint is missing or altered.
        CheckpointUnavailable: if it is a hub model that is not on this machine.
        NotApplicable: if this TransformerLens has no such wrapper, option or architecture.
        CellFailed: if loading raised.
    """
    checkpoint = checkpoints.named(cell.model)
    device.require(device.current())
    make_deterministic(checkpoint.model.threads)
    _prepare(checkpoint, cell.dtype, list(references))
    return checkpoint, lens.load(cell, checkpoint)


def hash_kept(cell: Cell, references: Iterable[Attention]) -> None:
    """Hash the files that measuring the cell will read, if they exist, so that forks of this process need not."""
    checkpoint = checkpoints.named(cell.model)
    paths = [huggingface.store_path(checkpoint, cell.dtype, attention) for attention in references]
    paths += [golden.store_path(checkpoint, weights) for weights in (Weights(cell.dtype), Weights.ORIGINAL)]
    with span(Category.READ):
        for path in paths:
            if path.is_file():
                sha256_of_unchanged(path)


def forward(model: lens.Lens, ids: Tensor) -> Tensor:
    """TransformerLens's logits ``[batch, pos, d_vocab]``. Raises CellFailed if the forward pass raised."""
    with failures("the forward pass"), torch.inference_mode(), span(Category.FORWARD):
        return model.logits(ids).cpu()


def make_deterministic(threads: int) -> None:
    """Fix everything that could make two runs of a cell differ. CellFailed if the process's arithmetic is the wrong one."""
    arithmetic.establish()
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def _prepare(checkpoint: Checkpoint, dtype: Dtype, references: Sequence[Attention]) -> None:
    """Compute references ahead of time. One that fails raises again, with its reason, where it is needed.

    The zoo's references wait until then: its models are small, and many cells are not applicable to an old TransformerLens.
    """
    if checkpoint.model.source.is_zoo or not references:
        return
    for attention in references:
        with suppress(CellFailed):
            huggingface.reference_logits(checkpoint, dtype, attention)
    with suppress(CellFailed):
        soundness.other_function(checkpoint)
        fault = soundness.reference_fault(checkpoint)
        try:
            golden.golden(checkpoint, Weights(dtype))
        except NoGolden:
            fault = "there is no golden"
        if fault:
            huggingface.reference_variants(checkpoint, dtype)
