"""How old the watch's news is: what the site's first page, the feed and `tlbench watch --age` say of it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tlbench.records.serial import restored

FOLDER = "watch"
"""Where the watch keeps its files, beside asv's configuration."""
NAME = "news.json"


@dataclass(frozen=True)
class OpenFinding:
    """A regression that was told and is not mended."""

    title: str
    commit: str
    url: str = ""


@dataclass(frozen=True)
class News:
    """What the watch last did.

    Attributes:
        looked_at: when it last read upstream and measured everything new there; None if it never did.
        started_at: when its last pass began.
        max_age_h: from how many hours on its news counts as old.
        heads: the last measured commit of each branch.
        open: the regressions that are not mended.
        problems: what it could not do, in sentences.
        waiting: how many messages were not delivered yet.
    """

    looked_at: datetime | None
    started_at: datetime
    max_age_h: float
    heads: dict[str, str]
    open: tuple[OpenFinding, ...] = ()
    problems: tuple[str, ...] = ()
    waiting: int = 0

    def age_h(self, now: datetime) -> float | None:
        """How many hours ago upstream was read and measured; None if it never was."""
        return None if self.looked_at is None else (now - self.looked_at).total_seconds() / 3600

    def is_old(self, now: datetime) -> bool:
        """Whether nobody should rely on its silence."""
        age = self.age_h(now)
        return age is None or age > self.max_age_h

    def sentence(self, now: datetime) -> str:
        """How old the news is, in words."""
        age = self.age_h(now)
        if age is None:
            return "The watch has not finished a pass yet: its silence means nothing."
        read = f"The watch last read upstream and measured what was new {age:.0f} hours ago"
        return (
            f"{read}, more than the {self.max_age_h:.0f} allowed: its silence means nothing."
            if self.is_old(now)
            else f"{read}."
        )


def read(folder: Path) -> News | None:
    """The news in a watch's folder; None if there is none or the file is damaged."""
    with suppress(OSError, ValueError):
        return restored(News, json.loads((folder / NAME).read_text()))
    return None


def utc_now() -> datetime:
    """The time, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)
