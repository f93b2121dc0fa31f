"""The worst of several figures, where one that is no number is the worst of all. Knows numbers only."""

from __future__ import annotations

import math
from collections.abc import Iterable


def worst(values: Iterable[float]) -> float | None:
    """The largest; infinite if one is not a number, which ``max`` would hide; None if there are none."""
    return max((math.inf if math.isnan(value) else value for value in values), default=None)


def times(error: float, reference_error: float, roundoff: float) -> float:
    """An error over the reference's own, or over one rounding where that is larger.

    1 where neither is finite: the reference overflows there, too. Infinite where the error alone is not.
    """
    if not math.isfinite(error):
        return math.inf if math.isfinite(reference_error) else 1.0
    return error / max(reference_error, roundoff)
