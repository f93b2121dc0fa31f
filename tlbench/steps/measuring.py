"""What cells are at a commit: measured in the environment that the commit asks for, or read if that was done before."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from tlbench import arithmetic
from tlbench.environments.commits import Clone
from tlbench.environments.sources import code_digest
from tlbench.environments.workshop import Environment, Workshop
from tlbench.exceptions import CellFailed, DoesNotImport
from tlbench.execution.client import Server
from tlbench.files import canonical_json, write_json
from tlbench.grid import Cell
from tlbench.metrics.change import State
from tlbench.metrics.verdict import Verdict
from tlbench.paths import cache_dir
from tlbench.questions.answers import is_small, pinned
from tlbench.questions.registry import ACCURACY, DEPTH
from tlbench.questions.stations import Station
from tlbench.records.serial import plain, restored
from tlbench.steps import states
from tlbench.steps.states import States, state_of

IMPORT = "import"
STATIONS = 2
"""How many environments are open at once. Each takes about 1 GB."""


@dataclass
class Laboratory:
    """Measures commits of a clone. Whatever was measured once is read from the cache.

    Attributes:
        say: receives a short progress message at each step.
        is_fresh: whether to measure again, in processes that share nothing with earlier ones.
        unmeasurable: why commits cannot be measured.
        measured: the number of commits that were measured, and of those that were read.
    """

    clone: Clone
    say: Callable[[str], None] = lambda _: None
    is_fresh: bool = False
    unmeasurable: dict[str, str] = field(default_factory=dict)
    measured: int = 0
    read: int = 0
    _stations: dict[str, Station] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.workshop = Workshop(self.clone)

    def close(self) -> None:
        """End every process."""
        while self._stations:
            self._stations.popitem()[1].close()

    def states(self, commit: str, cells: Sequence[Cell], environment: Environment | None = None) -> States:
        """The states of cells at a commit, in the environment that it asks for or in another.

        Raises CellFailed if it does not build, install or import.
        """
        try:
            where = environment or self.workshop.environment(commit)
            self._require_importable(commit, where)
            found = {} if self.is_fresh else self._kept(commit, where, cells)
            if missing := [cell for cell in cells if cell not in found]:
                self.measured += 1
                found |= self._measure(commit, where, missing)
            else:
                self.read += 1
            return found
        except CellFailed as error:
            if environment is None:
                self.unmeasurable[commit] = str(error)
            raise

    def first_wrong(self, commit: str, cell: Cell) -> str:
        """The first wrong block and component of a cell, or why there is none."""
        self.say(f"{commit[:8]}: looking for the first wrong component of {cell}")
        with self._serving(commit, self.workshop.environment(commit)) as (station, server):
            (answers,) = station.measure(server, (DEPTH,), [cell])
        outcome = answers.outcomes[DEPTH.name]
        if outcome.record is None:
            return f"{outcome.kind}: {outcome.reason}"
        wrong = outcome.record.first_wrong()
        if wrong is None:
            return "none: every component is right by itself" if outcome.record.sites else "unjudged: nothing to compare"
        return wrong.component if wrong.block is None else f"block {wrong.block}, {wrong.component}"

    def _measure(self, commit: str, environment: Environment, cells: Sequence[Cell]) -> States:
        found: States = {}
        self.say(f"{commit[:8]}: preparing")
        with self._serving(commit, environment) as (station, server):
            for of_models in _in_memory_together(cells):
                for answers in station.measure(server, (ACCURACY,), of_models):
                    self.say(f"{commit[:8]}: {answers.cell.model}")
                    found[answers.cell] = state_of(answers.outcomes[ACCURACY.name], str(environment))
                for model in dict.fromkeys(cell.model for cell in of_models):
                    self._keep(commit, environment, model, {cell: found[cell] for cell in of_models if cell.model == model})
        return found

    @contextmanager
    def _serving(self, commit: str, environment: Environment) -> Iterator[tuple[Station, Server]]:
        station = self._station(environment)
        with tempfile.TemporaryDirectory(prefix="tlbench-package-", ignore_cleanup_errors=True) as folder:
            self.workshop.write_package(commit, environment, Path(folder))
            try:
                with station.serving(Path(folder)) as server:
                    yield station, server
            except DoesNotImport as error:
                write_json(self._file(commit, environment, ""), {IMPORT: str(error)})
                raise

    def _require_importable(self, commit: str, environment: Environment) -> None:
        """Raise CellFailed if the commit's package did not import in this environment before."""
        with suppress(FileNotFoundError, ValueError, KeyError):
            reason = None if self.is_fresh else json.loads(self._file(commit, environment, "").read_text())[IMPORT]
            if reason:
                raise CellFailed(reason)

    def _station(self, environment: Environment) -> Station:
        """The station of an environment. The one used longest ago is closed if too many are open."""
        station = self._stations.pop(environment.digest, None) or Station(environment.python, self.is_fresh)
        while len(self._stations) >= STATIONS:
            self._stations.pop(next(iter(self._stations))).close()
        self._stations[environment.digest] = station
        return station

    def _file(self, commit: str, environment: Environment, model: str) -> Path:
        """Where the states of a model's cells are kept, or for "" why the package does not import.

        The name hashes everything that decides them.
        """
        key = {
            "content": self.clone.content(commit),
            "environment": environment.digest,
            "model": pinned(model) if model else IMPORT,
            "code": code_digest(ACCURACY.module, states.__name__),
            "arithmetic": arithmetic.key(),
        }
        name = hashlib.sha256(canonical_json(key).encode()).hexdigest()
        return cache_dir() / "states" / name[:2] / f"{name}.json"

    def _kept(self, commit: str, environment: Environment, cells: Sequence[Cell]) -> States:
        found: States = {}
        for model in dict.fromkeys(cell.model for cell in cells):
            kept = _read(self._file(commit, environment, model))
            found |= {cell: replace(kept[str(cell)], environment=str(environment)) for cell in cells if str(cell) in kept}
        return found

    def _keep(self, commit: str, environment: Environment, model: str, found: States) -> None:
        """Keep states beside those that are kept already. What was not measured may be measured another time."""
        path = self._file(commit, environment, model)
        new = {str(cell): state for cell, state in found.items() if state.verdict is not Verdict.NOT_MEASURED}
        write_json(path, plain({**_read(path), **new}))


def _in_memory_together(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells of all small models, which are measured several at once, and those of each large one."""
    models = {cell.model: is_small(cell.model) for cell in cells}
    groups = [[cell for cell in cells if models[cell.model]]]
    groups += [[cell for cell in cells if cell.model == model] for model, small in models.items() if not small]
    return [group for group in groups if group]


def _read(path: Path) -> dict[str, State]:
    """Kept states by cell. A damaged file counts as absent and is replaced."""
    with suppress(FileNotFoundError, ValueError):
        return restored(dict[str, State], json.loads(path.read_text()))
    return {}
