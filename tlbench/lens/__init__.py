"""TransformerLens behind one narrow interface, whatever its version.

All differences between versions live in this package, found by looking at what the installed TransformerLens offers
(every commit installs as version 0.0.0, so a version number would say nothing).
"""

from __future__ import annotations

from tlbench.checkpoints import Checkpoint
from tlbench.exceptions import CellFailed
from tlbench.grid import Cell, Wrapper
from tlbench.lens.bridge import bridge_class, load_bridge
from tlbench.lens.hooked import hooked_transformer_class, load_hooked_transformer
from tlbench.lens.interface import Hook, Lens

__all__ = ["Hook", "Lens", "import_transformer_lens", "load", "require"]


def import_transformer_lens() -> None:
    """Import TransformerLens.

    Raises:
        CellFailed: if the installed one does not import, with the cause.
    """
    try:
        import transformer_lens  # noqa: F401
    except Exception as error:
        raise CellFailed(
            f"this TransformerLens does not import ({type(error).__name__}: {error}): its dependencies are not the ones "
            "it needs; see docs/operating.md, eras"
        ) from error


def require(wrapper: Wrapper) -> None:
    """Whether there is such a wrapper is told without loading anything.

    Raises:
        NotApplicable: if this TransformerLens has no such wrapper.
        CellFailed: if it does not import.
    """
    import_transformer_lens()
    {Wrapper.HOOKED_TRANSFORMER: hooked_transformer_class, Wrapper.TRANSFORMER_BRIDGE: bridge_class}[wrapper]()


def load(cell: Cell, checkpoint: Checkpoint, *, readback: bool = True) -> Lens:
    """Load the cell's model in TransformerLens, with its weights processed.

    Args:
        cell: which cell.
        checkpoint: its checkpoint.
        readback: whether the weights are read before and after, to count those that processing changed. Where loading is
            timed they must not be.

    Raises:
        NotApplicable: if this TransformerLens has no such wrapper, option or architecture.
        CellFailed: if it has, and loading raised.
    """
    import_transformer_lens()
    loader = {
        Wrapper.HOOKED_TRANSFORMER: load_hooked_transformer,
        Wrapper.TRANSFORMER_BRIDGE: load_bridge,
    }[cell.wrapper]
    return loader(checkpoint, cell.dtype, cell.option, readback)
