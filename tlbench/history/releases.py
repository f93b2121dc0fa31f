"""Which commit each release becomes, and the repository of them all."""

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
"""Raise it when the same archives shall give other commits: repositories of an older layout are rebuilt."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""


@dataclass(frozen=True)
class History:
    """A repository of releases as it stands.

    Attributes:
        repository: the bare git repository.
        releases: what it holds, in order of upload.
        commits: from tag to commit hash.
        skipped: from version to the reason why it has no commit.
        built: whether it was written now; if not, it held these releases already.
        offline: whether the index could not be reached and the listing of an earlier run was used.
    """

    repository: Path
    releases: tuple[Release, ...]
    commits: Mapping[str, str]
    skipped: Mapping[str, str]
    built: bool
    offline: bool

    def __str__(self) -> str:
        span = f"{len(self.releases)} releases, {self.releases[0].tag} to {self.releases[-1].tag}"
        done = "written" if self.built else "nothing to do"
        offline = "; the package index could not be reached, so newer releases may be missing"
        return f"{self.repository}: {span}, {done}{offline if self.offline else ''}"


def build_history(
    repository: Path,
    *,
    downloads: Path,
    versions: Sequence[str] | None = None,
    progress: Progress | None = None,
    index: PyPISimple | None = None,
) -> History:
    """Make ``repository`` a bare git repository of TransformerLens's releases, one commit each.

    ``main`` holds the final releases and ``prereleases`` the others; see :func:`_plan`. Archives are
    kept in ``downloads`` and verified; what is there is not downloaded again, and a repository that holds
    exactly these releases is left alone. It is written whole or not at all.

    Args:
        repository: where it shall be; one made here earlier is replaced, anything else is refused.
        downloads: the folder of archives and of the last listing.
        versions: the releases to take; by default all. A commit's hash depends on those before it.
        progress: told of every archive and every commit.
        index: where releases come from; by default the index that pip would ask.

    Raises:
        BadInput: without git or, if anything is missing, without network; for an unknown version, an
            archive with the wrong digest or unsafe content, or a ``repository`` that is not ours.
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
    """The releases of these versions (all by default) in order of upload."""
    known = {Version(release.version): release for release in listing.releases}
    try:
        wanted = set(known) if versions is None else {Version(text) for text in versions}
    except InvalidVersion as error:
        raise BadInput(f"{error}: name releases as PyPI does, such as 2.8.1") from error
    unknown = ", ".join(map(str, sorted(wanted - set(known))))
    if unknown or not wanted:
        raise BadInput(
            f"asked for {unknown or 'no release'}; the package index has {len(known)} source releases, "
            f"{min(known, default='none')} to {max(known, default='none')}: choose among them"
        )
    return [known[version] for version in sorted(wanted, key=lambda version: (known[version].uploaded, version))]


class Step(NamedTuple):
    """A release, the branch that moves to it, and the tag of its parent."""

    release: Release
    branch: str | None
    parent: str | None


def _plan(releases: Sequence[Release]) -> list[Step]:
    """Where each release hangs, given those uploaded before it and nothing else.

    - A final release whose version is the highest so far is the next commit of ``main``. So far all are.
    - One that comes late, such as 3.9.1 after 4.3.0, hangs on the highest lower one, by its tag alone.
    - A pre-release is the next commit of ``prereleases``, which leaves ``main`` at the first of them.
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
            lower = [earlier for earlier in finals if earlier < version]
            branch = MAIN if len(lower) == len(finals) else None
            plan.append(Step(release, branch, finals[max(lower)] if lower else None))
            finals[version] = release.tag
    return plan


def _digest(plan: Sequence[Step]) -> str:
    """A short name for everything that the commits of a plan depend on."""
    steps = [[r.filename, r.sha256, r.uploaded.isoformat(), branch, parent] for r, branch, parent in plan]
    return hashlib.sha256(canonical_json([LAYOUT, steps]).encode()).hexdigest()[:16]


def _fetch_all(index: PyPISimple, listing: Listing, plan: Sequence[Step], downloads: Path, say: Progress) -> list[Path]:
    """Every archive, verified, in order; each is kept as soon as it is whole."""
    archives: list[Path] = []
    for number, (release, _, _) in enumerate(plan):
        say(f"sdist {release.version}", number, len(plan))
        try:
            archives.append(fetch(index, listing, release, downloads))
        except OSError as error:
            raise BadInput(
                f"asked the package index for {release.filename}, in vain ({type(error).__name__}): "
                f"connect and try again, the {number} archives before it are kept in {downloads}"
            ) from error
    return archives


def _commits(plan: Sequence[Step], archives: Sequence[Path], say: Progress) -> Iterator[SourceCommit]:
    """One commit a release, read from its archive when its turn comes. What is left out is in the message."""
    for number, ((release, branch, parent), archive) in enumerate(zip(plan, archives, strict=True)):
        say(f"commit {release.tag}", number, len(plan))
        files, left_out = read_sdist(archive)
        lines = [
            f"TransformerLens {release.version}",
            "",
            f"sdist: {release.filename}",
            f"sha256: {release.sha256}",
        ]
        lines += [f"left out: {path} ({reason})" for path, reason in sorted(left_out.items())]
        yield SourceCommit(release.tag, release.uploaded, "\n".join(lines) + "\n", files, branch, parent)
