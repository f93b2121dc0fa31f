"""Where the time of a run goes: seconds by category, written only where ``TLBENCH_PROFILE`` names a folder.

A span's time is exclusive: what passes in a span within it is that one's. A process writes one line of JSON whenever its
outermost span ends, so that one which then leaves by ``os._exit``, as forks do, loses nothing; ``python -m tools.perf
profile`` adds the lines up. Needs nothing but the standard library, since the installer runs before anything is installed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

PROFILE_VARIABLE = "TLBENCH_PROFILE"
FILE_NAME = "spans.jsonl"


class Category(StrEnum):
    """What time is spent on."""

    INSTALL = "install"
    """Building and installing TransformerLens and its dependencies."""
    IMPORT = "import"
    """Importing them."""
    LOAD = "load"
    """TransformerLens and HuggingFace loading a checkpoint."""
    PROCESS = "process"
    """TransformerLens processing the weights."""
    FORWARD = "forward"
    VERIFY = "verification"
    """Which TransformerLens was imported, and whether a checkpoint is the pinned one."""
    FINGERPRINT = "fingerprints of weights"
    READ = "references and goldens"
    """Finding, verifying and reading them."""
    ARITHMETIC = "arithmetic"
    """The errors and their statistics."""
    KEEP = "keeping and finding figures"
    ANSWER = "reading figures"
    """What asv's own processes do beside waiting."""
    WAIT = "waiting"
    """asv's processes, for the measuring server: this time passes there, too."""


Totals = dict[str, tuple[float, int]]
"""Category to seconds and number of spans."""


@dataclass
class _Open:
    """A span that has not ended: when it began, and the seconds of the spans that ended within it."""

    began: float
    within: float = 0.0


@dataclass
class Recorder:
    """The open spans of one process, and what has ended since the outermost began.

    Attributes:
        write: is given the totals whenever the outermost span ends.
        clock: seconds.
    """

    write: Callable[[Totals], None]
    clock: Callable[[], float] = time.monotonic
    _open: list[_Open] = field(default_factory=list)
    _totals: Totals = field(default_factory=dict)

    @contextmanager
    def span(self, category: Category) -> Iterator[None]:
        """Count the time of the block, less that of the spans in it."""
        opened = _Open(self.clock())
        self._open.append(opened)
        try:
            yield
        finally:
            self._open.pop()
            elapsed = self.clock() - opened.began
            seconds, count = self._totals.get(category.value, (0.0, 0))
            self._totals[category.value] = (seconds + elapsed - opened.within, count + 1)
            if self._open:
                self._open[-1].within += elapsed
            else:
                self.write(self._totals)
                self._totals = {}


def span(category: Category) -> AbstractContextManager[None]:
    """Count the time of the block, if this run is profiled."""
    folder = os.environ.get(PROFILE_VARIABLE)
    return _recorder(folder, os.getpid()).span(category) if folder else nullcontext()


@lru_cache(maxsize=1)
def _recorder(folder: str, pid: int) -> Recorder:
    """This process's. A fork has another pid, so it begins with no span open, whatever its parent was in."""
    path = Path(folder) / FILE_NAME

    def write(totals: Totals) -> None:
        # One write to a file opened for appending is not torn apart by another process's.
        with path.open("ab", buffering=0) as file:
            file.write(json.dumps({"pid": pid, "spans": totals}).encode() + b"\n")

    return Recorder(write)


def read(folder: Path) -> Totals:
    """The sum over all processes that wrote into a folder."""
    path = folder / FILE_NAME
    sums: Totals = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        for category, (seconds, count) in json.loads(line)["spans"].items():
            before = sums.get(category, (0.0, 0))
            sums[category] = (before[0] + seconds, before[1] + count)
    return sums
