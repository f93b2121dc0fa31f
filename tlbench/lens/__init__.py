"""TransformerLens of any version, behind one narrow interface.

All differences between versions live in this package. It detects them from what the installed TransformerLens offers,
because every commit installs as version 0.0.0.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from tlbench.checkpoints import Checkpoint
from tlbench.exceptions import CellFailed, DoesNotImport
from tlbench.grid import Cell, Wrapper
from tlbench.lens.bridge import bridge_class, load_bridge
from tlbench.lens.hooked import hooked_transformer_class, load_hooked_transformer
from tlbench.lens.installs import no_installs
from tlbench.lens.interface import Hook, Lens

__all__ = ["Hook", "Lens", "import_transformer_lens", "load", "require"]

_WRAPPERS = {
    Wrapper.HOOKED_TRANSFORMER: (hooked_transformer_class, load_hooked_transformer),
    Wrapper.TRANSFORMER_BRIDGE: (bridge_class, load_bridge),
}


def import_transformer_lens() -> None:
    """Import TransformerLens. Raises DoesNotImport with the cause, or CellFailed if it is not installed."""
    if find_spec("transformer_lens") is None:
        raise CellFailed(f"TransformerLens is not installed in {sys.prefix}: install it there, or name a release with --tl")
    try:
        import transformer_lens  # noqa: F401
    except Exception as error:
        failure = f"importing TransformerLens failed ({type(error).__name__}: {error})"
        if isinstance(error, (OSError, MemoryError)):  # the machine's doing, so it may import another time
            raise CellFailed(f"{failure}: free memory or disk, and try again") from error
        raise DoesNotImport(f"{failure}: its dependencies do not match; see docs/operating.md, eras") from error


def require(wrapper: Wrapper) -> None:
    """Check that this TransformerLens has a wrapper, without loading a model. Raises like :func:`load`."""
    import_transformer_lens()
    find_class, _ = _WRAPPERS[wrapper]
    find_class()


def load(cell: Cell, checkpoint: Checkpoint, *, readback: bool = True) -> Lens:
    """Load a cell's model in TransformerLens and process its weights.

    ``readback`` counts the weights that processing changes. Turn it off when timing the load.

    Raises:
        NotApplicable: if this TransformerLens has no such wrapper, option or architecture.
        CellFailed: if importing or loading raised.
    """
    import_transformer_lens()
    _, load_model = _WRAPPERS[cell.wrapper]
    with no_installs():
        return load_model(checkpoint, cell.dtype, cell.option, readback)
