"""How a cell changed between two commits: one rule, for the site, the search for steps and the check of a pull request.

Figures are deterministic, so a change is no noise. The question is whether it matters, and to whom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from tlbench.metrics.verdict import Verdict

HALF_A_BIT = 0.5
"""The smallest step of a mean error that counts, in bits: a factor of 1.41. Of 2,824 neighbouring pairs of mean logit
errors over twelve releases, 467 moved by less than 0.3 bits, none by 0.3 to 0.5, and 60 by more. Maxima have no such gap."""


class Change(StrEnum):
    """How a cell changed. The worst comes first."""

    ALARM = "alarm"
    """It was not wrong and is wrong now, or was worse and is broken now."""
    NEWLY_FAILING = "newly failing"
    """It raises now, and did not before."""
    NEWLY_NOT_APPLICABLE = "newly n/a"
    """It ran before, and this TransformerLens has no such wrapper, option or architecture."""
    NOTICE = "notice"
    """Its mean error rose by half a bit or more, and it is as right or wrong as before; or it cannot be judged any more."""
    ENVIRONMENT = "environment"
    """Other bits in another environment: measure one commit in both before TransformerLens is blamed."""
    MENDED = "mended"
    """It was wrong or failed, and is right."""
    BETTER = "better"
    """It is less wrong, or its mean error fell by half a bit or more."""
    NEWLY_APPLICABLE = "newly applicable"
    """This TransformerLens did not have it before, and it is not wrong."""
    OTHER_ROUNDING = "other rounding"
    """Other bits, as right or as wrong as before, and the mean error moved by less than half a bit."""
    SAME_BITS = "same bits"
    """The logits have the same bits."""
    STILL_FAILING = "still failing"
    STILL_NOT_APPLICABLE = "still n/a"
    NOT_MEASURED = "not measured"
    """Nobody has run it at one of the two commits, so nothing is known."""

    @property
    def is_alarm(self) -> bool:
        """Whether somebody has to look."""
        return self in (Change.ALARM, Change.NEWLY_FAILING, Change.NEWLY_NOT_APPLICABLE)

    @property
    def is_news(self) -> bool:
        """Whether the cell changed in more than its rounding. An unmeasured cell is no news, and no good news either."""
        return list(Change).index(self) < list(Change).index(Change.OTHER_ROUNDING)

    @property
    def is_for_the_worse(self) -> bool:
        """Whether it is news that nobody hopes for."""
        return self.is_alarm or self is Change.NOTICE


@dataclass(frozen=True)
class State:
    """What is known of one cell at one commit.

    Attributes:
        verdict: ``failed``, ``n/a`` and ``not measured`` among them.
        fingerprint: a hash of the logits; "" if there are none.
        error: the mean error of the logits, in nats; None if there is none.
        floor: HuggingFace's own error, in nats, below which an error is rounding; 0 if it is not known.
        environment: the libraries and the arithmetic that it was measured with; "" if they are not known.
        reason: why there are no figures, or what else to know.
    """

    verdict: Verdict
    fingerprint: str = ""
    error: float | None = None
    floor: float = 0.0
    environment: str = ""
    reason: str = ""

    @property
    def identity(self) -> str:
        """What is equal in two commits with no step between them: the logits' bits or, without logits, the verdict."""
        return self.fingerprint or self.verdict.value


_WRONG = {Verdict.WORSE: 1, Verdict.BROKEN: 2}
_ABSENT = {Verdict.FAILED: Change.NEWLY_FAILING, Verdict.NOT_APPLICABLE: Change.NEWLY_NOT_APPLICABLE}


def change(before: State, after: State) -> tuple[Change, float | None]:
    """How a cell changed, and by how many bits its mean error did; None if one of them has no error."""
    was, now = before.verdict, after.verdict
    if Verdict.NOT_MEASURED in (was, now):
        return Change.NOT_MEASURED, None
    if was is now is Verdict.NOT_APPLICABLE:
        return Change.STILL_NOT_APPLICABLE, None
    if was is now is Verdict.FAILED:
        return Change.STILL_FAILING, None
    if before.fingerprint and before.fingerprint == after.fingerprint:
        return Change.SAME_BITS, 0.0
    if before.environment != after.environment and before.environment and after.environment:
        return Change.ENVIRONMENT, _bits(before, after)
    return _changed(before, after)


def _changed(before: State, after: State) -> tuple[Change, float | None]:
    """The same for two states in one environment that differ."""
    was, now, bits = before.verdict, after.verdict, _bits(before, after)
    if now in _ABSENT:
        return _ABSENT[now], None
    wrong = _WRONG.get(was, 0), _WRONG.get(now, 0)
    if wrong[1] > wrong[0]:
        return Change.ALARM, bits
    if was in _ABSENT:
        return (Change.MENDED if was is Verdict.FAILED else Change.NEWLY_APPLICABLE), None
    if wrong[1] < wrong[0]:
        return (Change.MENDED if now.passes else Change.BETTER), bits
    if was.passes != now.passes:  # one of them cannot be judged
        return (Change.BETTER if now.passes else Change.NOTICE), bits
    return _moved(bits, was.passes), bits


def _moved(bits: float | None, is_right: bool) -> Change:
    """What a moved mean error says of a cell that is as right or as wrong as before."""
    if bits is None or abs(bits) < HALF_A_BIT or (math.isinf(bits) and is_right):  # to or from HuggingFace's very bits
        return Change.OTHER_ROUNDING
    return Change.NOTICE if bits > 0 else Change.BETTER


def _bits(before: State, after: State) -> float | None:
    """By how many bits the mean error rose. Errors below the floor count as the floor."""
    if before.error is None or after.error is None:
        return None
    floor = max(before.floor, after.floor)
    was, now = max(before.error, floor), max(after.error, floor)
    if was == now:
        return 0.0
    if not was or not now or math.isinf(was) or math.isinf(now):
        return math.inf if now > was else -math.inf
    return math.log2(now / was)
