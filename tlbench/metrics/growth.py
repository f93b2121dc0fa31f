"""How fast an error grows: the exponent of a power law, with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FEWEST_POINTS = 3
"""Two points lie on any line: a fit to them has no uncertainty to state."""


@dataclass(frozen=True)
class Growth:
    """error ~ x ** exponent, by least squares on the logarithms.

    Attributes:
        exponent: 1/2 where independent roundings add up, 1 where they are systematic, 0 where nothing grows.
        standard_error: of the exponent, from the scatter of the points about the line.
        points: how many there are.
    """

    exponent: float
    standard_error: float
    points: int


def fit(x: Sequence[float], error: Sequence[float]) -> Growth | None:
    """The growth of ``error`` over ``x``, points without a positive finite error left out; None with fewer than three.

    Source: the ordinary least-squares slope, and its standard error with n - 2 degrees of freedom.
    """
    logs = [(math.log(a), math.log(b)) for a, b in zip(x, error, strict=True) if b > 0 and math.isfinite(b)]
    n = len(logs)
    if n < FEWEST_POINTS:
        return None
    mean_x, mean_y = (sum(column) / n for column in zip(*logs, strict=True))
    spread = sum((a - mean_x) ** 2 for a, _ in logs)
    if spread == 0:
        return None
    slope = sum((a - mean_x) * (b - mean_y) for a, b in logs) / spread
    rest = sum((b - mean_y - slope * (a - mean_x)) ** 2 for a, b in logs)
    return Growth(slope, math.sqrt(rest / (n - 2) / spread), n)
