"""How fast an error grows: a power law's exponent and its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FEWEST_POINTS = 3  # any two points lie on a line, so a fit to them has no uncertainty


@dataclass(frozen=True)
class Growth:
    """error ~ x ** exponent, fitted by least squares on the logarithms.

    Attributes:
        exponent: 1/2 if independent roundings accumulate, 1 if they are systematic, 0 if the error does not grow.
        standard_error: of the exponent, from the scatter of the points about the line (n - 2 degrees of freedom).
        points: number of points fitted.
    """

    exponent: float
    standard_error: float
    points: int


def fit(x: Sequence[float], error: Sequence[float]) -> Growth | None:
    """Fit to the errors that are positive and finite. None if fewer than three are left, or all share one ``x``."""
    logs = [(math.log(a), math.log(b)) for a, b in zip(x, error, strict=True) if b > 0 and math.isfinite(b)]
    n = len(logs)
    if n < FEWEST_POINTS:
        return None
    mean_x, mean_y = (sum(column) / n for column in zip(*logs, strict=True))
    spread = sum((a - mean_x) ** 2 for a, _ in logs)
    if spread == 0:
        return None
    slope = sum((a - mean_x) * (b - mean_y) for a, b in logs) / spread
    residual = sum((b - mean_y - slope * (a - mean_x)) ** 2 for a, b in logs)
    return Growth(slope, math.sqrt(residual / (n - 2) / spread), n)
