"""The measured commits as people know them: release, date, subject and what each was measured in."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from packaging.version import Version

from tlbench.environments.metadata import Metadata
from tlbench.report.stored import version_of

VERSIONS = ("torch", "transformers", "tokenizers", "numpy")
"""The packages beside TransformerLens that can move a figure."""
ARITHMETIC = ("arithmetic", "probe", "torch's arithmetic", "python", *VERSIONS)
"""What must not change for a step to be TransformerLens's."""


@dataclass(frozen=True)
class MeasuredCommit:
    """One measured commit.

    Attributes:
        index: its place among the measured ones, oldest first.
        tag: the name of its release, or "".
        subject: the first line of its message; "" without the repository.
        url: where it can be read; "" if nowhere.
        measured_at: when it was last measured; None if asv does not say.
        machines: who measured it.
    """

    index: int
    hash: str
    date: datetime
    tag: str
    subject: str
    url: str
    measured_at: datetime | None
    machines: tuple[str, ...]
    metadata: Metadata

    @property
    def short(self) -> str:
        """The first characters of its hash, as asv names files."""
        return self.hash[:8]

    @cached_property
    def version(self) -> Version | None:
        """The release's version; None if the commit is no release."""
        return version_of(self.tag)

    @property
    def is_release(self) -> bool:
        """Whether its tag is a version."""
        return self.version is not None

    @cached_property
    def name(self) -> str:
        """What people call it: ``4.3.0`` or the short hash."""
        return self.tag.removeprefix("v") if self.is_release else self.short

    @property
    def page(self) -> str:
        """The address of its page."""
        return f"commit/{self.name}.html"

    @cached_property
    def versions(self) -> str:
        """The libraries it was measured with, in one line; "" if nobody kept them."""
        return ", ".join(f"{name} {self.metadata[name]}" for name in VERSIONS[:2] if self.metadata.get(name))


def environment_changes(earlier: MeasuredCommit, later: MeasuredCommit) -> list[str]:
    """What else than TransformerLens changed between two measurements; a sentence if that is not known."""
    if not earlier.metadata or not later.metadata:
        return ["the environment of one of the two was not kept"]
    pairs = ((name, earlier.metadata.get(name, ""), later.metadata.get(name, "")) for name in ARITHMETIC)
    return [f"{name} {was or 'none'} → {now or 'none'}" for name, was, now in pairs if was != now]


def subjects(repository: Path | None, hashes: Sequence[str]) -> dict[str, str]:
    """The first line of each commit's message, by hash. Without the repository, or of a commit it lacks, there is none."""
    if repository is None or not hashes:
        return {}
    command = ["git", "-C", str(repository), "log", "--no-walk=unsorted", "--ignore-missing", "--format=%H%x00%s", "--stdin"]
    done = subprocess.run(
        command, input="\n".join(hashes), capture_output=True, text=True, encoding="utf-8", errors="replace", check=False
    )
    lines = (line.split("\0", maxsplit=1) for line in done.stdout.splitlines())
    return {words[0]: words[1] for words in lines if len(words) == 2}


def from_ms(ms: float) -> datetime | None:
    """A time from milliseconds since 1970; None from 0."""
    return datetime.fromtimestamp(ms / 1000, UTC) if ms else None
