"""What does a model hold beyond HuggingFace's, and what does a forward pass leave behind?"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from tlbench.grid import Cell
from tlbench.questions.loading import Loaded, forward, load_cell
from tlbench.records.promises import HeldMemory
from tlbench.reference import huggingface


def measure_held_memory(cell: Cell, loaded: Loaded | None = None) -> HeldMemory:
    """Count the bytes of all tensors that both models hold, after a pass over one token and after one over the prompts.

    Raises what :func:`load_cell` raises, and CellFailed if running the model raised.
    """
    checkpoint, lens = loaded or load_cell(cell)
    ids = huggingface.tokens(checkpoint, "natural")
    forward(lens, ids[:1, :1])
    held_bytes = lens.held_bytes()
    forward(lens, ids)
    own = huggingface.load_model(checkpoint.folder, cell.dtype)
    parameter_bytes = _bytes(own.parameters())
    tied = own.get_input_embeddings().weight is getattr(own.get_output_embeddings(), "weight", None)
    return HeldMemory(
        cell=cell,
        parameter_bytes=parameter_bytes,
        reference_bytes=parameter_bytes + _bytes(own.buffers()),
        # Processing changes the unembedding alone, so it is no longer the embedding.
        untied_bytes=own.get_input_embeddings().weight.nbytes if tied else 0,
        held_bytes=held_bytes,
        left_bytes=max(lens.held_bytes() - held_bytes, 0),
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())
