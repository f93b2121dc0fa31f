"""Files from the Python package index, verified and kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pypi_simple import DistributionPackage, NoSuchProjectError, PyPISimple, UnsupportedRepoVersionError

from tlbench.exceptions import BadInput
from tlbench.files import sha256_of, written_whole

INDEX_VARIABLE = "PIP_INDEX_URL"
TIMEOUT_S = 60.0


def client() -> PyPISimple:
    """The index that pip itself would ask: ``$PIP_INDEX_URL``, else PyPI."""
    endpoint = os.environ.get(INDEX_VARIABLE)
    return PyPISimple(endpoint) if endpoint else PyPISimple()


def packages_of(index: PyPISimple, project: str) -> list[DistributionPackage]:
    """Every file of a project.

    Raises:
        OSError: if the index cannot be reached.
        BadInput: if it does not know the project.
    """
    try:
        return index.get_project_page(project, timeout=TIMEOUT_S).packages
    except (NoSuchProjectError, UnsupportedRepoVersionError, ValueError) as error:
        raise BadInput(
            f"asked the package index for {project} and got no usable answer ({type(error).__name__}): unset "
            f"{INDEX_VARIABLE}, or set it to an index that has the project"
        ) from error


def kept(folder: Path, filename: str, sha256: str) -> Path | None:
    """The file of that name in ``folder`` if it lies there whole. An index cannot name one outside of it."""
    path = folder / Path(filename).name
    return path if path.is_file() and sha256_of(path) == sha256 else None


def download(
    index: PyPISimple, package: DistributionPackage, folder: Path, say: Callable[[str], None] = lambda _: None
) -> Path:
    """Download one file into ``folder``, unless it lies there whole, and verify it.

    Raises:
        OSError: if the index cannot be reached.
        BadInput: if the index gives no digest, or what it sent has another.
    """
    digest = package.digests.get("sha256")
    if digest is None:
        raise BadInput(f"the package index gives no SHA-256 of {package.filename}: unset {INDEX_VARIABLE}")
    if whole := kept(folder, package.filename, digest):
        return whole
    say(f"downloading {package.filename}")
    target = folder / Path(package.filename).name
    with written_whole(target) as temporary:
        index.download_package(package, temporary, verify=False, timeout=TIMEOUT_S)
        found = sha256_of(temporary)
        if found != digest:
            raise BadInput(
                f"the package index lists {package.filename} with SHA-256 {digest[:16]}… and sent {found[:16]}…: try "
                "again, and if it stays so, trust neither"
            )
    return target


def wheel(project: str, version: str, folder: Path, say: Callable[[str], None] = lambda _: None) -> Path:
    """A release's wheel, in ``folder``.

    Raises:
        BadInput: if there is no such wheel, or the index cannot be reached.
    """
    index = client()
    try:
        for package in packages_of(index, project):
            if package.version == version and package.filename.endswith(".whl"):
                return download(index, package, folder, say)
    except OSError as error:
        raise BadInput(
            f"{project} {version} cannot be downloaded, since the package index cannot be reached "
            f"({type(error).__name__}): connect and run the command again"
        ) from error
    raise BadInput(f"the package index has no wheel of {project} {version}: correct the catalogue")
