"""Ratios of times that survive a noisy machine: candidates take turns in one process, in processes of several interpreters.

A machine that slows down slows both sides of a pair, so a round's ratio keeps its value where its times do not. What is
left differs from process to process as much as from round to round, and a little more between interpreters; so interpreters
are what is repeated: Kalibera and Jones, "Rigorous benchmarking in reasonable time", ISMM 2013. No tensors here, no models.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

INTERPRETERS = 8
"""Interpreters of one ratio."""
PROCESSES = 2
"""Of each interpreter."""
T_99 = 3.499
"""Student's t at 99.5 %, one side, for INTERPRETERS - 1 degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.2)."""
FALSE_ALARMS = 0.01
"""How often, at most, unchanged cells may be called changed: what T_99 leaves on both sides."""


@dataclass(frozen=True)
class Paired:
    """A ratio of two times, from processes of several interpreters.

    Attributes:
        medians: of each process, the median of its rounds' ratios, ``[interpreter][process]``; of INTERPRETERS, for which
            the interval holds.
    """

    medians: tuple[tuple[float, ...], ...]

    @property
    def ratio(self) -> float:
        """The geometric mean over the interpreters."""
        return math.exp(statistics.fmean(self._logs()))

    @property
    def log_error(self) -> float:
        """The standard deviation of one interpreter's logarithm, its processes taken together.

        What interpreters differ by is what their processes make of it and what is their own. The latter is no less than
        nothing, so where they differ by less than their processes alone would make, they agree by luck.
        """
        logs = [list(map(math.log, own)) for own in self.medians]
        within = [statistics.variance(own) / len(own) for own in logs if len(own) > 1]
        return math.sqrt(max(statistics.variance(self._logs()), statistics.fmean(within or [0])))

    @property
    def half_width(self) -> float:
        """Of a 99 % interval for a repeated run of as many interpreters, relative to the ratio.

        It is the prediction interval of a second mean: t s sqrt(1/n + 1/n), on the logarithms.
        """
        return T_99 * self.log_error * math.sqrt(2 / INTERPRETERS)

    def _logs(self) -> list[float]:
        return [statistics.fmean(map(math.log, own)) for own in self.medians]


@dataclass(frozen=True)
class Change:
    """A ratio beside an earlier one, from what is stored of both.

    Attributes:
        factor: the later over the earlier.
        half_width: of the 99 % interval of the factor, relative to it.
    """

    factor: float
    half_width: float

    @classmethod
    def between(cls, earlier: Measured, later: Measured) -> Change:
        """From two ratios with the half-widths of :attr:`Paired.half_width`.

        Each of these is t s sqrt(2/n); the difference of two means has t sqrt(s1**2/n1 + s2**2/n2), which is their root
        mean square.
        """
        half_width = math.sqrt((earlier.half_width**2 + later.half_width**2) / 2)
        return cls(later.ratio / earlier.ratio, half_width)

    def is_slower(self, threshold: float) -> bool:
        """Whether it grew by at least ``threshold``, such as 0.05, and by more than chance moves a single cell.

        Where several cells are compared, :func:`slower` is the test: one cell of a hundred is moved beyond this by chance.
        """
        return self.factor >= 1 + threshold and math.log(self.factor) > self.half_width

    @property
    def p_value(self) -> float:
        """How often chance alone moves an unchanged ratio as far, up or down: at most FALSE_ALARMS beyond ``half_width``."""
        moved = abs(math.log(self.factor))
        if self.half_width == 0:
            return 0.0 if moved else 1.0
        return two_sided(T_99 * moved / self.half_width)


class Measured(Protocol):
    """A ratio and what chance moves it by."""

    @property
    def ratio(self) -> float:
        """TransformerLens's time over HuggingFace's."""

    @property
    def half_width(self) -> float:
        """Of the interval in which a repeated run ends, relative to the ratio."""


def two_sided(t: float) -> float:
    """The probability that Student's t with INTERPRETERS - 1 degrees of freedom is at least as far from 0 as ``t``.

    A difference of two ratios has more degrees of freedom than one of them (Welch), so with these it is no less than exact.
    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3, for an odd number of degrees of freedom.
    """
    freedom = INTERPRETERS - 1
    angle = math.atan2(abs(t), math.sqrt(freedom))
    term = total = math.cos(angle)
    for k in range(2, freedom - 1, 2):
        term *= k / (k + 1) * math.cos(angle) ** 2
        total += term
    return max(1 - 2 / math.pi * (angle + math.sin(angle) * total), 0.0)


def slower(changes: Sequence[Change], threshold: float) -> list[bool]:
    """Which of several cells grew by at least ``threshold``, such as 0.05, and by more than chance moves any of them.

    However many unchanged cells are compared, chance makes any of them look slower at most FALSE_ALARMS of the time. A cell
    that is compared alone is tested by its own interval.
    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    real = [False] * len(changes)
    by_chance = sorted(range(len(changes)), key=lambda i: changes[i].p_value)
    for left, i in zip(range(len(changes), 0, -1), by_chance, strict=True):
        if left * changes[i].p_value > FALSE_ALARMS:
            break
        real[i] = True
    return [is_real and change.factor >= 1 + threshold for is_real, change in zip(real, changes, strict=True)]


def is_inside(first: Measured, repeat: Measured) -> bool:
    """Whether a repeated run's ratio lies within the first run's interval."""
    return abs(math.log(repeat.ratio / first.ratio)) <= first.half_width


def paired(interpreters: Sequence[Sequence[Sequence[Sequence[float]]]], other: int) -> Paired:
    """The ratio of the first candidate's times to another's in the same rounds.

    Args:
        interpreters: times, ``[interpreter][process][round][candidate]``.
        other: which candidate's times are the denominators.
    """
    return Paired(
        tuple(
            tuple(statistics.median(times[0] / times[other] for times in rounds) for rounds in own) for own in interpreters
        )
    )
