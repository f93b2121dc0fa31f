"""TransformerLens's releases on the package index, online or from an earlier listing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from packaging.version import Version
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
        version: the version in the archive's name, e.g. ``3.0.0b1``.
        filename: the name of the source archive (sdist).
        sha256: the archive's SHA-256, hexadecimal.
        uploaded: when the archive was uploaded, in UTC, whole seconds.
    """

    version: str
    filename: str
    sha256: str
    uploaded: datetime

    @property
    def tag(self) -> str:
        """TransformerLens's own tag name. For every release on PyPI it is ``v`` + version."""
        return f"v{self.version}"


@dataclass(frozen=True)
class Listing:
    """The releases on the package index, now or when it was last reached.

    Attributes:
        releases: the releases with a gzipped sdist, in any order.
        skipped: the reason for leaving out each other version.
        offline: whether this is an earlier listing, because the index could not be reached.
        packages: the index's entry for each sdist, by file name. Empty if offline.
    """

    releases: tuple[Release, ...]
    skipped: Mapping[str, str]
    offline: bool = False
    packages: Mapping[str, DistributionPackage] = field(default_factory=dict)


def list_releases(index: PyPISimple, downloads: Path) -> Listing:
    """List every release of TransformerLens. The listing is saved in ``downloads`` for later use offline.

    Raises:
        BadInput: if the index cannot be reached and there is no saved listing, if it does not have TransformerLens, or if it
            gives no digests or upload times.
    """
    record = downloads / LISTING_NAME
    try:
        listing = _of_packages(packages_of(index, PROJECT))
    except OSError as error:
        try:
            return _read(record)
        except (OSError, ValueError, KeyError, TypeError):
            raise BadInput(
                f"the package index could not be reached ({type(error).__name__}) and there is no earlier listing of "
                f"TransformerLens's releases in {downloads}: connect to the network and try again"
            ) from error
    if listing.releases:
        releases = [{**asdict(release), "uploaded": release.uploaded.isoformat()} for release in listing.releases]
        write_json(record, {"releases": releases, "skipped": dict(listing.skipped)})
    return listing


def newest(listing: Listing) -> Release:
    """The newest final release. Raises ``BadInput`` if there is none."""
    final = {Version(release.version): release for release in listing.releases if not Version(release.version).is_prerelease}
    if not final:
        raise BadInput("the package index has no release of TransformerLens: name a commit or a source tree with --tl")
    return final[max(final)]


def fetch(index: PyPISimple, listing: Listing, release: Release, downloads: Path) -> Path:
    """A release's verified archive in ``downloads``; downloaded first if it is missing or damaged.

    Raises:
        OSError: if a download is needed and the index cannot be reached, or could not be when the releases were listed.
        BadInput: if the download does not match the index's digest.
    """
    if archive := kept(downloads, release.filename, release.sha256):
        return archive
    if listing.offline:
        raise ConnectionError("the package index could not be reached for its listing")
    return download(index, listing.packages[release.filename], downloads)


def _of_packages(packages: list[DistributionPackage]) -> Listing:
    """The releases among the project's files. Yanked ones stay, because dropping one would change every later hash."""
    sdists = {package.filename: package for package in packages if package.filename.endswith(".tar.gz")}
    releases = tuple(map(_release, sdists.values()))
    others = {package.version or package.filename for package in packages} - {release.version for release in releases}
    return Listing(releases, dict.fromkeys(sorted(others), "has no .tar.gz sdist"), packages=sdists)


def _release(package: DistributionPackage) -> Release:
    version, sha256, uploaded = package.version, package.digests.get("sha256"), package.upload_time
    if version is None or sha256 is None or uploaded is None:
        raise BadInput(
            f"the package index gives no version, SHA-256 or upload time for {package.filename}, and without them hashes "
            f"would differ between machines: unset {INDEX_VARIABLE}, or set it to an index that supports PEP 700"
        )
    return Release(version, package.filename, sha256, uploaded.astimezone(UTC).replace(microsecond=0))


def _read(record: Path) -> Listing:
    """Read a saved listing. Any other file raises ``OSError``, ``ValueError``, ``KeyError`` or ``TypeError``."""
    saved = json.loads(record.read_text())
    releases = (Release(**{**entry, "uploaded": datetime.fromisoformat(entry["uploaded"])}) for entry in saved["releases"])
    return Listing(tuple(releases), saved["skipped"], offline=True)
