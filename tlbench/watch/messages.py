"""What is told: messages, and the files in which they wait until every channel has taken them.

A message is written before it is told, and what a channel answered is written after. Both are whole files, so a kill at any
moment loses nothing. If it falls between the two, the message is sent again under the same id, by which a receiver knows it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from tlbench.exceptions import BadInput
from tlbench.files import canonical_json, write_json
from tlbench.metrics.change import State
from tlbench.records.serial import plain, restored

MESSAGES, MEMORY = "messages", "memory.json"


class Level(StrEnum):
    """How urgent a message is."""

    ALARM = "alarm"
    """A model got worse, or ceased to run; or such a finding changed."""
    NEWS = "news"
    """Everything else that is more than rounding."""


class Event(StrEnum):
    """What a message does to the finding that it is about."""

    OPENED = "opened"
    CHANGED = "changed"
    CLOSED = "closed"
    SAID = "said"
    """Said once; there is nothing to close."""


@dataclass(frozen=True)
class Text:
    """The words of a message, plain and unescaped.

    Attributes:
        title: one line.
        what, since, how_bad, what_to_do: a maintainer's four questions.
        details: more lines.
        commands: what reproduces it.
    """

    title: str
    what: str
    since: str
    how_bad: str
    what_to_do: str
    details: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[tuple[str, str], ...]:
        """The first four lines, each with its question."""
        return (
            ("What", self.what),
            ("Since when", self.since),
            ("How bad", self.how_bad),
            ("What to do", self.what_to_do),
        )


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        key: the finding; all messages about one finding share it.
        part: tells messages of one finding and event apart; "" where there can be only one.
        to: the channels that should take it.
        told: what each channel that took it answered.
    """

    key: str
    event: Event
    level: Level
    text: Text
    at: datetime
    part: str = ""
    to: tuple[str, ...] = ()
    told: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Equal for equal messages, however often they are made."""
        return "-".join(filter(None, (self.key, self.event, self.part)))

    @property
    def waiting(self) -> list[str]:
        """The channels that have not taken it yet."""
        return [channel for channel in self.to if channel not in self.told]


def key_of(*words: object) -> str:
    """A short hash of what a message is about."""
    return hashlib.sha256(canonical_json([str(word) for word in words]).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Open:
    """A regression that was told and is not mended.

    Attributes:
        branch: the branch on which it was found.
        commit: the commit that made it.
        before: each of its cells as it was before.
        wrong: the cells that are still worse.
        changes: how often that has changed.
    """

    branch: str
    commit: str
    level: Level
    text: Text
    before: dict[str, State]
    wrong: tuple[str, ...]
    changes: int = 0


@dataclass
class Memory:
    """What the watch knows from its earlier passes.

    Attributes:
        heads: the newest commit of each branch up to which everything was told.
        tags: upstream's tags; None before the first pass.
        releases: the releases that were checked; None before the first listing.
        open: the regressions that are not mended, by key.
        told: the keys of all steps that were told.
        signatures: by what a step did to which cells, the branch and the key under which it was told last.
        unmeasurable: by branch, the key of the message that its newest commits cannot be measured.
    """

    heads: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] | None = None
    releases: tuple[str, ...] | None = None
    open: dict[str, Open] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    signatures: dict[str, tuple[str, str]] = field(default_factory=dict)
    unmeasurable: dict[str, str] = field(default_factory=dict)


@dataclass
class Ledger:
    """The watch's files in a folder. Only one process at a time may use it."""

    folder: Path

    def memory(self) -> Memory:
        """What earlier passes left. Raises BadInput if the file is damaged."""
        path = self.folder / MEMORY
        try:
            return restored(Memory, json.loads(path.read_text()))
        except FileNotFoundError:
            return Memory()
        except ValueError as error:
            raise BadInput(f"{path} is damaged ({error}): restore it, or delete it to begin at today's commits") from error

    def remember(self, memory: Memory) -> None:
        """Keep what is known now. What was found on the way must have been added before."""
        write_json(self.folder / MEMORY, plain(memory))

    def messages(self) -> list[Message]:
        """Every message, the first one first. Raises BadInput if a file is damaged."""
        return list(self._files().values())

    def add(self, messages: Sequence[Message]) -> None:
        """Add messages. One that is there already is left as it is."""
        known = {message.id for message in self.messages()}
        number = len(known)
        for message in messages:
            if message.id not in known:
                known.add(message.id)
                number += 1
                write_json(self.folder / MESSAGES / f"{number:06d}-{message.id}.json", plain(message))

    def record(self, message: Message, channel: str, answer: str) -> Message:
        """Note that a channel has taken a message."""
        path = next(path for path, other in self._files().items() if other.id == message.id)
        message = replace(message, told={**message.told, channel: answer})
        write_json(path, plain(message))
        return message

    def _files(self) -> dict[Path, Message]:
        found = {}
        for path in sorted((self.folder / MESSAGES).glob("*.json")):
            try:
                found[path] = restored(Message, json.loads(path.read_text()))
            except ValueError as error:
                raise BadInput(f"{path} is damaged ({error}): restore it, or delete it if everyone knows") from error
        return found
