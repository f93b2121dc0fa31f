"""What is kept of the questions about hooks, reading, generation, gradients and context length. Knows figures only."""

from __future__ import annotations

from dataclasses import dataclass

from tlbench.grid import Cell
from tlbench.metrics.figures import UNIT_ROUNDOFF, root_mean_square
from tlbench.metrics.growth import Growth, fit
from tlbench.metrics.worst import times, worst

BEYOND = 4
"""At so many positions of an edge is the error looked at."""


@dataclass(frozen=True)
class Pair:
    """An error, and HuggingFace's own at the same dtype."""

    error: float
    reference_error: float


@dataclass(frozen=True)
class HookTruth:
    """Whether hooks and caches tell the truth. A figure is None where its reason is in ``reasons``.

    Attributes:
        cell: which cell.
        additivity: the largest relative error, of any block, of input + attention + MLP against the output; 0 where some
            order of summation gives it bit for bit.
        additivity_block: the block that has it.
        pattern_rows: the largest of how negative an entry of an attention pattern is and how far a row's sum is from what it
            should be: one, or with attention sinks that of the exact function's row.
        final: the relative error of the hooked residual stream through final norm and unembedding against the logits.
        cached: by how much ``run_with_cache`` changes the logits, at most. Logits (nats).
        hooked: by how much an identity hook on every hook point does.
        n_hooks: how many hook points there are.
        refused: hook points that take no hook, unless the model is told to compute them.
        silent: hook points that take one and never fire.
        repeated: hook points that fire more than once in a forward pass.
        leftover: hooks that are still there afterwards.
        stop_at_layer: the largest difference of ``stop_at_layer`` from the hooked residual stream.
        start_at_layer: the largest difference of the logits of ``start_at_layer`` from those of the full run.
        edits: by :class:`~tlbench.reference.interventions.Edit`, the relative error of the logits against the exact
            function's.
        reasons: why something could not be found.
    """

    cell: Cell
    additivity: float | None
    additivity_block: int | None
    pattern_rows: float | None
    final: float | None
    cached: float | None
    hooked: float | None
    n_hooks: int
    refused: tuple[str, ...]
    silent: tuple[str, ...]
    repeated: tuple[str, ...]
    leftover: int
    stop_at_layer: float | None
    start_at_layer: float | None
    edits: dict[str, Pair]
    reasons: dict[str, str]

    @property
    def disturbance(self) -> float | None:
        """The largest change of the logits by looking at the model, by its cache or by identity hooks; None without both."""
        if self.cached is None or self.hooked is None:
            return None
        return worst((self.cached, self.hooked))

    @property
    def edit_ratio(self) -> float | None:
        """The largest error under an edit over HuggingFace's own, or over one rounding where that is larger."""
        roundoff = UNIT_ROUNDOFF[self.cell.dtype]
        return worst(times(pair.error, pair.reference_error, roundoff) for pair in self.edits.values())


@dataclass(frozen=True)
class Reading:
    """What a researcher reads off a model, in nats: how far it is from the exact value, at most over prompts and heads.

    Attributes:
        cell: which cell.
        logit_difference: error of the difference of the two most likely tokens' logits at the last position.
        patch_effect: error of the effect that one activation patch has on the first prompt's difference.
        exact_patch_effect: the effect itself.
        head_attribution: error of what a head adds to the difference, by TransformerLens's ``logit_attrs``.
        largest_head_attribution: the largest exact one, by size.
        reasons: why something could not be found.
    """

    cell: Cell
    logit_difference: Pair | None
    patch_effect: Pair | None
    exact_patch_effect: float | None
    head_attribution: float | None
    largest_head_attribution: float | None
    reasons: dict[str, str]


@dataclass(frozen=True)
class GradientError:
    """One block's input: its gradient against the exact one.

    Attributes:
        error: rms(t - g) / rms(g).
        reference_error: HuggingFace's own, rms(h - g) / rms(g).
        correlation: of the two errors.
        one_less_cosine: 1 less the cosine of TransformerLens's gradient with the exact one; never negative.
    """

    error: float
    reference_error: float
    correlation: float
    one_less_cosine: float


