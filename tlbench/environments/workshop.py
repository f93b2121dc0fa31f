"""Prepare many commits of TransformerLens cheaply: what several have in common is made once.

Commits with the same build files share one wheel, of which only the metadata is used. Commits with the same requirements
share one environment, and so do those whose requirements resolve to the same packages. A commit's own package is written to
a folder from its git objects, with the record that :mod:`tlbench.environments.provenance` proves the import with.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tlbench.environments import create, folder_of, installer, lock_of
from tlbench.environments.commits import Clone
from tlbench.environments.provenance import RECORD_NAME, dependencies_digest, wheel_digest
from tlbench.exceptions import CellFailed, TlbenchError
from tlbench.files import canonical_json, folder_written_whole, locked, write_json
from tlbench.paths import cache_dir

T = TypeVar("T")
REASON_LENGTH = 300
SHOWN = ("torch", "transformers")


@dataclass(frozen=True)
class Environment:
    """The packages that TransformerLens is measured with.

    Attributes:
        digest: a hash of the era and of every installed package but TransformerLens.
        packages: one ``name==version`` a package, with TransformerLens.
    """

    python: Path
    era: str
    digest: str
    packages: tuple[str, ...]

    def __str__(self) -> str:
        versions = dict(package.split("==", 1) for package in self.packages)
        return (
            f"{self.era} ({', '.join(f'{name} {versions[name]}' for name in SHOWN if name in versions)}, {self.digest[:6]})"
        )


@dataclass
class Workshop:
    """Builds and installs commits of a clone. A commit that does not build or install raises CellFailed, again at once."""

    clone: Clone
    _done: dict[str, Any] = field(default_factory=dict)

    def environment(self, commit: str) -> Environment:
        """The environment that a commit asks for. Raises CellFailed if it does not build or install."""
        wheel = self.wheel(commit)
        needs = [installer.era_of(wheel), *sorted(map(str, installer.requirements_of(wheel)))]
        return self._once(f"install {needs}", lambda: _environment(wheel, needs))

    def wheel(self, commit: str) -> Path:
        """A wheel with a commit's metadata. Its package may be another commit's. Raises CellFailed if it does not build."""
        build_files = canonical_json(self.clone.build_files(commit))
        folder = cache_dir() / "wheels" / hashlib.sha256(build_files.encode()).hexdigest()[:16]
        return self._once(f"build {build_files}", lambda: self._build(commit, folder))

    def write_package(self, commit: str, environment: Environment, folder: Path) -> None:
        """Write a commit's package, its metadata and its record into a folder. Raises CellFailed if there is no package."""
        files = self.clone.write(commit, folder)
        wheel = self.wheel(commit)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if ".dist-info/" in name])
        record = {
            "commit": commit,
            "era": environment.era,
            "package_digest": wheel_digest(files),
            "packages": list(environment.packages),
            "wheel": wheel.name,
        }
        write_json(folder / RECORD_NAME, record)

    def _build(self, commit: str, folder: Path) -> Path:
        with locked(lock_of(folder)):
            if not folder.is_dir():
                with folder_written_whole(folder) as temporary:
                    self.clone.write(commit, temporary / "source", top=True)
                    try:
                        installer.build(temporary / "source", temporary / "wheels")
                    except installer.InstallError as error:
                        raise CellFailed(str(error).replace(str(temporary), "")) from error
                    shutil.rmtree(temporary / "source")
        (wheel,) = (folder / "wheels").glob("*.whl")
        return wheel

    def _once(self, key: str, make: Callable[[], T]) -> T:
        if key not in self._done:
            try:
                self._done[key] = make()
            except (installer.InstallError, CellFailed) as error:
                self._done[key] = CellFailed(" ".join(str(error).split())[-REASON_LENGTH:])  # uv's last words say most
        if isinstance(failure := self._done[key], TlbenchError):
            raise failure
        made: T = self._done[key]
        return made


def _environment(wheel: Path, needs: list[str]) -> Environment:
    """The environment of these needs. Where several lead to the same packages, they are one environment."""
    note = folder_of(f"needs-{hashlib.sha256(canonical_json(needs).encode()).hexdigest()[:12]}").with_suffix(".json")
    with locked(lock_of(note)):
        folder = note.parent / json.loads(note.read_text())["environment"] if note.exists() else None
        if folder is None or not (folder / RECORD_NAME).exists():
            new = note.with_suffix(f".{os.getpid()}")
            create(new, f"commits of {needs[0]}")
            installer.install(wheel, "", str(new / "bin" / "python"))
            folder = folder_of(f"deps-{dependencies_digest(_record(new))[:12]}")
            with locked(lock_of(folder)):
                if (folder / RECORD_NAME).exists():
                    shutil.rmtree(new)
                else:
                    shutil.rmtree(folder, ignore_errors=True)
                    new.rename(folder)
            write_json(note, {"environment": folder.name})
    record = _record(folder)
    return Environment(folder / "bin" / "python", record["era"], dependencies_digest(record), tuple(record["packages"]))


def _record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / RECORD_NAME).read_text())
    return record
