"""Random parameters whose bytes depend on no library's version and no machine.

Each parameter is drawn from Philox-4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011),
keyed by the SHA-256 of its name. Only the raw 64-bit stream is used, which NumPy promises never to change; the
shaping is integer sums and correctly rounded float64 products, so no libm and no order of summation is involved.
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
    """What a trained model's parameter of this role looks like."""

    MATRIX = "matrix"
    """Normal entries of standard deviation ``scale``."""
    GAIN = "gain"
    """A norm's gain: uniform on [0.4, 1.6] times ``scale``, far from 1, and small where the residual stream is large."""
    GAIN_LESS_ONE = "gain less one"
    """The same, stored as Gemma stores it: the norm multiplies by 1 + w."""
    BIAS = "bias"
    """Normal entries of standard deviation ``scale``."""


@dataclass(frozen=True)
class Draw:
    """How one parameter is drawn.

    Attributes:
        name: the tensor's name in the checkpoint.
        size: its shape.
        shape: what kind of parameter it is.
        scale: the standard deviation (of a gain: the middle) of its entries.
        common: standard deviation of one vector that is added to every row; in an unembedding this is what gives
            each position's logits an offset of their own.
        outlier_axis: the axis along the residual stream, whose outlier dimensions are multiplied.
        outlier_factor: by how much.
    """

    name: str
    size: tuple[int, ...]
    shape: Shape = Shape.MATRIX
    scale: float = 1.0
    common: float = 0.0
    outlier_axis: int | None = None
    outlier_factor: float = 1.0


def outlier_dimensions(d_model: int) -> tuple[int, ...]:
    """The residual dimensions with massive activations: two, as in most trained models of this kind."""
    return (3, d_model // 2 + 1)


def normal(key: str, count: int) -> NDArray[np.float64]:
    """``count`` nearly normal numbers (Irwin-Hall of 12, bounded by 6): mean 0, variance 1, identical everywhere."""
    words = _raw(key, WORDS_PER_NORMAL * count)
    halves = words.astype("<u8").view("<u2").reshape(count, UNIFORMS_PER_NORMAL)
    centred = halves.astype(np.int64).sum(axis=1) * 2 - UNIFORMS_PER_NORMAL * (UINT16_RANGE - 1)
    values: NDArray[np.float64] = centred / np.float64(2 * UINT16_RANGE)
    return values


def uniform(key: str, count: int) -> NDArray[np.float64]:
    """``count`` multiples of 2**-53 on [0, 1), identical everywhere."""
    return (_raw(key, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw(spec: Draw, seed: str) -> NDArray[np.float32]:
    """The float32 parameter that ``spec`` describes, of shape ``spec.size``."""
    count = int(np.prod(spec.size))
    key = f"{seed}/{spec.name}"
    if spec.shape in (Shape.GAIN, Shape.GAIN_LESS_ONE):
        values = (0.4 + 1.2 * uniform(key, count)) * spec.scale
    else:
        values = normal(key, count) * spec.scale
    values = values.reshape(spec.size)
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
