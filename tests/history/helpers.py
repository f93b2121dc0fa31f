"""A package index in a folder, source archives to fill it, and git to look at what came of them."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import requests
from pypi_simple import DistributionPackage, ProjectPage, PyPISimple

from tlbench.files import sha256_of

FIRST_UPLOAD = datetime(2023, 3, 19, 0, 42, 13, tzinfo=UTC)


class FakeIndex(PyPISimple):
    """A package index without a network: its releases are uploaded a day apart, in the order given."""

    def __init__(self, folder: Path, versions: Sequence[str] = ()) -> None:
        super().__init__()
        self.folder = folder
        self.packages: list[DistributionPackage] = []
        self.fetched: list[str] = []
        self.reachable = True
        for version in versions:
            self.upload(version)

    def upload(self, version: str, **sdist: object) -> None:
        archive = write_sdist(self.folder, version, **sdist)  # type: ignore[arg-type]
        uploaded = FIRST_UPLOAD + timedelta(days=len(self.packages))
        self.packages.append(package(archive.name, digests={"sha256": sha256_of(archive)}, upload_time=uploaded))

    def get_project_page(self, project: str, timeout: float) -> ProjectPage:  # type: ignore[override]
        if not self.reachable:
            raise requests.ConnectionError("no route")
        return ProjectPage(project, list(reversed(self.packages)), None, None)

    def download_package(self, pkg: DistributionPackage, path: Path, **options: object) -> None:  # type: ignore[override]
        if not self.reachable:
            raise requests.ConnectionError("no route")
        self.fetched.append(pkg.version or "")
        path.write_bytes((self.folder / pkg.filename).read_bytes())


def package(filename: str, **changes: object) -> DistributionPackage:
    """What a package index says of a file."""
    project, version = filename.removesuffix(".tar.gz").split("-")[:2]
    described = DistributionPackage(
        filename=filename,
        url=f"file:///{filename}",
        project=project,
        version=version,
        package_type="sdist",
        digests={"sha256": "a" * 64},
        requires_python=None,
        has_sig=None,
        upload_time=FIRST_UPLOAD,
    )
    return replace(described, **changes)  # type: ignore[arg-type]


def write_sdist(
    folder: Path, version: str, *, extra: Sequence[tuple[tarfile.TarInfo, bytes]] = (), mode: int = 0o664
) -> Path:
    """A source archive with a package of one line, and whatever ``extra`` members are given."""
    folder.mkdir(parents=True, exist_ok=True)
    top = f"transformer_lens-{version}"
    archive = folder / f"{top}.tar.gz"
    module = tarfile.TarInfo(f"{top}/transformer_lens/__init__.py")
    module.mode = mode
    with tarfile.open(archive, "w:gz") as tar:
        for member, content in [(module, f"__version__ = {version!r}\n".encode()), *extra]:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive


def link(name: str, to: str) -> tarfile.TarInfo:
    """The member of an archive that is a symbolic link."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, to
    return member


def git(repository: Path, *arguments: str) -> str:
    """What git says of a repository."""
    command = ["git", f"--git-dir={repository}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def git_hash(kind: str, content: bytes) -> str:
    """The name of an object, as git's documentation defines it."""
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()
