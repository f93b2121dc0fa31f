"""What changed of a cell between two measured commits, and every step in a history, once.

The rule is :mod:`tlbench.metrics.change`'s. A page has fewer words: an alarm and a notice are both "error grew", as "worse"
is a verdict.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from tlbench.grid import Cell
from tlbench.metrics import change as rule
from tlbench.metrics.verdict import Verdict
from tlbench.site.history import MEAN, RATIO, TOTAL, CellHistory, History, Run, State


class Change(StrEnum):
    """How a cell changed. The order is that of the pages."""

    GREW = "error grew"
    """It became wrong, or its mean error rose by half a bit or more, to above HuggingFace's own."""
    FAILS = "newly failing"
    FELL = "error fell"
    """It is less wrong, or its mean error fell by half a bit or more, from above HuggingFace's own."""
    MENDED = "mended"
    """It was wrong or failed, and is right."""
    STILL_FAILS = "still failing"
    OTHER_ROUNDING = "other rounding"
    """Other bits, and the mean moved by less than half a bit, or stayed below HuggingFace's own error."""
    SAME_BITS = "same bits"
    """Every stored figure of the logits has the same bits."""
    FIRST = "first measured"
    ENDED = "no longer applicable"
    """It ran, and this TransformerLens has no such wrapper, option or architecture any more. Nobody mended it."""
    GONE = "no longer measured"


_MOVED = "by a factor of 1.41 (half a bit) or more"
_OWN = "HuggingFace's own error"
EXPLAINED: Mapping[Change, str] = {
    Change.GREW: f"the verdict got worse, or the mean error grew {_MOVED}, to above {_OWN}",
    Change.FAILS: "raises now, and did not before",
    Change.FELL: f"less wrong, or the mean error fell {_MOVED}, from above {_OWN}",
    Change.MENDED: "was wrong or failed, and is right now",
    Change.STILL_FAILS: "raised before, and raises now",
    Change.OTHER_ROUNDING: f"other bits, and the mean error moved by less than that, or stayed below {_OWN}",
    Change.SAME_BITS: "every stored figure of the logits has the same bits",
    Change.FIRST: "not measured, or not applicable, before",
    Change.ENDED: "this TransformerLens has no such wrapper, option or architecture any more; nothing of it was mended",
    Change.GONE: "measured before, and nobody has measured it now",
}
STEPS = (Change.GREW, Change.FAILS, Change.FELL, Change.MENDED)
_WORDS = {
    rule.Change.ALARM: Change.GREW,
    rule.Change.NOTICE: Change.GREW,
    rule.Change.NEWLY_FAILING: Change.FAILS,
    rule.Change.STILL_FAILING: Change.STILL_FAILS,
    rule.Change.BETTER: Change.FELL,
    rule.Change.MENDED: Change.MENDED,
    rule.Change.OTHER_ROUNDING: Change.OTHER_ROUNDING,
    rule.Change.SAME_BITS: Change.SAME_BITS,
}


def change(before: Run, after: Run, same_cell: bool = True) -> tuple[Change | None, float | None]:
    """How a cell changed, and by how many bits its mean error did; None if it has run at neither."""
    was, now = before.state, after.state
    if not was.has_run or not now.has_run:
        ended = Change.ENDED if now.verdict is Verdict.NOT_APPLICABLE else Change.GONE
        return (Change.FIRST if now.has_run else ended if was.has_run else None), None
    if same_cell and before.number == after.number and was.verdict is not Verdict.FAILED:
        return Change.SAME_BITS, 0.0
    word, bits = rule.change(_state(was), _state(now))
    return _WORDS[word], None if bits in (math.inf, -math.inf) and word is rule.Change.OTHER_ROUNDING else bits


def _state(state: State) -> rule.State:
    """A stored state as the rule takes it. Equal figures stand for equal logits."""
    fingerprint = f"{state.verdict} {sorted(state.figures.items())}"
    return rule.State(state.verdict, fingerprint, state.figures.get(MEAN), floor_of(state))


def floor_of(state: State) -> float:
    """HuggingFace's own error, in nats: TransformerLens's over how many times that it is; 0 if not known."""
    total, ratio = state.figures.get(TOTAL) or 0.0, state.figures.get(RATIO) or math.inf
    return total / ratio if math.isfinite(total) else 0.0


@dataclass(frozen=True)
class Changed:
    """One cell at two commits. The cells differ where one wrapper follows the other."""

    change: Change
    earlier: Cell
    later: Cell
    before: Run
    after: Run
    bits: float | None


def compare(history: History, earlier: int, later: int) -> list[Changed]:
    """Every cell that has run at either of two commits, in the order of the grid.

    Where the two commits have no wrapper in common, one follows the other, and their cells are paired.
    """
    ran = [{h.cell.wrapper for h in history.cells if h.at(i).state.has_run} for i in (earlier, later)]
    is_followed = all(ran) and not ran[0] & ran[1]
    by_key: dict[tuple[str, ...], CellHistory] = {}
    if is_followed:
        by_key = {_configuration(h.cell): h for h in history.cells if h.cell.wrapper in ran[0]}
    found = []
    for one in history.cells:
        if is_followed and one.cell.wrapper not in ran[1]:
            continue
        was = by_key.get(_configuration(one.cell), one) if is_followed else one
        before, after = was.at(earlier), one.at(later)
        kind, bits = change(before, after, same_cell=was is one)
        if kind:
            found.append(Changed(kind, was.cell, one.cell, before, after, bits))
    return found


def _configuration(cell: Cell) -> tuple[str, ...]:
    return cell.model, cell.dtype, cell.option


@dataclass(frozen=True)
class Step:
    """One step: what one commit did to one model in one wrapper.

    Attributes:
        before: the last commit measured before it; ``after`` the first measured with it.
        cells: each cell that took it.
    """

    change: Change
    before: int
    after: int
    cells: tuple[Changed, ...]

    @property
    def worst(self) -> Changed:
        """The cell whose mean moved most; of failures, the first."""
        return max(self.cells, key=lambda one: abs(one.bits or 0.0))


def steps(history: History) -> list[Step]:
    """Every step of every history, once, the newest first."""
    groups: dict[tuple[int, int, Change, str, str], list[Changed]] = defaultdict(list)
    for one in history.cells:
        for earlier, later, changed in _steps_of(one):
            groups[later, earlier, changed.change, one.cell.model, one.cell.wrapper].append(changed)
    order = list(STEPS)
    found = [Step(kind, earlier, later, tuple(cells)) for (later, earlier, kind, _, _), cells in groups.items()]
    return sorted(found, key=lambda s: (-s.after, order.index(s.change), s.cells[0].later))


def _steps_of(one: CellHistory) -> Iterator[tuple[int, int, Changed]]:
    ran: Iterable[Run] = (run for run in one.runs if run.state.has_run)
    for before, after in itertools.pairwise(ran):
        kind, bits = change(before, after)
        if kind in STEPS:
            yield before.last, after.first, Changed(kind, one.cell, one.cell, before, after, bits)
