"""Time ratios that survive a noisy machine: candidates take turns in one process, repeated over several interpreters.

A machine that slows down slows both sides of a pair, so a round's ratio stays put when its times do not. The remaining noise
is as large between processes as between rounds, and a little larger between interpreters, so interpreters are repeated
(Kalibera and Jones, "Rigorous benchmarking in reasonable time", ISMM 2013).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

INTERPRETERS = 8  # per ratio
PROCESSES = 2  # per interpreter
T_99 = 3.499  # Student's t at 99.5 %, one-sided, INTERPRETERS - 1 degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.2)
FALSE_ALARMS = 0.01  # the highest allowed rate of calling unchanged cells changed: what T_99 leaves in both tails


@dataclass(frozen=True)
class Paired:
    """A ratio of two times. ``medians`` holds each process's median over its rounds, ``[interpreter][process]``."""

    medians: tuple[tuple[float, ...], ...]

    @property
    def ratio(self) -> float:
        """The geometric mean over the interpreters."""
        return math.exp(statistics.fmean(self._logs()))

    @property
    def log_error(self) -> float:
        """The standard deviation of one interpreter's log ratio, averaged over its processes.

        Interpreters differ at least as much as their processes imply; those that differ by less agree by luck.
        """
        logs = [list(map(math.log, processes)) for processes in self.medians]
        within = [statistics.variance(processes) / len(processes) for processes in logs if len(processes) > 1]
        return math.sqrt(max(statistics.variance(self._logs()), statistics.fmean(within or [0])))

    @property
    def half_width(self) -> float:
        """Half-width of the 99 % interval for a repeated run, relative to the ratio, for INTERPRETERS interpreters.

        This is the prediction interval of a second mean of as many interpreters, t s sqrt(1/n + 1/n), on logarithms.
        """
        return T_99 * self.log_error * math.sqrt(2 / INTERPRETERS)

    def _logs(self) -> list[float]:
        return [statistics.fmean(map(math.log, processes)) for processes in self.medians]


@dataclass(frozen=True)
class Change:
    """A ratio compared with an earlier one, from stored figures.

    Attributes:
        factor: the later ratio over the earlier one.
        half_width: half-width of the factor's 99 % interval, relative to the factor.
    """

    factor: float
    half_width: float

    @classmethod
    def between(cls, earlier: Measured, later: Measured) -> Change:
        """Compare two ratios whose half-widths are :attr:`Paired.half_width`, t s sqrt(2/n).

        That of a difference of two means, t sqrt(s1**2/n1 + s2**2/n2), is the root mean square of the two.
        """
        half_width = math.sqrt((earlier.half_width**2 + later.half_width**2) / 2)
        return cls(later.ratio / earlier.ratio, half_width)

    def is_slower(self, threshold: float) -> bool:
        """Whether the ratio grew by ``threshold``, and more than chance moves one cell. For several, use :func:`slower`."""
        return self.factor >= 1 + threshold and math.log(self.factor) > self.half_width

    @property
    def p_value(self) -> float:
        """How often chance moves an unchanged ratio this far either way: at most FALSE_ALARMS beyond ``half_width``."""
        moved = abs(math.log(self.factor))
        if self.half_width == 0:
            return 0.0 if moved else 1.0
        return two_sided(T_99 * moved / self.half_width)


class Measured(Protocol):
    """A ratio and how far chance moves it."""

    @property
    def ratio(self) -> float:
        """TransformerLens's time over HuggingFace's."""

    @property
    def half_width(self) -> float:
        """Half-width of the interval a repeated run falls into, relative to the ratio."""


def two_sided(t: float) -> float:
    """The probability that Student's t with INTERPRETERS - 1 degrees of freedom is at least as far from 0 as ``t``.

    A difference of two ratios has more degrees of freedom than either ratio (Welch), so this never understates it. Source:
    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3, for an odd number of degrees of freedom.
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

    However many unchanged cells there are, the chance that any looks slower is at most FALSE_ALARMS (Holm, "A simple
    sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979).
    """
    is_slower = [False] * len(changes)
    by_p_value = sorted(range(len(changes)), key=lambda i: changes[i].p_value)
    for remaining, i in zip(range(len(changes), 0, -1), by_p_value, strict=True):
        if remaining * changes[i].p_value > FALSE_ALARMS:
            break
        is_slower[i] = changes[i].factor >= 1 + threshold
    return is_slower


def is_inside(first: Measured, repeat: Measured) -> bool:
    """Whether a repeated run's ratio is within the first run's interval."""
    return abs(math.log(repeat.ratio / first.ratio)) <= first.half_width


def paired(interpreters: Sequence[Sequence[Sequence[Sequence[float]]]], other: int) -> Paired:
    """The first candidate's times over those of candidate ``other``. ``[interpreter][process][round][candidate]``."""

    def median_ratio(rounds: Sequence[Sequence[float]]) -> float:
        return statistics.median(times[0] / times[other] for times in rounds)

    return Paired(tuple(tuple(map(median_ratio, processes)) for processes in interpreters))
