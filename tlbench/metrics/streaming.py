"""Figures of a tensor too large to be whole in float64: it is made in chunks of positions, and what each gives is combined.

Where one chunk holds everything, as with the committed prompts and models, every figure is bit for bit torch's own of the
whole tensor. Otherwise a maximum and a median are still exact, and a mean and a standard deviation are nearer the exact ones
than torch's, whose ``std`` sums in one pass: it loses 1e-10 to 1e-9 of itself over 10**8 errors, and two passes 1e-15.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor

CHUNK_ENTRIES = 2**23
"""At most so many in a chunk: 64 MiB in float64. A chunk has one position at least."""
BLOCK_ENTRIES = 2**17
"""At most so many in a block: 1 MiB in float64, so that what one operation writes is still in a core's cache when the next
reads it, and the next block takes the same memory again. A block has one position at least."""
RADIX_BITS = 21
"""A non-negative float64 has 63 bits under its sign: three passes find a median, each with 16 MiB of counts."""
SIGNIFICANT_BITS = 63


def position_chunks(shape: Sequence[int]) -> list[slice]:
    """Slices of the positions of a tensor ``[batch, pos, ...]``, in order, each of :data:`CHUNK_ENTRIES` entries at most."""
    return _slices(shape, CHUNK_ENTRIES)


def position_blocks(shape: Sequence[int]) -> list[slice]:
    """The same, each of :data:`BLOCK_ENTRIES` entries at most."""
    return _slices(shape, BLOCK_ENTRIES)


def _slices(shape: Sequence[int], entries: int) -> list[slice]:
    batch, positions, *rest = shape
    each = max(entries // max(batch * prod(rest), 1), 1)
    return [slice(start, min(start + each, positions)) for start in range(0, positions, each)]


def in_blocks(make: Callable[..., Tensor], *sources: Tensor) -> Tensor:
    """``make(*sources)``, made some positions at a time: to the bit the same where each position's depends on its own alone.

    One exception: of a block of a single position of one sequence, torch adds up more than 32,768 entries by threads.

    Args:
        make: makes some positions ``[batch, pos, ...]`` from the same positions of each source.
        sources: tensors ``[batch, pos, ...]`` of one batch and as many positions.
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
    """Memory for what is written whole before it is read. Where algorithms are to be deterministic torch fills it first."""
    setting: Any = torch.utils.deterministic
    fills = setting.fill_uninitialized_memory
    setting.fill_uninitialized_memory = False
    try:
        return like.new_empty(shape)
    finally:
        setting.fill_uninitialized_memory = fills


@dataclass(frozen=True)
class Chunked:
    """A tensor ``[batch, pos, ...]`` that is never whole. Each time that it is iterated over, its chunks are made anew.

    Attributes:
        make: makes some positions of it from the same positions of each source, each from its own alone.
        sources: tensors of one batch, as many positions and as many entries a position.
    """

    make: Callable[..., Tensor]
    sources: tuple[Tensor, ...]

    def __len__(self) -> int:
        """How many chunks."""
        return len(self._positions)

    def __iter__(self) -> Iterator[Tensor]:
        """The chunks, in the positions' order."""
        for rows in self._positions:
            yield in_blocks(self.make, *(source[:, rows] for source in self.sources))

    @property
    def dtype(self) -> torch.dtype:
        """That of its entries."""
        return self.make(*(source[:, :1] for source in self.sources)).dtype

    @property
    def _positions(self) -> list[slice]:
        return position_chunks(self.sources[0].shape)


@dataclass(frozen=True)
class Moments:
    """What one pass over a tensor finds, in float64.

    Attributes:
        count: of its entries.
        mean: of them.
        squares: the sum of the squares of their differences from the mean.
        largest: of them.
    """

    count: int
    mean: float
    squares: float
    largest: float

    @property
    def std(self) -> float:
        """The unbiased standard deviation; NaN of one entry, as torch has it."""
        return sqrt(self.squares / (self.count - 1)) if self.count > 1 else float("nan")

    def __add__(self, other: Moments) -> Moments:
        """Those of both tensors together (Chan, Golub & LeVeque 1979, "Updating formulae", equation 2.1)."""
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

    Each chunk's sum of squares is taken from its own mean, in a second pass over it. Combining k chunks adds to the relative
    error about k 2**-53 of non-negative numbers' mean, and of the sum of squares as much times 1 + mean / std.

    Raises:
        ValueError: if there is no chunk.
    """
    found = None
    for chunk in tensor:
        values = chunk.double()
        mean = values.mean()
        part = Moments(values.numel(), mean.item(), (values - mean).square_().sum().item(), values.max().item())
        found = part if found is None else found + part
    if found is None:
        raise ValueError("a tensor without positions has no moments")
    return found


def median(tensor: Iterable[Tensor], count: int) -> float:
    """The exact median (the lower of two middles, as torch's) of a non-negative tensor given in chunks.

    Non-negative numbers of IEEE 754 are ordered as their bit patterns are, so it is selected by radix: each of three passes
    counts the next :data:`RADIX_BITS` bits of those entries that share the bits found so far. Its memory depends on
    neither the number of entries nor their values.

    Args:
        tensor: what :class:`Chunked` gives, iterated over three times.
        count: of all its entries.
    """
    rank = (count - 1) // 2
    found = 0
    for shift in range(SIGNIFICANT_BITS - RADIX_BITS, -1, -RADIX_BITS):
        counts = torch.zeros(2**RADIX_BITS, dtype=torch.int64)
        for chunk in tensor:
            bits = chunk.double().flatten().view(torch.int64) >> shift
            counts += torch.bincount(bits[bits >> RADIX_BITS == found] & (2**RADIX_BITS - 1), minlength=2**RADIX_BITS)
        below = counts.cumsum(0)
        digit = int(torch.searchsorted(below, rank, right=True))
        rank -= int(below[digit] - counts[digit])
        found = found << RADIX_BITS | digit
    return torch.tensor(found, dtype=torch.int64).view(torch.float64).item()


def combined_mean(means: Sequence[float], counts: Sequence[int]) -> float:
    """The mean over several parts, from the mean and the number of entries of each; of one part, that part's to the bit."""
    mean, count = means[0], counts[0]
    for other, more in zip(means[1:], counts[1:], strict=True):
        count += more
        mean += (other - mean) * (more / count)
    return mean
