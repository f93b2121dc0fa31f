"""What tlbench keeps outside the repository, and how to get rid of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tlbench.cli.common import FormatName, app, terminal
from tlbench.exceptions import BadInput
from tlbench.grid import parse
from tlbench.paths import cache_dir
from tlbench.report import render
from tlbench.report.render import Column, Format

WHOLE_FOLDERS = {
    "checkpoints": "models that tlbench made or fetched",
    "clones": "commits of TransformerLens that were fetched",
    "envs": "environments with a TransformerLens",
    "portable": "checkpoints with translated configurations",
    "prompts": "token ids of models that tlbench did not make",
    "sweeps": "plans, marks and logs of sweeps",
    "wheels": "metadata of commits of TransformerLens",
    "subjects": "models that were verified once",
}
SINGLE_FILES = {
    "cells": "measured cells",
    "commits": "which commits of TransformerLens can be measured",
    "context": "golden logits at each context length",
    "context-errors": "HuggingFace's errors at each context length",
    "downloads": "wheels and source archives",
    "golden": "goldens",
    "inside": "golden activations",
    "inside-errors": "errors of HuggingFace's activations",
    "proofs": "proofs of the shared arithmetic",
    "receipts": "what sweeps have done and what it cost",
    "references": "HuggingFace's logits",
    "states": "what cells are at commits, and the steps between them",
    "variants": "logits of HuggingFace's variants",
}
"""What is in the cache's folders. Whatever is deleted is made again when it is needed. Lock files are never deleted."""
DAY_S = 86_400.0
COLUMNS = (
    Column("folder"),
    Column("what it holds", is_wrapped=True),
    Column("entries", "{:.0f}".format, drop=1),
    Column("MiB", "{:.1f}".format),
    Column("days unused", "{:.0f}".format),
)


@dataclass(frozen=True)
class Entry:
    """Something that is deleted whole: a file, or a folder with everything in it.

    Attributes:
        kind: the name of its folder in the cache.
        size: bytes that deleting it frees. Most files of an environment are hard links into uv's cache, and free nothing.
        used: when any of its files was last read or written, in seconds since 1970. Linux updates the time of a reading
            once a day. Where the disk is mounted with ``noatime``, only writing counts.
    """

    kind: str
    path: Path
    size: int
    used: float

    def delete(self) -> None:
        """Delete it. BadInput if the disk refuses.

        A folder loses its name first: whatever interrupts the deletion, half an environment never counts as one.
        """
        try:
            if self.path.is_dir():
                shutil.rmtree(self.path.rename(self.path.with_name(f".deleted-{self.path.name}")))
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise BadInput(f"cannot delete {self.path} ({error.strerror}): delete it by hand") from error


def entries(cache: Path) -> Iterator[Entry]:
    """Everything in the cache that may be deleted, by kind."""
    for kind in sorted(WHOLE_FOLDERS | SINGLE_FILES):
        of_kind = (cache / kind).iterdir() if kind in WHOLE_FOLDERS else (cache / kind).rglob("*")
        for path in sorted(of_kind) if (cache / kind).is_dir() else ():
            if path.is_dir() == (kind in WHOLE_FOLDERS) and path.suffix != ".lock":
                with suppress(FileNotFoundError):  # another process has deleted it meanwhile
                    yield _entry(kind, path)


def _entry(kind: str, path: Path) -> Entry:
    files = [file.lstat() for file in (path.rglob("*") if path.is_dir() else [path]) if not file.is_dir()]
    used = max((max(state.st_atime, state.st_mtime) for state in files), default=path.stat().st_mtime)
    return Entry(kind, path, sum(state.st_blocks * 512 for state in files if state.st_nlink == 1), used)


@app.command()
def cache(
    unused_days: Annotated[
        float | None, typer.Option(help="Delete what nothing has read or written for this many days (at least 1).")
    ] = None,
    format: FormatName = "rich",
) -> None:
    """Show what tlbench keeps outside the repository, or delete what is no longer used.

    Whatever is deleted is made again when it is needed.
    """
    style = parse(Format, format)
    if unused_days is not None and not unused_days >= 1:
        raise BadInput(f"invalid --unused-days {unused_days:g}: 1 is the least, since a run may be using what is newer")
    now = time.time()
    found = list(entries(cache_dir()))
    if unused_days is None:
        rows = [_row(kind, [one for one in found if one.kind == kind], now) for kind in sorted({one.kind for one in found})]
        title = f"{cache_dir()}: {sum(one.size for one in found) / 2**20:.0f} MiB"
        render.show(terminal(), style, title, COLUMNS, rows)
        return
    unused = [one for one in found if now - one.used > unused_days * DAY_S]
    for one in unused:
        one.delete()
    print(f"deleted {len(unused)} of {len(found)} entries, {sum(one.size for one in unused) / 2**20:.0f} MiB")


def _row(kind: str, found: Sequence[Entry], now: float) -> list[render.Value]:
    unused = (now - max(one.used for one in found)) / DAY_S
    return [kind, (WHOLE_FOLDERS | SINGLE_FILES)[kind], len(found), sum(one.size for one in found) / 2**20, max(unused, 0.0)]
