"""Measure one cell: one load, one forward of each prompt set, every statistic."""

from __future__ import annotations

import torch

from tlbench import catalogue as catalogues
from tlbench import checkpoints, errors, lens
from tlbench.cells import Attention, Cell
from tlbench.exceptions import CellFailed, TlbenchError
from tlbench.record import Measurement
from tlbench.reference import huggingface


def measure(cell: Cell) -> Measurement:
    """The error of the installed TransformerLens in one cell. Deterministic on a CPU.

    Raises:
        BadInput: if the model is not in the catalogue, or its checkpoint is missing or altered.
        CheckpointUnavailable: if it is a hub model that is not on this machine.
        NotApplicable: if this TransformerLens has no such wrapper, option or architecture.
        CellFailed: if loading or running raised, or an output was not finite.
    """
    catalogue = catalogues.load()
    checkpoint = checkpoints.locate(catalogue.get(cell.model), catalogue)
    _make_deterministic(checkpoint.model.threads)
    # The lens comes first: where it does not apply, no reference is needed.
    model = lens.load(cell, checkpoint)
    reference = huggingface.reference_logits(checkpoint, cell.dtype, Attention.EAGER)
    t = {name: _forward(model, huggingface.tokens(checkpoint, name)) for name in huggingface.PROMPT_SETS}
    return Measurement(
        cell=cell,
        origin=errors.origin_error(t["origin"], reference["origin"]),
        probability=errors.probability_error(t["natural"], reference["natural"]),
        logit=errors.logit_error(t["natural"], reference["natural"]),
        shift=errors.removed_shift(t["natural"], reference["natural"]),
        changed_weights=model.changed_weights,
    )


def _forward(model: lens.Lens, ids: torch.Tensor) -> torch.Tensor:
    try:
        with torch.inference_mode():
            return model.logits(ids)
    except TlbenchError:
        raise
    except Exception as error:
        raise CellFailed(f"the forward pass raised {type(error).__name__}: {error}") from error


def _make_deterministic(threads: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
