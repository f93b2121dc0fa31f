"""A cell's model, loaded and run the same way by every question, and deterministically."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from tlbench import arithmetic, checkpoints, device, lens
from tlbench import catalogue as catalogues
from tlbench.catalogue import Source
from tlbench.checkpoints import Checkpoint
from tlbench.exceptions import CellFailed, NoGolden, TlbenchError
from tlbench.files import sha256_of_unchanged
from tlbench.grid import Attention, Cell, Dtype
from tlbench.reference import golden, huggingface, soundness
from tlbench.reference.golden import Weights
from tlbench.spans import Category, span

Loaded = tuple[Checkpoint, lens.Lens]
"""A cell's verified checkpoint, and its model in TransformerLens."""


def load_cell(cell: Cell, references: Iterable[Attention] = ()) -> Loaded:
    """The cell's checkpoint, verified, and its model in TransformerLens, ready to run deterministically.

    Args:
        cell: which cell.
        references: which of HuggingFace's logits will be asked for. They are computed first, so that one large model is
            in memory at a time.

    Raises:
        BadInput: if the model is not in the catalogue, or its checkpoint is missing or altered.
        CheckpointUnavailable: if it is a hub model that is not on this machine.
        NotApplicable: if this TransformerLens has no such wrapper, option or architecture.
        CellFailed: if loading raised.
    """
    checkpoint = checkpoint_of(cell.model)
    device.require(device.current())
    make_deterministic(checkpoint.model.threads)
    _prepare(checkpoint, cell.dtype, list(references))
    return checkpoint, lens.load(cell, checkpoint)


def hash_kept(cell: Cell, references: Iterable[Attention]) -> None:
    """Hash what a measurement of the cell will read, if it is there: forks of this process need not do so again.

    Raises:
        BadInput: if the model is not in the catalogue, or its checkpoint is missing or altered.
        CheckpointUnavailable: if it is a hub model that is not on this machine.
    """
    checkpoint = checkpoint_of(cell.model)
    paths = [huggingface.store_path(checkpoint, cell.dtype, attention) for attention in references]
    paths += [golden.store_path(checkpoint, weights) for weights in (Weights(cell.dtype), Weights.ORIGINAL)]
    with span(Category.READ):
        for path in paths:
            if path.is_file():
                sha256_of_unchanged(path)


def forward(model: lens.Lens, ids: Tensor) -> Tensor:
    """TransformerLens's logits ``[batch, pos, d_vocab]``.

    Raises:
        CellFailed: if the forward pass raised.
    """
    try:
        with torch.inference_mode(), span(Category.FORWARD):
            return model.logits(ids.to(device.current())).cpu()
    except TlbenchError:
        raise
    except Exception as error:
        raise CellFailed(f"the forward pass raised {type(error).__name__}: {error}") from error


def make_deterministic(threads: int) -> None:
    """Fix everything that two runs of a cell could differ in.

    Raises:
        CellFailed: if this process computes in another arithmetic than it should.
    """
    arithmetic.establish()
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def checkpoint_of(name: str) -> Checkpoint:
    """The verified checkpoint of a model of the catalogue.

    Raises:
        BadInput: if the model is not in the catalogue, or its checkpoint is missing or altered.
        CheckpointUnavailable: if it is a hub model that is not on this machine.
    """
    catalogue = catalogues.load()
    return checkpoints.locate(catalogue.get(name), catalogue)


def _prepare(checkpoint: Checkpoint, dtype: Dtype, references: Sequence[Attention]) -> None:
    """Have references computed. Where one cannot be, whoever asks for it is told why.

    The zoo's models are small, and many of its cells do not exist in an old TransformerLens: theirs wait to be asked for.
    """
    if checkpoint.model.source is Source.ZOO or not references:
        return
    for attention in references:
        with suppress(CellFailed):
            huggingface.reference_logits(checkpoint, dtype, attention)
    with suppress(CellFailed):
        wrong = soundness.reference_fault(checkpoint)
        try:
            golden.golden(checkpoint, Weights(dtype))
        except NoGolden:
            wrong = "there is no golden"
        if wrong:
            huggingface.reference_variants(checkpoint, dtype)
