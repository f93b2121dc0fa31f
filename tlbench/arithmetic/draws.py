"""Random parameters with the same bytes on every machine and under every library version.

Each parameter is drawn from Philox-4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), keyed by
the SHA-256 of its name. NumPy promises never to change the raw 64-bit stream. Integer sums and correctly rounded float64
products turn it into numbers, so the result depends on no libm and no order of summation.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

WORDS_PER_NORMAL = 3
UNIFORMS_PER_NORMAL = 12
UINT16_RANGE = 65536


class Shape(Enum):
    """The kind of parameter, with the distribution that it has in a trained model."""

    MATRIX = "matrix"  # normal entries of standard deviation ``scale``
    GAIN = "gain"  # of a norm: uniform on [0.4, 1.6] times ``scale``, so far from 1, and smaller in the outlier dimensions
    GAIN_LESS_ONE = "gain less one"  # the same, stored minus one as in Gemma, whose norms multiply by 1 + w
    BIAS = "bias"  # normal entries of standard deviation ``scale``
    INTERVAL = "interval"  # uniform on ``centre`` ± ``scale``


@dataclass(frozen=True)
class Draw:
    """How one parameter is drawn.

    Attributes:
        name: the tensor's name in the checkpoint.
        size: its shape; ``shape`` is the kind of parameter.
        scale: the standard deviation of its entries; for a gain, the centre of their range.
        common: the standard deviation of a vector added to every row; in an unembedding, of the logits' common offset.
        centre: the centre of an interval.
        outlier_axis: the axis along the residual stream, on which ``outlier_factor`` scales the outlier dimensions.
    """

    name: str
    size: tuple[int, ...]
    shape: Shape = Shape.MATRIX
    scale: float = 1.0
    common: float = 0.0
    outlier_axis: int | None = None
    outlier_factor: float = 1.0
    centre: float = 0.0


def outlier_dimensions(d_model: int) -> tuple[int, ...]:
    """The two residual dimensions with massive activations. Most trained models of this kind have about two."""
    return (3, d_model // 2 + 1)


def normal(key: str, count: int) -> NDArray[np.float64]:
    """``count`` nearly normal numbers (sum of 12 uniforms, within ±6): mean 0, variance 1, identical on every machine."""
    words = _raw(key, WORDS_PER_NORMAL * count)
    halves = words.astype("<u8").view("<u2").reshape(count, UNIFORMS_PER_NORMAL)
    centred = halves.sum(axis=1, dtype=np.int64) * 2 - UNIFORMS_PER_NORMAL * (UINT16_RANGE - 1)
    values: NDArray[np.float64] = centred / np.float64(2 * UINT16_RANGE)
    return values


def uniform(key: str, count: int) -> NDArray[np.float64]:
    """``count`` uniform multiples of 2**-53 on [0, 1), identical on every machine."""
    return (_raw(key, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw(spec: Draw, seed: str) -> NDArray[np.float32]:
    """Draw the float32 parameter that ``spec`` describes, of shape ``spec.size``."""
    count = int(np.prod(spec.size))
    key = f"{seed}/{spec.name}"
    if spec.shape in (Shape.GAIN, Shape.GAIN_LESS_ONE):
        unscaled = 0.4 + 1.2 * uniform(key, count)
    elif spec.shape is Shape.INTERVAL:
        unscaled = 2.0 * uniform(key, count) - 1.0
    else:
        unscaled = normal(key, count)
    values = (unscaled * spec.scale).reshape(spec.size) + spec.centre
    if spec.common:
        values = values + normal(f"{key}#common", spec.size[-1]) * spec.common
    if spec.outlier_axis is not None:
        index: list[slice | list[int]] = [slice(None)] * len(spec.size)
        index[spec.outlier_axis] = list(outlier_dimensions(spec.size[spec.outlier_axis]))
        values[tuple(index)] *= spec.outlier_factor
    if spec.shape is Shape.GAIN_LESS_ONE:
        values = values - 1.0
    return values.astype("<f4")


def _raw(key: str, words: int) -> NDArray[np.uint64]:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")
    return np.random.Philox(key=seed).random_raw(words)
