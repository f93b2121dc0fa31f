"""Where things are kept. Everything that is not in the repository lies under one cache folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from tlbench.arithmetic import wanted

CACHE_VARIABLE = "TLBENCH_CACHE"
MACHINE_VARIABLE = "TLBENCH_MACHINE"
"""The name of asv's machine that a run's results are stored under, which asv_plugins/lane.py sets."""
COMMIT_VARIABLE, CONFIGURATION_VARIABLE = "ASV_COMMIT", "ASV_CONF_DIR"
"""What asv tells a benchmark: the commit under test, and where its configuration lies."""
OUTCOMES = Path(".asv") / "outcomes"


def cache_dir() -> Path:
    """The folder of checkpoints, references and measured cells: ``$TLBENCH_CACHE``, else the user's cache folder."""
    override = os.environ.get(CACHE_VARIABLE)
    return Path(override).expanduser() if override else Path(platformdirs.user_cache_dir("tlbench"))


def package_dir() -> Path:
    """The folder of the tlbench package itself."""
    return Path(__file__).resolve().parent


def outcomes_dir() -> Path | None:
    """Where outcomes are kept in a run of asv, beside its environments, by machine and commit; else None."""
    commit, configuration = os.environ.get(COMMIT_VARIABLE), os.environ.get(CONFIGURATION_VARIABLE)
    machine = os.environ.get(MACHINE_VARIABLE) or wanted()
    return Path(configuration) / OUTCOMES / machine / commit if commit and configuration else None
