"""Where things are kept. Everything that is not in the repository lies under one cache folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "TLBENCH_CACHE"


def cache_dir() -> Path:
    """The folder of checkpoints, references and measured cells: ``$TLBENCH_CACHE``, else the user's cache folder."""
    override = os.environ.get(CACHE_VARIABLE)
    return Path(override).expanduser() if override else Path(platformdirs.user_cache_dir("tlbench"))


def package_dir() -> Path:
    """The folder of the tlbench package itself."""
    return Path(__file__).resolve().parent
