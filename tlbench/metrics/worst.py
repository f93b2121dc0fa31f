"""The worst of several figures, where NaN is the worst of all. Works on numbers only."""

from __future__ import annotations

import math
from collections.abc import Iterable


def worst(values: Iterable[float]) -> float | None:
    """The largest value; infinite if any is NaN, which ``max`` would hide; None if there are no values."""
    return max((math.inf if math.isnan(value) else value for value in values), default=None)


def times(error: float, reference_error: float, roundoff: float) -> float:
    """An error over the reference's own, or over one rounding if that is larger. Infinite if only the error isn't finite."""
    if not math.isfinite(error):
        return math.inf if math.isfinite(reference_error) else 1.0  # the reference overflows too
    return error / max(reference_error, roundoff)
