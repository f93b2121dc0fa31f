"""TransformerLens of any version, behind one narrow interface.

All differences between versions live in this package. It detects them from what the installed TransformerLens offers,
because every commit installs as version 0.0.0 and the version number says nothing.
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
        CellFailed: if the import fails, with the cause.
    """
    try:
        import transformer_lens  # noqa: F401
    except Exception as error:
        raise CellFailed(
            f"importing TransformerLens failed ({type(error).__name__}: {error}): its dependencies do not match; see "
            "docs/operating.md, eras"
        ) from error


def require(wrapper: Wrapper) -> None:
    """Check that this TransformerLens has a wrapper, without loading a model.

    Raises:
        NotApplicable: if it has no such wrapper.
        CellFailed: if TransformerLens or the wrapper does not import.
    """
    import_transformer_lens()
    {Wrapper.HOOKED_TRANSFORMER: hooked_transformer_class, Wrapper.TRANSFORMER_BRIDGE: bridge_class}[wrapper]()


def load(cell: Cell, checkpoint: Checkpoint, *, readback: bool = True) -> Lens:
    """Load a cell's model in TransformerLens and process its weights.

    Args:
        cell: the cell.
        checkpoint: its checkpoint.
        readback: whether to compare the weights before and after processing, to count the changed ones. Turn it off when
            timing the load.

    Raises:
        NotApplicable: if this TransformerLens has no such wrapper, option or architecture.
        CellFailed: if loading raised.
    """
    import_transformer_lens()
    loader = {
        Wrapper.HOOKED_TRANSFORMER: load_hooked_transformer,
        Wrapper.TRANSFORMER_BRIDGE: load_bridge,
    }[cell.wrapper]
    return loader(checkpoint, cell.dtype, cell.option, readback)
