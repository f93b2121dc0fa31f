"""Findings: one file each under docs/findings/, with TOML front matter between ``+++`` lines and Markdown below.

Sizes are never typed: a finding names stored results, and its page reads them there.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
from packaging.version import Version

from tlbench.exceptions import BadInput

FENCE = "+++"


class Standing(StrEnum):
    """What became of a finding."""

    OPEN = "open"
    MENDED = "mended"
    REMOVED = "removed"
    """Never mended: what had it is gone."""


@dataclass(frozen=True)
class StoredFigure:
    """A reference to one stored figure: the track, the cell's words and the commit it was measured at."""

    track: str
    cell: str
    commit: str


@dataclass(frozen=True)
class Finding:
    """One cause.

    Attributes:
        slug: its file's name.
        title: what is wrong, in one line.
        part: what it concerns, as :class:`tlbench.report.checks.Part` names it, or ``failures``.
        wrappers: short names of the wrappers that have it.
        earlier: older versions that had it too before it was gone for a while, in words.
        since: the first version known to have it; ``until`` the last, "" while it is open.
        before: of an open finding, why no earlier version has it, in words: "4.2.0 is right". "" if that is not known.
        fixed_in: the first version without it; "" if it is open or nobody mended it.
        component: where in TransformerLens it is.
        models: which models have it, in words.
        dtypes: in which dtypes; ``options`` with which options. Empty: in all.
        confirmed: whether a small run confirmed the cause, or it is our reading of the code.
        commit: the commit that did it, and ``fix_commit`` that mended it, with their pull requests; "" if not determined.
        extent: the size in words, where no stored figure shows it.
        size: stored figures that show it, the largest first. ``before`` or after it: for comparison.
        user: what a user of those versions should know.
        text: the prose, in Markdown.
    """

    slug: str
    title: str
    state: Standing
    part: str
    since: str
    wrappers: tuple[str, ...]
    models: str
    user: str
    until: str = ""
    before: str = ""
    earlier: str = ""
    fixed_in: str = ""
    component: str = ""
    dtypes: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    confirmed: bool = False
    commit: str = ""
    pull: int = 0
    fix_commit: str = ""
    fix_pull: int = 0
    extent: str = ""
    size: tuple[StoredFigure, ...] = ()
    right: tuple[StoredFigure, ...] = ()
    text: str = ""

    @property
    def versions(self) -> str:
        """The versions that have it, in words."""
        if not self.until:
            return f"since {self.since}" if self.begins else f"seen in {self.since}, earlier unknown"
        found = self.since if self.since == self.until else f"{self.since} to {self.until}"
        return f"{self.earlier} and {found}" if self.earlier else found

    @property
    def begins(self) -> bool:
        """Whether ``since`` is known to be the first version that has it, and not only the first that was looked at."""
        return bool(self.before or self.commit or self.until)

    def concerns(self, wrapper: str, dtype: str, option: str) -> bool:
        """Whether it concerns a configuration; the wrapper by its short name."""
        return wrapper in self.wrappers and dtype in (self.dtypes or (dtype,)) and option in (self.options or (option,))

    def holds_at(self, version: Version) -> bool:
        """Whether a version has it."""
        return Version(self.since) <= version and (not self.until or version <= Version(self.until))


def read(folder: Path) -> list[Finding]:
    """Every finding of a folder: open ones first, then the latest first. Raises BadInput if a file is malformed."""
    found = [_read(path) for path in sorted(folder.glob("*.md"))]
    standings = list(Standing)
    found.sort(key=lambda one: Version(one.until or one.since), reverse=True)
    return sorted(found, key=lambda one: standings.index(one.state) > 0)


def _read(path: Path) -> Finding:
    try:
        head, text = path.read_text(encoding="utf-8").removeprefix(f"{FENCE}\n").split(f"\n{FENCE}\n", maxsplit=1)
        data: dict[str, Any] = tomllib.loads(head)
    except (ValueError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{path.name}: expected TOML between two lines of {FENCE}, then prose ({error})") from error
    if unknown := data.keys() - {each.name for each in fields(Finding)}:
        raise BadInput(f"{path.name}: unknown field {', '.join(sorted(unknown))}")
    try:
        found = msgspec.convert({**data, "slug": path.stem, "text": text.strip()}, Finding)
        Version(found.since), Version(found.until or "0"), Version(found.fixed_in or "0")
    except ValueError as error:  # msgspec's and packaging's errors are of this kind
        raise BadInput(f"{path.name}: {error}") from error
    if found.size and found.extent:
        raise BadInput(f"{path.name}: `extent` is for what no stored figure shows, and `size` names one")
    if (found.state is Standing.OPEN) is bool(found.until):
        raise BadInput(f"{path.name}: an open finding has no `until`, every other one has")
    return found
