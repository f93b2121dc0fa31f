"""Where tlbench stores files. Everything outside the repository is in one cache folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from tlbench.arithmetic import wanted

CACHE_VARIABLE = "TLBENCH_CACHE"
MACHINE_VARIABLE = "TLBENCH_MACHINE"
"""asv's machine name for the results of a run. asv_plugins/lane.py sets it."""
RUN_VARIABLE = "TLBENCH_RUN"
"""A folder that lasts as long as asv, for a server that commits share. asv_plugins/one_process.py makes it."""
COMMIT_VARIABLE, CONFIGURATION_VARIABLE = "ASV_COMMIT", "ASV_CONF_DIR"
"""Set by asv for benchmarks: the commit under test, and the folder of asv's configuration."""
OUTCOMES = Path(".asv") / "outcomes"


def cache_dir() -> Path:
    """The folder of checkpoints, references and measured cells: ``$TLBENCH_CACHE``, else the user's cache folder."""
    override = os.environ.get(CACHE_VARIABLE)
    return Path(override).expanduser() if override else Path(platformdirs.user_cache_dir("tlbench"))


def package_dir() -> Path:
    """The folder of the tlbench package itself."""
    return Path(__file__).resolve().parent


def checkout_dir() -> Path | None:
    """The top folder of the repository that tlbench runs in. None if it was installed from a wheel."""
    folder = package_dir().parent
    return folder if (folder / "asv.conf.json").is_file() else None


def outcomes_dir() -> Path | None:
    """The folder for outcomes of an asv run, by machine and commit, beside asv's environments. None outside asv."""
    commit, configuration = os.environ.get(COMMIT_VARIABLE), os.environ.get(CONFIGURATION_VARIABLE)
    machine = os.environ.get(MACHINE_VARIABLE) or wanted()
    return Path(configuration) / OUTCOMES / machine / commit if commit and configuration else None
