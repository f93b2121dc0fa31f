"""Map each release to a commit, and build the repository of all releases."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from packaging.version import InvalidVersion, Version
from pypi_simple import PyPISimple

from tlbench.environments.package_index import client
from tlbench.exceptions import BadInput
from tlbench.files import canonical_json, locked
from tlbench.history.listing import Listing, Release, fetch, list_releases
from tlbench.history.repository import MAIN, SourceCommit, build_from_trees, origin_of, require_writable, tags_of
from tlbench.history.sdists import read_sdist

PRERELEASES = "prereleases"
LAYOUT = 1
"""Increase this when the same archives should give different commits. Repositories of an older layout are then rebuilt."""

Progress = Callable[[str, int, int], None]
"""Progress callback: receives the current step, the number of finished steps, and the total."""


@dataclass(frozen=True)
class History:
    """A repository of releases.

    Attributes:
        repository: the path of the bare git repository.
        releases: its releases, in order of upload.
        commits: commit hash by tag.
        skipped: the reason for each version that has no commit.
        built: whether it was written just now. If not, it already held these releases.
        offline: whether an earlier listing was used, because the index could not be reached.
    """

    repository: Path
    releases: tuple[Release, ...]
    commits: Mapping[str, str]
    skipped: Mapping[str, str]
    built: bool
    offline: bool

    def __str__(self) -> str:
        releases = f"{len(self.releases)} releases, {self.releases[0].tag} to {self.releases[-1].tag}"
        state = "written" if self.built else "already up to date"
        note = "; the package index could not be reached, so newer releases may be missing" if self.offline else ""
        return f"{self.repository}: {releases}, {state}{note}"


def build_history(
    repository: Path,
    *,
    downloads: Path,
    versions: Sequence[str] | None = None,
    progress: Progress | None = None,
    index: PyPISimple | None = None,
) -> History:
    """Build a bare git repository of TransformerLens's releases, one commit each, completely or not at all.

    ``main`` holds the final releases and ``prereleases`` the others; see :func:`_plan`. Archives are verified and kept in
    ``downloads``, so none is downloaded twice. A repository that already holds exactly these releases is left untouched.

    Args:
        repository: the path to write to. A repository that tlbench built is replaced; anything else is an error.
        downloads: the folder for the archives and the last listing.
        versions: the releases to include; by default all. A commit's hash depends on the commits before it.
        index: the package index; by default the one that pip uses.

    Raises:
        BadInput: if git is missing, a needed archive cannot be downloaded, a version is unknown, an archive has the wrong
            digest or unsafe content, or ``repository`` exists and tlbench did not build it.
    """
    require_writable(repository)
    say = progress or (lambda what, done, total: None)
    index = index or client()
    with locked(repository.with_name(f"{repository.name}.lock")):
        listing = list_releases(index, downloads)
        plan = _plan(_chosen(listing, versions))
        origin = f"{len(plan)} releases of TransformerLens, plan {_digest(plan)}"
        commits = tags_of(repository) if origin_of(repository) == origin else {}
        built = set(commits) != {step.release.tag for step in plan}
        if built:
            archives = _fetch_all(index, listing, plan, downloads, say)
            commits = build_from_trees(repository, _commits(plan, archives, say), origin=origin)
    releases = tuple(step.release for step in plan)
    return History(repository, releases, commits, listing.skipped, built, listing.offline)


def _chosen(listing: Listing, versions: Sequence[str] | None) -> list[Release]:
    """The releases of these versions, by default all, in order of upload."""
    known = {Version(release.version): release for release in listing.releases}
    try:
        selected = set(known) if versions is None else {Version(text) for text in versions}
    except InvalidVersion as error:
        raise BadInput(f"{error}: give versions as on PyPI, e.g. 2.8.1") from error
    unknown = ", ".join(map(str, sorted(selected - set(known))))
    if unknown or not selected:
        raise BadInput(
            f"no source release {unknown or 'selected'}: the package index has {len(known)} source releases, "
            f"{min(known, default='none')} to {max(known, default='none')}"
        )
    return [known[version] for version in sorted(selected, key=lambda version: (known[version].uploaded, version))]


class Step(NamedTuple):
    """A release, the branch to move to it, and the tag of its parent."""

    release: Release
    branch: str | None
    parent: str | None


def _plan(releases: Sequence[Release]) -> list[Step]:
    """Choose branch and parent of each release. The choice depends only on earlier uploads.

    - A final release with the highest version so far is the next commit of ``main``. So far this holds for all of them.
    - A late one, such as 3.9.1 after 4.3.0, becomes a child of the highest lower release. Only its tag points to it.
    - A pre-release is the next commit of ``prereleases``, which branches off ``main`` at the first pre-release.
    """
    plan: list[Step] = []
    finals: dict[Version, str] = {}
    prerelease: str | None = None
    for release in releases:
        version = Version(release.version)
        if version.is_prerelease:
            plan.append(Step(release, PRERELEASES, prerelease or (finals[max(finals)] if finals else None)))
            prerelease = release.tag
        else:
            lower_versions = [earlier for earlier in finals if earlier < version]
            branch = MAIN if len(lower_versions) == len(finals) else None
            plan.append(Step(release, branch, finals[max(lower_versions)] if lower_versions else None))
            finals[version] = release.tag
    return plan


def _digest(plan: Sequence[Step]) -> str:
    """A short hash of everything that determines the commits of a plan."""
    steps = [[r.filename, r.sha256, r.uploaded.isoformat(), branch, parent] for r, branch, parent in plan]
    return hashlib.sha256(canonical_json([LAYOUT, steps]).encode()).hexdigest()[:16]


def _fetch_all(index: PyPISimple, listing: Listing, plan: Sequence[Step], downloads: Path, say: Progress) -> list[Path]:
    """Download and verify every archive, in order. Each is kept as soon as it is complete."""
    archives: list[Path] = []
    for number, (release, _, _) in enumerate(plan):
        say(f"sdist {release.version}", number, len(plan))
        try:
            archives.append(fetch(index, listing, release, downloads))
        except OSError as error:
            raise BadInput(
                f"cannot download {release.filename} ({type(error).__name__}): connect to the network and try again; the "
                f"{number} archives before it are kept in {downloads}"
            ) from error
    return archives


def _commits(plan: Sequence[Step], archives: Sequence[Path], say: Progress) -> Iterator[SourceCommit]:
    """One commit per release. Each archive is read only when its commit is due; the message lists the paths left out."""
    for number, ((release, branch, parent), archive) in enumerate(zip(plan, archives, strict=True)):
        say(f"commit {release.tag}", number, len(plan))
        files, left_out = read_sdist(archive)
        lines = [f"TransformerLens {release.version}", "", f"sdist: {release.filename}", f"sha256: {release.sha256}"]
        lines += [f"left out: {path} ({reason})" for path, reason in sorted(left_out.items())]
        yield SourceCommit(release.tag, release.uploaded, "\n".join(lines) + "\n", files, branch, parent)
