"""Find the steps of a range, measure each anew, and say what it is and whose."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import filelock

from tlbench.environments import PROJECT
from tlbench.environments.commits import Clone
from tlbench.environments.sources import code_digest
from tlbench.environments.workshop import SHOWN, Environment
from tlbench.exceptions import BadInput, CellFailed
from tlbench.files import canonical_json, write_json
from tlbench.grid import Cell
from tlbench.metrics.change import Change, State, change
from tlbench.metrics.verdict import Verdict
from tlbench.paths import cache_dir
from tlbench.records.serial import plain, restored
from tlbench.steps.measuring import Laboratory
from tlbench.steps.search import Effort, Graph, Search, Step, Unmeasurable
from tlbench.steps.states import States

PATIENCE_S = 1.0
"""A search that was killed may leave a process that holds its lock for a moment, until it becomes another program."""
NOT_RIGHT = (Verdict.WORSE, Verdict.BROKEN, Verdict.FAILED)
DISTANCE = {change: number for number, change in enumerate(Change)}
"""The worst changes first."""


@dataclass(frozen=True)
class Moved:
    """One cell before and after a step; ``bits`` as in :func:`~tlbench.metrics.change.change`."""

    cell: Cell
    change: Change
    before: State
    after: State
    bits: float | None

    @property
    def regardless_of_environment(self) -> Moved:
        """The same, whoever did it."""
        word, bits = change(replace(self.before, environment=""), replace(self.after, environment=""))
        return replace(self, change=word, bits=bits)

    @property
    def is_worse(self) -> bool:
        """Whether it is worse after than before, whoever did it."""
        return self.regardless_of_environment.change.is_for_the_worse


@dataclass(frozen=True)
class Finding:
    """One step: what one commit did.

    Attributes:
        commits: the commit that made it, or all that may have, because no others between can be measured.
        before: the last commit measured without it; ``after``, the first measured with it.
        moved: every cell that took it, the worst first.
        place: the first wrong block and component of the worst cell; "" if the step is not for the worse.
        environments: the environments before and after, where they differ.
        doubt: why it is not confirmed; "" if the two commits, measured anew in fresh processes, gave the same bits again.
    """

    commits: tuple[str, ...]
    before: str
    after: str
    moved: tuple[Moved, ...]
    place: str = ""
    environments: tuple[str, ...] = ()
    doubt: str = ""

    @property
    def change(self) -> Change:
        """The worst change of any cell."""
        return self.moved[0].change

    @property
    def worst(self) -> Moved:
        """The cell that stands for all."""
        return self.moved[0]


@dataclass(frozen=True)
class Found:
    """All steps of a range.

    Attributes:
        findings: parents first.
        commits: how many commits the range has.
        probes: how many were measured or read in the search.
        skipped: the reason for each commit that could not be measured.
        not_measured: cells that were not measured at one of the ends, with the reason.
    """

    good: str
    bad: str
    cells: tuple[Cell, ...]
    findings: tuple[Finding, ...]
    commits: int
    probes: int
    skipped: dict[str, str]
    not_measured: dict[str, str]


@dataclass
class Finder:
    """Finds the steps of a range in a clone.

    Attributes:
        say: receives a short progress message at each step.
    """

    clone: Clone
    say: Callable[[str], None] = lambda _: None
    _fresh: Laboratory | None = field(default=None, repr=False)
    _search: Search[Cell] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.laboratory = Laboratory(self.clone, self._say_what_is_known)

    def close(self) -> None:
        """End every process, and keep what was learnt about commits."""
        self.clone.keep_code()
        for laboratory in filter(None, (self.laboratory, self._fresh)):
            laboratory.close()

    def ends(self, good: str, bad: str, cells: Sequence[Cell]) -> list[Moved]:
        """Every cell at two commits. Raises BadInput if one of them cannot be measured."""
        return moved(self._end(good, cells), self._end(bad, cells), cells)

    def _end(self, commit: str, cells: Sequence[Cell]) -> States:
        try:
            return self.laboratory.states(commit, cells)
        except CellFailed as error:
            raise BadInput(f"{commit[:8]} cannot be measured ({error}): choose another end of the range") from error

    def applicable(self, commit: str, cells: Sequence[Cell]) -> list[Cell]:
        """The cells whose model, option and wrapper a commit has. Raises BadInput if it cannot be measured."""
        states = self._end(commit, cells)
        return [cell for cell in cells if states[cell].verdict is not Verdict.NOT_APPLICABLE]

    def last_better(self, bad: str, cells: Sequence[Cell]) -> str:
        """The nearest of the 1st, 2nd, 4th, 8th ... and oldest release before a commit that was better than it in some cell.

        Releases that cannot be measured are passed over. Raises BadInput if none was better.
        """
        releases = list(self.clone.releases(bad))
        numbers = {min(1 << power, len(releases)) for power in range(len(releases).bit_length() + 1)} - {0}
        measured = []
        for release in (releases[number - 1] for number in sorted(numbers)):
            with suppress(BadInput):
                ends = self.ends(release, bad, cells)
                measured.append(release[:8])
                if any(one.is_worse for one in ends):
                    return release
        raise BadInput(
            f"{bad[:8]} is not worse in any of {len(cells)} cells than any release that was measured: "
            f"{', '.join(measured) or 'none could be'}: name a range, GOOD..BAD"
        )

    def best(self, commits: Sequence[str], cells: Sequence[Cell]) -> str:
        """The commit with the fewest cells that are wrong or fail and, of several, with the smallest errors.

        Their errors are compared by the mean of the logarithms over the cells that are right in each. Of equals it is the
        first. Raises BadInput if none of the commits can be measured.
        """
        known: dict[str, States] = {}
        for commit in commits:
            with suppress(CellFailed):
                known[commit] = self.laboratory.states(commit, cells)
        if not known:
            raise BadInput(f"none of {', '.join(commit[:8] for commit in commits)} can be measured: name a commit instead")
        n_wrong = {commit: sum(states[cell].verdict in NOT_RIGHT for cell in cells) for commit, states in known.items()}
        best = [commit for commit in known if n_wrong[commit] == min(n_wrong.values())]
        errors = {commit: {cell: known[commit][cell].error or 0.0 for cell in cells} for commit in best}
        right = [
            cell for cell in cells if all(known[commit][cell].verdict.passes and errors[commit][cell] for commit in best)
        ]
        return min(best, key=lambda commit: sum(math.log2(errors[commit][cell]) for cell in right))

    def steps(self, good: str, bad: str, cells: Sequence[Cell], effort: Effort = Effort.SEARCH) -> Found:
        """Every step of ``good..bad`` that an effort finds.

        Raises BadInput if an end cannot be measured.
        """
        graph = Graph(self.clone.parents(bad), self.clone.content)
        ends = self.ends(good, bad, cells)
        unknown = {str(one.cell): one.before.reason or one.after.reason for one in ends if one.change is Change.NOT_MEASURED}
        wanted = frozenset(cell for cell in cells if str(cell) not in unknown)
        self._search = search = Search(graph, self._measure, good, bad, wanted)
        try:
            steps = search.steps(effort)
        except Unmeasurable as error:
            raise BadInput(f"{error.args[0][:8]} cannot be measured: choose another end of the range") from error
        findings = tuple(self.finding(step) for step in steps)
        skipped = {commit: self.laboratory.unmeasurable[commit] for commit in search.skipped}
        inside = len(graph.between(good, bad))
        return Found(good, bad, tuple(cells), findings, inside, search.probes, skipped, unknown)

    def finding(self, step: Step[Cell]) -> Finding:
        """A step, measured anew and classified; read if that was done before."""
        cells = sorted(step.cells)
        path = self._file(step, cells)
        with suppress(FileNotFoundError, ValueError):
            kept: Finding = restored(Finding, json.loads(path.read_text()))
            return replace(kept, commits=step.commits, before=step.before, after=step.after)
        finding = self._examined(step, cells)
        if not finding.doubt:
            write_json(path, plain(finding))
        return finding

    def _say_what_is_known(self, doing: str) -> None:
        known = (
            f"{len(self._search.named)} steps so far, {self.laboratory.measured} commits measured" if self._search else ""
        )
        self.say(f"{doing} · {known}" if known else doing)

    def _measure(self, commit: str, cells: Collection[Cell]) -> dict[Cell, str] | None:
        try:
            return {cell: state.identity for cell, state in self.laboratory.states(commit, sorted(cells)).items()}
        except CellFailed:
            return None

    def _examined(self, step: Step[Cell], cells: Sequence[Cell]) -> Finding:
        """Measure both sides of a step in fresh processes and, where their environments differ, one side in both."""
        self._fresh = fresh = self._fresh or Laboratory(self.clone, self._say_what_is_known, is_fresh=True)
        self._say_what_is_known(f"{step.after[:8]}: measuring it and its parent anew")
        sides = [fresh.states(commit, cells) for commit in (step.before, step.after)]
        known = [self.laboratory.states(commit, cells) for commit in (step.before, step.after)]
        doubt = _doubt(known, sides, cells)
        where = [fresh.workshop.environment(commit) for commit in (step.before, step.after)]
        same = where[0].digest == where[1].digest
        found = moved(sides[0], sides[1], cells) if same else self._attributed(step, cells, sides, where)
        finding = Finding(step.commits, step.before, step.after, tuple(found), doubt=doubt)
        if not same:
            finding = replace(finding, environments=differing_packages(*where))
        if (worst := finding.worst).change.is_for_the_worse and worst.after.fingerprint:
            finding = replace(finding, place=fresh.first_wrong(step.after, worst.cell))
        return finding

    def _attributed(
        self, step: Step[Cell], cells: Sequence[Cell], sides: Sequence[States], where: Sequence[Environment]
    ) -> list[Moved]:
        """How each cell changed by TransformerLens's own doing; where that is not at all, the environment did it.

        The later commit is measured in the earlier one's environment or, if it does not import there, the other way round.
        """
        assert self._fresh
        for commit, other, is_later in ((step.after, where[0], True), (step.before, where[1], False)):
            with suppress(CellFailed):
                crossed = self._fresh.states(commit, cells, other)
                before, after = (sides[0], crossed) if is_later else (crossed, sides[1])
                own = {one.cell: one for one in moved(before, after, cells)}
                whole = {one.cell: one for one in moved(sides[0], sides[1], cells)}
                return _sorted(
                    whole[cell] if own[cell].before.identity == own[cell].after.identity else own[cell] for cell in cells
                )
        return moved(_without_environment(sides[0]), _without_environment(sides[1]), cells)

    def _file(self, step: Step[Cell], cells: Sequence[Cell]) -> Path:
        """Where a finding is kept: the name hashes what the two sides are, and the rule."""
        states = [
            plain(self.laboratory.states(commit, cells)[cell]) for commit in (step.before, step.after) for cell in cells
        ]
        key = [self.clone.content(step.before), self.clone.content(step.after), states, code_digest(__name__)]
        name = hashlib.sha256(canonical_json([*key, list(map(str, cells))]).encode()).hexdigest()
        return cache_dir() / "states" / name[:2] / f"{name}.step.json"


def moved(before: States, after: States, cells: Sequence[Cell]) -> list[Moved]:
    """How each cell changed, the worst first."""
    found = {cell: change(before[cell], after[cell]) for cell in cells}
    return _sorted(Moved(cell, word, before[cell], after[cell], bits) for cell, (word, bits) in found.items())


def _sorted(found: Iterator[Moved] | Sequence[Moved]) -> list[Moved]:
    return sorted(found, key=lambda one: (DISTANCE[one.change], -abs(one.bits or 0.0), one.cell))


def _doubt(known: Sequence[States], anew: Sequence[States], cells: Sequence[Cell]) -> str:
    """What came out differently the second time."""
    for was, now in zip(known, anew, strict=True):
        for cell in cells:
            if was[cell].identity != now[cell].identity:
                verdicts = f"{was[cell].verdict}, then {now[cell].verdict} {now[cell].reason}".strip()
                return f"{cell} was not the same when it was measured anew ({verdicts})"
    return ""


def _without_environment(states: States) -> States:
    return {cell: replace(state, environment="") for cell, state in states.items()}


def differing_packages(before: Environment, after: Environment) -> tuple[str, ...]:
    """The packages that differ between two environments, as ``name 1.0 → 2.0``, torch and transformers first."""
    versions = [dict(line.split("==", 1) for line in one.packages) for one in (before, after)]
    names = sorted({*versions[0], *versions[1]} - {PROJECT}, key=lambda name: (name not in SHOWN, name))
    pairs = {name: (versions[0].get(name, "none"), versions[1].get(name, "none")) for name in names}
    return tuple(f"{name} {old} → {new}" for name, (old, new) in pairs.items() if old != new)


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Within the block no other search measures with this cache. Raises BadInput if one does already."""
    folder = cache_dir() / "states"
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / "search.txt"
    try:
        with filelock.FileLock(folder / "search.lock").acquire(timeout=PATIENCE_S):
            owner.write_text(what)
            yield
    except filelock.Timeout:
        doing = owner.read_text() if owner.is_file() else "another search"
        raise BadInput(
            f"`{doing}` is measuring with this cache: wait until it ends, and what it measured will be read"
        ) from None
