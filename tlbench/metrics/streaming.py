"""Statistics of a tensor too large to hold in float64: compute it in chunks of positions and combine their results.

If one chunk holds everything, as with the committed prompts and models, every figure is torch's, bit for bit. Otherwise max
and median are still exact, and mean and std are more accurate than torch's: its ``std`` sums in one pass and loses 1e-10 to
1e-9 of itself over 10**8 errors, where two passes lose 1e-15.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor

CHUNK_ENTRIES = 2**23  # the most entries in a chunk: 64 MiB in float64. A chunk has at least one position
BLOCK_ENTRIES = 2**17
"""The most entries in a block: 1 MiB in float64, so that one operation's output is still in the core's cache when the next
reads it. A block has at least one position."""
SIGNIFICANT_BITS = 63  # of a non-negative float64: those below its sign
RADIX_BITS = 21  # so three passes find a median, each with 16 MiB of counts


def position_chunks(shape: Sequence[int]) -> list[slice]:
    """Slices over the positions of a tensor ``[batch, pos, ...]``, in order, at most :data:`CHUNK_ENTRIES` entries each."""
    return _slices(shape, CHUNK_ENTRIES)


def position_blocks(shape: Sequence[int]) -> list[slice]:
    """The same, at most :data:`BLOCK_ENTRIES` entries each."""
    return _slices(shape, BLOCK_ENTRIES)


def _slices(shape: Sequence[int], entries: int) -> list[slice]:
    batch, positions, *rest = shape
    per_slice = max(entries // max(batch * prod(rest), 1), 1)
    return [slice(start, min(start + per_slice, positions)) for start in range(0, positions, per_slice)]


def in_blocks(make: Callable[..., Tensor], *sources: Tensor) -> Tensor:
    """``make(*sources)``, a few positions ``[batch, pos, ...]`` at a time.

    Bit-identical to a single call if each position depends only on itself. One exception: if a block is a single position of
    one sequence, torch sums more than 32,768 entries in threads.
    """
    blocks = position_blocks(sources[0].shape)
    first = make(*(source[:, blocks[0]] for source in sources))
    if len(blocks) == 1:
        return first
    whole = unfilled(first, (first.shape[0], sources[0].shape[1], *first.shape[2:]))
    whole[:, blocks[0]] = first
    for rows in blocks[1:]:
        whole[:, rows] = make(*(source[:, rows] for source in sources))
    return whole


def unfilled(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Uninitialised memory, to be written before it is read. In deterministic mode torch would fill it first."""
    setting: Any = torch.utils.deterministic
    fills = setting.fill_uninitialized_memory
    setting.fill_uninitialized_memory = False
    try:
        return like.new_empty(shape)
    finally:
        setting.fill_uninitialized_memory = fills


@dataclass(frozen=True)
class Chunked:
    """A tensor ``[batch, pos, ...]`` that never exists in full. Each iteration recomputes its chunks.

    Attributes:
        make: computes positions from the same positions of each source. Each position depends only on itself.
        sources: tensors with the same batch, positions and entries per position.
    """

    make: Callable[..., Tensor]
    sources: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(position_chunks(self.sources[0].shape))

    def __iter__(self) -> Iterator[Tensor]:
        for rows in position_chunks(self.sources[0].shape):
            yield in_blocks(self.make, *(source[:, rows] for source in self.sources))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the entries."""
        return self.make(*(source[:, :1] for source in self.sources)).dtype


@dataclass(frozen=True)
class Moments:
    """Count, mean and largest of a tensor's entries, and the sum of their squared differences from the mean, in float64."""

    count: int
    mean: float
    squares: float
    largest: float

    @property
    def std(self) -> float:
        """The unbiased standard deviation; NaN for a single entry, as in torch."""
        return sqrt(self.squares / (self.count - 1)) if self.count > 1 else float("nan")

    def __add__(self, other: Moments) -> Moments:
        """The moments of both tensors combined (Chan, Golub & LeVeque 1979, "Updating formulae", equation 2.1)."""
        count = self.count + other.count
        between = other.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + between * (other.count / count),
            squares=self.squares + other.squares + between**2 * (self.count * (other.count / count)),
            largest=max(self.largest, other.largest),
        )


def moments(tensor: Iterable[Tensor]) -> Moments:
    """Count, mean, variance and maximum of a tensor given in chunks.

    Each chunk's sum of squares is taken about its own mean, in a second pass over the chunk. For non-negative numbers,
    combining k chunks adds about k 2**-53 to the relative error of the mean, and 1 + mean / std times that to the relative
    error of the sum of squares. Raises ValueError if there are no chunks.
    """
    total = None
    for chunk in tensor:
        values = chunk.double()
        mean = values.mean()
        part = Moments(values.numel(), mean.item(), (values - mean).square_().sum().item(), values.max().item())
        total = part if total is None else total + part
    if total is None:
        raise ValueError("no moments: the tensor has no positions")
    return total


def median(tensor: Iterable[Tensor], count: int) -> float:
    """The exact median (the lower of two middles, as in torch) of a non-negative tensor given in chunks.

    Non-negative IEEE 754 numbers sort like their bit patterns, so this is a radix selection: each of three passes over the
    chunks counts the next :data:`RADIX_BITS` bits of the entries that share the prefix found so far. Memory use depends on
    neither ``count``, the number of entries, nor their values.
    """
    rank = (count - 1) // 2
    prefix = 0
    for shift in range(SIGNIFICANT_BITS - RADIX_BITS, -1, -RADIX_BITS):
        counts = torch.zeros(2**RADIX_BITS, dtype=torch.int64)
        for chunk in tensor:
            bits = chunk.double().flatten().view(torch.int64) >> shift
            counts += torch.bincount(bits[bits >> RADIX_BITS == prefix] & (2**RADIX_BITS - 1), minlength=2**RADIX_BITS)
        below = counts.cumsum(0)
        digit = int(torch.searchsorted(below, rank, right=True))
        rank -= int(below[digit] - counts[digit])
        prefix = prefix << RADIX_BITS | digit
    return torch.tensor(prefix, dtype=torch.int64).view(torch.float64).item()


def combined_mean(means: Sequence[float], counts: Sequence[int]) -> float:
    """The mean over several parts, from each part's mean and number of entries. For one part, its own mean bit for bit."""
    mean, count = means[0], counts[0]
    for other, more in zip(means[1:], counts[1:], strict=True):
        count += more
        mean += (other - mean) * (more / count)
    return mean
