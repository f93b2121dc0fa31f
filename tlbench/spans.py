"""Profile where the time of a run goes, in seconds by category. Off unless ``TLBENCH_PROFILE`` names a folder.

Time in a nested span counts only for the nested one. A process writes one line of JSON whenever its outermost span ends, so
forks, which exit through ``os._exit``, lose nothing. ``python -m tools.perf profile`` sums the lines. The installer runs
before anything is installed, so this module uses only the standard library.
"""

from __future__ import annotations

import json
import os
import threading
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
    """What the time is spent on."""

    INSTALL = "install"
    """Building and installing TransformerLens and its dependencies."""
    IMPORT = "import"
    """Importing them."""
    LOAD = "load"
    """Loading a checkpoint in TransformerLens and HuggingFace."""
    PROCESS = "process"
    """Weight processing in TransformerLens."""
    FORWARD = "forward"
    VERIFY = "verification"
    """Verifying the imported TransformerLens and the checkpoint."""
    FINGERPRINT = "fingerprints of weights"
    READ = "references and goldens"
    """Finding, verifying and reading them."""
    ARITHMETIC = "arithmetic"
    """Computing the errors and their statistics."""
    KEEP = "keeping and finding figures"
    ANSWER = "reading figures"
    """The work of asv's own processes, apart from waiting."""
    WAIT = "waiting"
    """asv's processes waiting for the measuring server. This time is also counted there."""


Totals = dict[str, tuple[float, int]]
"""Seconds and number of spans by category."""


@dataclass
class Recorder:
    """The open spans of one process, and the totals since the outermost one began.

    Attributes:
        write: called with the totals whenever the outermost span ends.
        clock: returns seconds.
        _nested: for each open span, the seconds of the spans nested in it that have ended.
    """

    write: Callable[[Totals], None]
    clock: Callable[[], float] = time.monotonic
    _nested: list[float] = field(default_factory=list)
    _totals: Totals = field(default_factory=dict)

    @contextmanager
    def span(self, category: Category) -> Iterator[None]:
        """Count the time of the block, minus that of nested spans."""
        began = self.clock()
        self._nested.append(0.0)
        try:
            yield
        finally:
            elapsed = self.clock() - began
            seconds, count = self._totals.get(category.value, (0.0, 0))
            self._totals[category.value] = (seconds + elapsed - self._nested.pop(), count + 1)
            if self._nested:
                self._nested[-1] += elapsed
            else:
                self.write(self._totals)
                self._totals = {}


def span(category: Category) -> AbstractContextManager[None]:
    """Count the time of the block if profiling is on."""
    folder = os.environ.get(PROFILE_VARIABLE)
    return _recorder(folder, os.getpid(), threading.get_ident()).span(category) if folder else nullcontext()


@lru_cache
def _recorder(folder: str, pid: int, thread: int) -> Recorder:
    """This thread's recorder. A fork has another pid, so it starts without the open spans of its parent."""
    path = Path(folder) / FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(totals: Totals) -> None:
        # A single write to a file opened for appending cannot interleave with another process's write.
        with path.open("ab", buffering=0) as file:
            file.write(json.dumps({"pid": pid, "spans": totals}).encode() + b"\n")

    return Recorder(write)


def read(folder: Path) -> Totals:
    """The totals over all processes that wrote to a folder."""
    path = folder / FILE_NAME
    sums: Totals = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        for category, (seconds, count) in json.loads(line)["spans"].items():
            sum_of_seconds, sum_of_counts = sums.get(category, (0.0, 0))
            sums[category] = (sum_of_seconds + seconds, sum_of_counts + count)
    return sums
