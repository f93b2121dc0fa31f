"""Download files from the Python package index, verify them and keep them."""

from __future__ import annotations

import os
from bisect import bisect
from collections.abc import Sequence
from pathlib import Path

from packaging.version import InvalidVersion, Version
from pypi_simple import DistributionPackage, NoSuchProjectError, PyPISimple, UnsupportedRepoVersionError

from tlbench.environments import Say
from tlbench.exceptions import BadInput
from tlbench.files import sha256_of, written_whole

INDEX_VARIABLE = "PIP_INDEX_URL"
TIMEOUT_S = 60.0


def client() -> PyPISimple:
    """A client of the index that pip uses: ``$PIP_INDEX_URL``, else PyPI."""
    endpoint = os.environ.get(INDEX_VARIABLE)
    return PyPISimple(endpoint) if endpoint else PyPISimple()


def packages_of(index: PyPISimple, project: str) -> list[DistributionPackage]:
    """List every file of a project.

    Raises:
        OSError: if the index cannot be reached.
        BadInput: if it does not have the project.
    """
    try:
        return index.get_project_page(project, timeout=TIMEOUT_S).packages
    except (NoSuchProjectError, UnsupportedRepoVersionError, ValueError) as error:
        answer = f"the package index gave no usable answer for {project} ({type(error).__name__})"
        raise BadInput(f"{answer}: unset {INDEX_VARIABLE}, or set it to an index that has the project") from error


def kept(folder: Path, filename: str, sha256: str) -> Path | None:
    """The file of that name in ``folder`` if its hash matches, else None. Only the last part of the name counts."""
    path = folder / Path(filename).name
    return path if path.is_file() and sha256_of(path) == sha256 else None


def download(index: PyPISimple, package: DistributionPackage, folder: Path, say: Say = lambda _: None) -> Path:
    """Download a file into ``folder`` and verify it, unless an intact copy is there already.

    Raises:
        OSError: if the index cannot be reached.
        BadInput: if the index gives no digest, or the download does not match it.
    """
    digest = package.digests.get("sha256")
    if digest is None:
        raise BadInput(f"the package index gives no SHA-256 for {package.filename}: unset {INDEX_VARIABLE}")
    if intact := kept(folder, package.filename, digest):
        return intact
    say(f"downloading {package.filename}")
    target = folder / Path(package.filename).name
    with written_whole(target) as temporary:
        index.download_package(package, temporary, verify=False, timeout=TIMEOUT_S)
        received = sha256_of(temporary)
        if received != digest:
            raise BadInput(
                f"the package index lists {package.filename} with SHA-256 {digest[:16]}… but sent {received[:16]}…: try "
                "again; if this persists, do not trust the index"
            )
    return target


def wheel(project: str, version: str, folder: Path, say: Say = lambda _: None) -> Path:
    """Download a release's wheel into ``folder``, unless it is there already.

    Raises:
        BadInput: if there is no such wheel, or the index cannot be reached.
    """
    index = client()
    try:
        packages = packages_of(index, project)
        wheels = {p.version: p for p in packages if p.version and p.filename.endswith(".whl")}
        for other, package in wheels.items():
            if _parsed(other) == _parsed(version):
                return download(index, package, folder, say)
    except OSError as error:
        cause = f"the package index cannot be reached ({type(error).__name__})"
        advice = "connect to the network and run the command again"
        raise BadInput(f"cannot download {project} {version}: {cause}: {advice}") from error
    raise BadInput(f"no release {version} of {project}{_nearest(version, list(wheels))}")


def _nearest(version: str, others: Sequence[str]) -> str:
    """Which releases there are instead: the two before, the two after, and the newest."""
    releases = sorted((other for other in others if not _parsed(other).is_prerelease), key=_parsed)
    if not releases:
        return " has a wheel on the package index"
    place = bisect(list(map(_parsed, releases)), _parsed(version))
    nearest = releases[max(place - 2, 0) : place + 2]
    return f" is on the package index: the nearest are {', '.join(nearest)}, and the newest is {releases[-1]}"


def _parsed(version: str) -> Version:
    try:
        return Version(version)
    except InvalidVersion:
        return Version("0")  # older than any
