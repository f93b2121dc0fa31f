"""Records of hooks, activations, generation, gradients and context length: figures only.

``reasons`` say why a figure is missing, by attempt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tlbench.grid import Cell
from tlbench.metrics.figures import UNIT_ROUNDOFF, root_mean_square
from tlbench.metrics.growth import Growth, fit
from tlbench.metrics.worst import times, worst

BEYOND = 4  # the error at an edge is taken over this many positions


@dataclass(frozen=True)
class Pair:
    """An error and HuggingFace's own at the same dtype."""

    error: float
    reference_error: float


@dataclass(frozen=True)
class HookTruth:
    """Whether hooks and caches are faithful.

    Attributes:
        additivity: the largest relative error of a block's input + attention + MLP. 0 if any order gives its output exactly.
        additivity_block: the block with that error.
        pattern_rows: how far at most an attention entry is below 0, or a row's sum from 1 (with sinks: from the golden's).
        final: the relative error of the hooked residual stream, through final norm and unembedding, against the logits.
        cached: the largest change that ``run_with_cache`` makes to the logits (nats).
        hooked: the largest change that an identity hook on every hook point makes to the logits (nats).
        refused: hook points that accept no hook unless the model is configured to compute them.
        silent: hook points that accept a hook but never fire.
        repeated: hook points that fire more than once in a forward pass.
        leftover: number of hooks still attached afterwards.
        stop_at_layer: the largest difference between ``stop_at_layer`` and the hooked residual stream.
        start_at_layer: the largest difference between the logits of ``start_at_layer`` and of the full run.
        edits: the logits' relative error under each intervention, by :class:`~tlbench.reference.interventions.Edit`.
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
        """The largest change that observing the model makes to its logits, by cache or hooks; None without both figures."""
        if self.cached is None or self.hooked is None:
            return None
        return worst((self.cached, self.hooked))

    @property
    def edit_ratio(self) -> float | None:
        """The largest error under an intervention, over HuggingFace's own or over one rounding if that is larger."""
        roundoff = UNIT_ROUNDOFF[self.cell.dtype]
        return worst(times(pair.error, pair.reference_error, roundoff) for pair in self.edits.values())


@dataclass(frozen=True)
class Reading:
    """Errors of what a researcher computes from activations, in nats: the largest over prompts and heads.

    Attributes:
        logit_difference: error of the logit difference between the two most likely tokens at the last position.
        patch_effect: error of one activation patch's effect on the first prompt's logit difference.
        exact_patch_effect: that effect in the golden.
        head_attribution: error of a head's contribution to the logit difference, by TransformerLens's ``logit_attrs``.
        largest_head_attribution: the largest golden contribution of a head, by absolute value.
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
    """The gradient at one block's input, against the golden gradient.

    Attributes:
        error: rms(t - g) / rms(g); ``reference_error`` is HuggingFace's own, rms(h - g) / rms(g).
        correlation: correlation of the two errors.
        one_less_cosine: 1 minus the cosine between TransformerLens's gradient and the golden one. Never negative.
    """

    error: float
    reference_error: float
    correlation: float
    one_less_cosine: float


@dataclass(frozen=True)
class Gradients:
    """The gradients of a logit difference with respect to every block's input. Block 0's input is the embeddings."""

    cell: Cell
    blocks: tuple[GradientError, ...]

    @property
    def worst(self) -> GradientError:
        """The block with the largest error."""
        return max(self.blocks, key=lambda block: block.error)

    @property
    def worst_ratio(self) -> float:
        """The largest error, over HuggingFace's own or over one rounding if that is larger."""
        roundoff = UNIT_ROUNDOFF[self.cell.dtype]
        return worst(times(block.error, block.reference_error, roundoff) for block in self.blocks) or 0.0


@dataclass(frozen=True)
class Generation:
    """One token at a time with the key-value cache.

    Attributes:
        steps: the largest difference between a step's centred logits and the full forward pass's, by step, in nats.
        reference_steps: HuggingFace's own.
        n_tokens: number of greedily generated tokens.
        diverged: index of the first token, in any prompt, that differs from HuggingFace's and is no tie. If all that differ
            are ties, the first of those. None if no token differs.
        tie: whether HuggingFace's margin at that token is within a few units in the last place. None if no token differs.
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
        """The largest difference over all steps."""
        return worst(self.steps)

    @property
    def growth(self) -> Growth | None:
        """How the difference grows with the step."""
        return fit([i + 1.0 for i in range(len(self.steps))], self.steps)

    @property
    def wrong_tokens(self) -> int | None:
        """The number of tokens from the first real divergence on (ties do not count); None if nothing was generated."""
        if "greedy" in self.reasons:
            return None
        return 0 if self.diverged is None or self.tie else self.n_tokens - self.diverged


@dataclass(frozen=True)
class ContextLength:
    """Errors by context length: rms of the centred logits, in nats.

    Attributes:
        errors: by length; ``reference_errors`` are HuggingFace's own.
        positions: at the longest length, by position counted from zero; ``reference_positions`` are HuggingFace's own.
        edges: the first position of each edge, where the error may change, by name.
        stopped: why longer contexts were not run; "" if all were.
        left_padding: the largest change that masked left padding makes to the other tokens' logits.
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
        """How the error grows with length, from two tokens on."""
        lengths = sorted(length for length in self.errors if length > 1)
        return fit([float(length) for length in lengths], [self.errors[length] for length in lengths])

    @property
    def largest_ratio(self) -> float | None:
        """The largest ratio of the error to HuggingFace's own, over the lengths that both ran."""
        both = [(self.errors[n], self.reference_errors[n]) for n in self.errors.keys() & self.reference_errors.keys()]
        return worst(error / reference for error, reference in both if reference)

    def ratio_at(self, edge: str) -> float | None:
        """The error over HuggingFace's own at the first :data:`BEYOND` positions of an edge.

        None if the model has no such edge, or it lies beyond the lengths that were run.
        """
        first = self.edges.get(edge, math.inf)
        both = sorted(self.positions.keys() & self.reference_positions.keys())
        at_edge = [p for p in both if first <= p < first + BEYOND]
        if not at_edge:
            return None
        reference = root_mean_square([self.reference_positions[p] for p in at_edge])
        return root_mean_square([self.positions[p] for p in at_edge]) / reference if reference else None
