"""The tasks of a sweep, and the receipts that they leave when they are done.

A task is one model: its preparation, or its cells at one commit. Its receipt is addressed by everything that decides what it
does, and lists the kept figures. So a task is done if its receipt is there and what this lists is still kept, whichever
sweep, job or machine did it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tlbench import arithmetic, catalogue
from tlbench.arithmetic import Lane
from tlbench.environments import installer
from tlbench.environments.sources import code_digest
from tlbench.files import canonical_json, sha256_of
from tlbench.grid import Cell, Device, Dtype, Option, Wrapper
from tlbench.paths import cache_dir
from tlbench.questions.answers import pinned
from tlbench.questions.registry import QUESTIONS
from tlbench.records.serial import plain, restored

GOLDEN = "tlbench.reference.golden"


@dataclass(frozen=True)
class Grid:
    """The cells of every model, and what each is asked.

    Attributes:
        questions: the names of questions.
        device: what the models run on. A GPU's figures are in its own arithmetic.
    """

    dtypes: tuple[Dtype, ...] = tuple(Dtype)
    options: tuple[Option, ...] = tuple(Option)
    wrappers: tuple[Wrapper, ...] = tuple(Wrapper)
    questions: tuple[str, ...] = ("accuracy",)
    device: Device = Device.CPU

    def cells(self, model: str) -> list[Cell]:
        """A model's cells in the wrappers that can load it, by dtype."""
        loadable = {f"{model} {wrapper}": wrapper for wrapper in self.wrappers}
        wrappers = [loadable[name] for name in catalogue.load().loadable() if name in loadable]
        return [
            Cell(model, dtype, option, wrapper) for dtype in self.dtypes for option in self.options for wrapper in wrappers
        ]


@dataclass(frozen=True)
class Task:
    """One model to prepare, or to measure at one commit.

    Attributes:
        commit: the full hash; "" to make the model's checkpoint and goldens.
    """

    model: str
    commit: str = ""

    def __str__(self) -> str:
        return f"{self.commit[:8]} {self.model}" if self.commit else f"checkpoint and goldens of {self.model}"


@dataclass(frozen=True)
class Cost:
    """What some cells of one dtype took, those that were measured and not read.

    Attributes:
        seconds: of wall-clock time, one cell after the other.
    """

    dtype: Dtype
    cells: int
    seconds: float


@dataclass(frozen=True)
class Receipt:
    """What a finished task did.

    Attributes:
        endings: how many cells ended in each way.
        kept: the SHA-256 of each kept figure that it measured or found, by name.
        costs: what the cells took.
        seconds: of the preparation; 0 if it had been done before.
        start_s: what its job took before its first cell; 0 if another task was first.
        kept_bytes: what it added to the cache.
        weights_bytes: the size of the model's files.
        host: the machine.
        arithmetic: the lane that it computed in, and the probe that proved it.
        reason: why nothing was measured, such as a commit that does not build. The next sweep tries it again.
    """

    task: Task
    grid: Grid
    endings: dict[str, int] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    costs: tuple[Cost, ...] = ()
    seconds: float = 0.0
    start_s: float = 0.0
    kept_bytes: int = 0
    weights_bytes: int = 0
    host: str = ""
    arithmetic: dict[str, str] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Rest:
    """What a finished sweep took beside its jobs: the engine's start, and asv's reading of the figures."""

    commits: int
    seconds: float


@dataclass
class Keys:
    """The keys of tasks in a grid: a hash of everything that decides what a task does. Files are read once."""

    grid: Grid
    _models: dict[str, str] = field(default_factory=dict)

    def of(self, task: Task) -> str:
        """A task's key, which names its receipt."""
        if not task.commit:
            return _hash({"model": self._model(task.model), "code": code_digest(GOLDEN), **_lane(self.grid.device)})
        return _hash({"commit": task.commit, "model": self._model(task.model), **self._shared})

    @cached_property
    def _shared(self) -> dict[str, Any]:
        pins = {path.name: sha256_of(path) for path in sorted(installer.ERAS.glob("*.txt"))}
        code = {name: code_digest(QUESTIONS[name].module) for name in self.grid.questions}
        return {"grid": plain(self.grid), "code": code, "pins": pins, **_lane(self.grid.device)}

    def _model(self, name: str) -> str:
        if name not in self._models:
            self._models[name] = _hash(pinned(name))
        return self._models[name]


def receipt_path(key: str) -> Path:
    """Where the receipt of a key lies."""
    return cache_dir() / "receipts" / key[:2] / f"{key}.json"


def read_receipt(path: Path) -> Receipt | None:
    """Read a receipt. A missing or damaged one is None: its task is done again."""
    with suppress(OSError, ValueError):
        return restored(Receipt, json.loads(path.read_text()))
    return None


def receipts() -> Iterator[Receipt]:
    """The receipts of all sweeps that this cache knows."""
    return filter(None, map(read_receipt, (cache_dir() / "receipts").glob("*/*.json")))


def cell_path(name: str) -> Path:
    """Where the kept figure of a name lies."""
    return cache_dir() / "cells" / name[:2] / f"{name}.json"


def rests() -> Iterator[Rest]:
    """What the sweeps that this cache knows took beside their jobs."""
    for path in (cache_dir() / "sweeps").glob("*/rest.json"):
        with suppress(OSError, ValueError):
            yield restored(Rest, json.loads(path.read_text()))


def all_kept() -> frozenset[str]:
    """The names of all kept figures: one look into 256 folders, however many figures the receipts list."""
    return frozenset(path.stem for path in (cache_dir() / "cells").glob("*/*.json"))


def is_done(receipt: Receipt | None, kept: frozenset[str]) -> bool:
    """Whether a task is done: it left a receipt that tells of no failure, and all figures that this lists are kept."""
    return receipt is not None and not receipt.reason and receipt.kept.keys() <= kept


def _lane(device: Device) -> dict[str, str]:
    """What of the arithmetic decides a figure. A GPU's probe is known only where it runs."""
    return {"device": device, **(arithmetic.key() if device is Device.CPU else {"lane": Lane.NATIVE})}


def _hash(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()[:24]
