"""Verify which TransformerLens, torch and transformers a process has imported.

Every commit installs as version 0.0.0, so version numbers cannot show that an environment still has the previous commit's
code. The installer (``tlbench/environments/installer.py``) leaves a record in the environment: the commit, and a hash of the
wheel's files. Before a figure is recorded, the imported files are hashed and compared with it. torch and transformers must
come from the environment itself, in the recorded versions: another folder on the path may hold others.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tlbench.environments import installer
from tlbench.exceptions import WrongLibrary, WrongTransformerLens
from tlbench.files import canonical_json, sha256_of, tree_digest
from tlbench.paths import COMMIT_VARIABLE

PACKAGE = "transformer_lens"
RECORD_NAME = "tlbench-install.json"
PACKAGE_VARIABLE = "TLBENCH_PACKAGE"
"""A folder with the TransformerLens to import and its record, instead of the one that the environment has."""
LIBRARIES = ("torch", "transformers")
ADVICE = "delete the environment and run again"


@dataclass(frozen=True)
class Provenance:
    """The imported TransformerLens: its full commit hash, "" if none is recorded, and its :func:`package_digest`."""

    commit: str
    package_digest: str


def place() -> None:
    """Have Python import TransformerLens from the folder that ``$TLBENCH_PACKAGE`` names, if it names one."""
    if folder := os.environ.get(PACKAGE_VARIABLE):
        sys.path.insert(0, folder)
        importlib.invalidate_caches()


@lru_cache
def prove() -> Provenance:
    """Hash the imported TransformerLens and compare it with what the installer recorded.

    Raises:
        WrongTransformerLens: if a commit is requested and the record is missing or names another commit, or if the imported
            files differ from the wheel's.
        WrongLibrary: if the installer made the environment, and torch or transformers is not the one that it installed.
    """
    import transformer_lens

    folder = Path(transformer_lens.__path__[0])
    digest = package_digest(folder)
    requested = os.environ.get(COMMIT_VARIABLE, "")
    record_path = Path(os.environ.get(PACKAGE_VARIABLE) or sys.prefix) / RECORD_NAME
    if not record_path.exists():
        if not requested:
            return Provenance("", digest)
        raise WrongTransformerLens(
            f"cannot verify that commit {requested[:8]} is installed, because {record_path} is missing: install with the "
            "install_command of asv.conf.json"
        )
    record = json.loads(record_path.read_text())
    commit = record["commit"]
    if requested and commit != requested:
        raise WrongTransformerLens(f"expected commit {requested[:8]}, but {commit[:8]} is installed: {ADVICE}")
    if record["package_digest"] != digest:
        raise WrongTransformerLens(
            f"the files in {folder} differ from the wheel built from {commit[:8] or 'the source tree'}: {ADVICE}"
        )
    for name in LIBRARIES:
        _prove_library(name, record["packages"])
    return Provenance(commit, digest)


def _prove_library(name: str, installed: list[str]) -> None:
    library = importlib.import_module(name)
    file, prefix = Path(str(library.__file__)).absolute(), Path(sys.prefix).absolute()
    if not file.is_relative_to(prefix):
        raise WrongLibrary(f"imported {name} from {file.parent}, not from the environment {prefix}: unset PYTHONPATH")
    found = f"{name}=={library.__version__}"
    recorded = next((line for line in installed if line.startswith(f"{name}==")), found)
    if found != recorded:
        raise WrongLibrary(f"imported {found} in {prefix}, but {recorded} was installed there: {ADVICE}")


def installed_dependencies() -> str:
    """The :func:`dependencies_digest` of this interpreter's environment; "" if there is no record that can be read."""
    try:
        return dependencies_digest(json.loads((Path(sys.prefix) / RECORD_NAME).read_text()))
    except (OSError, ValueError, KeyError):
        return ""


def dependencies_digest(record: Mapping[str, Any]) -> str:
    """A hash of a record's era and of every installed package but TransformerLens."""
    packages = [line for line in record["packages"] if not line.startswith(f"{installer.PACKAGE}==")]
    return hashlib.sha256(canonical_json([record["era"], packages]).encode()).hexdigest()


def package_digest(folder: Path) -> str:
    """One SHA-256 over a package folder: every file's relative name and bytes, except compiled files."""
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return tree_digest({path.relative_to(folder).as_posix(): sha256_of(path) for path in files})


def wheel_digest(files: dict[str, bytes]) -> str:
    """The same hash for a wheel, from its members' bytes by name."""
    prefix = f"{PACKAGE}/"
    members = {name: content for name, content in files.items() if name.startswith(prefix) and not name.endswith("/")}
    return tree_digest({name.removeprefix(prefix): hashlib.sha256(content).hexdigest() for name, content in members.items()})
