"""What the package index has of TransformerLens, with and without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pypi_simple import DistributionPackage, PyPISimple

from tlbench.environments.package_index import INDEX_VARIABLE, download, kept, packages_of
from tlbench.exceptions import BadInput
from tlbench.files import write_json

PROJECT = "transformer-lens"
LISTING_NAME = "releases.json"


@dataclass(frozen=True)
class Release:
    """One release on the package index.

    Attributes:
        version: as the archive's name has it, such as ``3.0.0b1``.
        filename: the name of the source archive (sdist).
        sha256: the hexadecimal SHA-256 of the archive.
        uploaded: when the archive was uploaded, in UTC, whole seconds.
    """

    version: str
    filename: str
    sha256: str
    uploaded: datetime

    @property
    def tag(self) -> str:
        """TransformerLens's own name of the tag. No release on PyPI has another than ``v`` + version."""
        return f"v{self.version}"


@dataclass(frozen=True)
class Listing:
    """What the package index has, now or when it was last reached.

    Attributes:
        releases: those with a gzipped sdist, in any order.
        skipped: from version to the reason why it is not among them.
        offline: whether the index could not be reached and this is what it had earlier.
        packages: from the name of each sdist to where the index has it; empty if offline.
    """

    releases: tuple[Release, ...]
    skipped: Mapping[str, str]
    offline: bool = False
    packages: Mapping[str, DistributionPackage] = field(default_factory=dict)


def list_releases(index: PyPISimple, downloads: Path) -> Listing:
    """Every release of TransformerLens. The listing is kept in ``downloads`` for when the index is out of reach.

    Raises:
        BadInput: if the index cannot be reached and no listing is kept; if it does not know
            TransformerLens, or gives no digests or upload times.
    """
    record = downloads / LISTING_NAME
    try:
        listing = _of_packages(packages_of(index, PROJECT))
    except OSError as error:
        try:
            return _read(record)
        except (OSError, ValueError, KeyError, TypeError):
            raise BadInput(
                "asked the package index for TransformerLens's releases; it could not be reached "
                f"({type(error).__name__}) and no earlier listing lies in {downloads}: connect and try again"
            ) from error
    if listing.releases:
        _write(record, listing)
    return listing


def fetch(index: PyPISimple, listing: Listing, release: Release, downloads: Path) -> Path:
    """The verified archive of a release in ``downloads``, which is downloaded unless it lies there whole.

    Raises:
        OSError: if it must be downloaded and the index cannot be reached, or could not when it was listed.
        BadInput: if the index sent something else than it lists.
    """
    if archive := kept(downloads, release.filename, release.sha256):
        return archive
    if listing.offline:
        raise ConnectionError("the package index could not be reached for its listing")
    return download(index, listing.packages[release.filename], downloads)


def _of_packages(packages: list[DistributionPackage]) -> Listing:
    """The releases among the project's files. Yanked ones stay: without them every later hash would change."""
    sdists = {package.filename: package for package in packages if package.filename.endswith(".tar.gz")}
    releases = tuple(_release(package) for package in sdists.values())
    others = {package.version or package.filename for package in packages}
    others -= {release.version for release in releases}
    return Listing(releases, dict.fromkeys(sorted(others), "has no .tar.gz sdist"), packages=sdists)


def _release(package: DistributionPackage) -> Release:
    """What the history needs to know of one sdist."""
    version, sha256, uploaded = package.version, package.digests.get("sha256"), package.upload_time
    if version is None or sha256 is None or uploaded is None:
        raise BadInput(
            f"the package index gives no version, SHA-256 or upload time of {package.filename}, without "
            f"which hashes would differ between machines: unset {INDEX_VARIABLE}, or name an index with PEP 700"
        )
    return Release(version, package.filename, sha256, uploaded.astimezone(UTC).replace(microsecond=0))


def _write(record: Path, listing: Listing) -> None:
    releases = [{**asdict(release), "uploaded": release.uploaded.isoformat()} for release in listing.releases]
    write_json(record, {"releases": releases, "skipped": dict(listing.skipped)})


def _read(record: Path) -> Listing:
    """What :func:`_write` wrote; for anything else ``OSError``, ``ValueError``, ``KeyError`` or ``TypeError``."""
    written = json.loads(record.read_text())
    releases = (Release(**{**entry, "uploaded": datetime.fromisoformat(entry["uploaded"])}) for entry in written["releases"])
    return Listing(tuple(releases), written["skipped"], offline=True)
