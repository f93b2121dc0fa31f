"""Keep TransformerLens from installing packages while it loads a model.

From 4.0 on, ``boot_transformers`` installs torchvision for models with images, and with it another torch, under the process
that runs. An environment under test must stay the one that was asked for.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch


class _NoInstaller(subprocess.Popen[Any]):
    def __init__(self, args: Any, *rest: Any, **keywords: Any) -> None:
        words = args.split() if isinstance(args, str) else [str(word) for word in args]
        if "install" in words:
            raise PermissionError(f"tlbench keeps its environments as they are, and does not run: {' '.join(words)}")
        super().__init__(args, *rest, **keywords)


@contextmanager
def no_installs() -> Iterator[None]:
    """Within the block, starting a program whose words have ``install`` among them raises ``PermissionError``."""
    with patch.object(subprocess, "Popen", _NoInstaller):
        yield
