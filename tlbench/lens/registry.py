"""What a TransformerLens says that it supports: its adapters, and the list of models in its package."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tlbench.exceptions import NotApplicable

LIST = Path("tools", "model_registry", "data", "supported_models.json")


def supported() -> dict[str, int]:
    """How many models its registry lists of each architecture. Those with an adapter and no model are there with 0.

    Raises:
        NotApplicable: if this TransformerLens has no adapters or no registry.
    """
    try:
        import transformer_lens
        from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
    except ImportError as error:
        raise NotApplicable(
            f"this TransformerLens has no list of architectures ({error}): 3.0 is the first that has"
        ) from error
    path = Path(transformer_lens.__file__).parent / LIST
    if not path.is_file():
        raise NotApplicable(f"this TransformerLens has no registry of models: {LIST} is not in its package")
    listed = Counter(str(model["architecture_id"]) for model in json.loads(path.read_text())["models"])
    return dict.fromkeys(SUPPORTED_ARCHITECTURES, 0) | dict(listed)
