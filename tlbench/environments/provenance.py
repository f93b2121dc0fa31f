"""Verify which TransformerLens a process has imported.

Every commit installs as version 0.0.0. An installer that trusts version numbers would keep the previous commit's code, and
all commits would measure the same. So the installer (``tlbench/environments/installer.py``) leaves a record in the
environment: the commit, and a hash of the wheel's files. Before a figure is recorded, the imported files are hashed and
compared with it.
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
    """The identity of the imported TransformerLens.

    Attributes:
        commit: the full commit hash, or "" if none was requested and none recorded.
        package_digest: SHA-256 over the names and bytes of the imported package's Python and data files.
    """

    commit: str
    package_digest: str


@lru_cache
def prove() -> Provenance:
    """Hash the imported TransformerLens and compare it with what the installer recorded.

    Raises:
        WrongTransformerLens: if a commit is requested and the record is missing or names another commit, or if the imported
            files differ from the wheel's.
    """
    import transformer_lens

    folder = Path(transformer_lens.__path__[0])
    digest = package_digest(folder)
    requested = os.environ.get(COMMIT_VARIABLE, "")
    record_path = Path(sys.prefix) / RECORD_NAME
    if not record_path.exists():
        if requested:
            raise WrongTransformerLens(
                f"cannot verify that commit {requested[:8]} is installed, because {record_path} is missing: install with "
                "the install_command of asv.conf.json"
            )
        return Provenance("", digest)
    record = json.loads(record_path.read_text())
    if requested and record["commit"] != requested:
        raise WrongTransformerLens(
            f"expected commit {requested[:8]}, but {record['commit'][:8]} is installed: delete the environment and run again"
        )
    if record["package_digest"] != digest:
        raise WrongTransformerLens(
            f"the files in {folder} differ from the wheel built from {record['commit'][:8]}: delete the environment and run "
            "again"
        )
    return Provenance(record["commit"], digest)


def package_digest(folder: Path) -> str:
    """One SHA-256 over a package folder: every file's relative name and bytes, except compiled files."""
    return tree_digest(
        {
            path.relative_to(folder).as_posix(): sha256_of(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        }
    )


def wheel_digest(files: dict[str, bytes]) -> str:
    """The same hash for a wheel, from its members' bytes by name."""
    prefix = f"{PACKAGE}/"
    return tree_digest(
        {
            name.removeprefix(prefix): hashlib.sha256(content).hexdigest()
            for name, content in files.items()
            if name.startswith(prefix) and not name.endswith("/")
        }
    )
