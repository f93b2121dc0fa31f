"""Proof of which TransformerLens a process has imported.

Every commit installs as version 0.0.0, so an installer that trusts version numbers keeps the previous commit's code and
every commit then measures the same. The installer (``tlbench/environments/installer.py``) therefore leaves a record of the
commit and of a hash of the wheel's files in the environment, and before a figure is recorded the files that were really
imported are hashed and compared with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tlbench.exceptions import WrongTransformerLens
from tlbench.files import sha256_of, tree_digest
from tlbench.paths import COMMIT_VARIABLE

PACKAGE = "transformer_lens"
RECORD_NAME = "tlbench-install.json"


@dataclass(frozen=True)
class Provenance:
    """Which TransformerLens this is.

    Attributes:
        commit: the full commit hash, or "" where nothing was asked for and nothing recorded.
        package_digest: SHA-256 over the names and bytes of the imported package's Python and data files.
    """

    commit: str
    package_digest: str


@lru_cache
def prove() -> Provenance:
    """Hash the imported TransformerLens and compare it with what the installer recorded.

    Raises:
        WrongTransformerLens: if the record is missing though a commit was asked for, names another commit, or the
            imported files are not the wheel's.
    """
    import transformer_lens

    folder = Path(transformer_lens.__path__[0])
    digest = package_digest(folder)
    asked = os.environ.get(COMMIT_VARIABLE, "")
    record_path = Path(sys.prefix) / RECORD_NAME
    if not record_path.exists():
        if asked:
            raise WrongTransformerLens(
                f"commit {asked[:8]} was asked for, and {record_path} is missing, so nothing proves what is installed: "
                "install with the install_command of asv.conf.json"
            )
        return Provenance("", digest)
    record = json.loads(record_path.read_text())
    if asked and record["commit"] != asked:
        raise WrongTransformerLens(
            f"commit {asked[:8]} was asked for and {record['commit'][:8]} is installed: delete the environment and run again"
        )
    if record["package_digest"] != digest:
        raise WrongTransformerLens(
            f"the files of {folder} are not those of the wheel built from {record['commit'][:8]}: delete the environment "
            "and run again"
        )
    return Provenance(record["commit"], digest)


def package_digest(folder: Path) -> str:
    """One SHA-256 over a package folder: every file's relative name and bytes, compiled files left out."""
    return tree_digest(
        {
            path.relative_to(folder).as_posix(): sha256_of(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        }
    )


def wheel_digest(files: dict[str, bytes]) -> str:
    """The same hash, from a wheel's members (name in the archive to bytes)."""
    prefix = f"{PACKAGE}/"
    return tree_digest(
        {
            name.removeprefix(prefix): hashlib.sha256(content).hexdigest()
            for name, content in files.items()
            if name.startswith(prefix) and not name.endswith("/")
        }
    )