@dataclass(frozen=True)
class Gradients:
    """The gradient of a logit difference with respect to the embeddings (block 0's input) and every block's input.

    Attributes:
        cell: which cell.
        blocks: by block.
    """

    cell: Cell
    blocks: tuple[GradientError, ...]

    @property
    def worst(self) -> GradientError:
        """The block whose error is the largest."""
        return max(self.blocks, key=lambda one: one.error)

    @property
    def worst_ratio(self) -> float:
        """The largest error over HuggingFace's own, or over one rounding where that is larger."""
        roundoff = UNIT_ROUNDOFF[self.cell.dtype]
        return worst(times(one.error, one.reference_error, roundoff) for one in self.blocks) or 0.0


@dataclass(frozen=True)
class Generation:
    """One token after another with the key-value cache.

    Attributes:
        cell: which cell.
        steps: by step, the largest difference of the centred logits from those of the full forward pass. Nats.
        reference_steps: HuggingFace's own.
        n_tokens: how many tokens were made greedily.
        diverged: the first of them, of any prompt, that is not HuggingFace's though that is no tie; if there is none, the
            first that is not HuggingFace's; None if all are.
        tie: whether it is one: HuggingFace's margin there is within a few units in the last place. None if none diverged.
        reasons: why something could not be found.
    """

    cell: Cell
    steps: tuple[float, ...]
    reference_steps: tuple[float, ...]
    n_tokens: int
    diverged: int | None
    tie: bool | None
    reasons: dict[str, str]

    @property
    def cache_error(self) -> float | None:
        """The largest over the steps."""
        return worst(self.steps)

    @property
    def reference_cache_error(self) -> float | None:
        """HuggingFace's own."""
        return worst(self.reference_steps)

    @property
    def growth(self) -> Growth | None:
        """Of the difference over the steps."""
        return fit([i + 1.0 for i in range(len(self.steps))], self.steps)

    @property
    def wrong_tokens(self) -> int | None:
        """How many of the tokens come after a divergence that was no tie; None where nothing was generated."""
        if "greedy" in self.reasons:
            return None
        return 0 if self.diverged is None or self.tie else self.n_tokens - self.diverged


@dataclass(frozen=True)
class ContextLength:
    """Errors against the length of the context, rms of the centred logits, in nats.

    Attributes:
        cell: which cell.
        errors: by length.
        reference_errors: HuggingFace's own.
        positions: at the longest length, by position, counted from zero.
        reference_positions: HuggingFace's own.
        edges: where something changes along the sequence, by what it is: the first position to look at.
        stopped: why longer ones were not run; empty where all were.
        left_padding: by how much masked padding on the left changes the other tokens' logits, at most.
        reasons: why something could not be found.
    """

    cell: Cell
    errors: dict[int, float]
    reference_errors: dict[int, float]
    positions: dict[int, float]
    reference_positions: dict[int, float]
    edges: dict[str, int]
    stopped: str
    left_padding: float | None
    reasons: dict[str, str]

    @property
    def longest(self) -> int:
        """The longest length that was run."""
        return max(self.errors)

    @property
    def growth(self) -> Growth | None:
        """Of the error over the length, from two tokens on."""
        lengths = sorted(length for length in self.errors if length > 1)
        return fit([float(length) for length in lengths], [self.errors[length] for length in lengths])

    @property
    def largest_ratio(self) -> float | None:
        """The largest, over the lengths that both ran, of the error over HuggingFace's own."""
        both = [(self.errors[n], self.reference_errors[n]) for n in self.errors.keys() & self.reference_errors.keys()]
        return max((error / reference for error, reference in both if reference), default=None)

    @property
    def octaves(self) -> dict[int, float]:
        """The error by the octave k of the position, counted from one: [2**k, 2**(k+1))."""
        by_octave: dict[int, list[float]] = {}
        for position, error in self.positions.items():
            by_octave.setdefault((position + 1).bit_length() - 1, []).append(error)
        return {octave: root_mean_square(errors) for octave, errors in by_octave.items()}

    def ratio_at(self, edge: str) -> float | None:
        """The error over HuggingFace's own at the first :data:`BEYOND` positions of an edge.

        None where this model has no such edge, or it lies beyond what was run.
        """
        first = self.edges.get(edge)
        if first is None:
            return None
        both = sorted(self.positions.keys() & self.reference_positions.keys())
        beyond = [p for p in both if first <= p < first + BEYOND]
        if not beyond:
            return None
        reference = root_mean_square([self.reference_positions[p] for p in beyond])
        return root_mean_square([self.positions[p] for p in beyond]) / reference if reference else None
