"""How a cell's errors are distributed, as plain values. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Percentiles:
    """The values that a half, 90 %, 99 % and 99.9 % of all do not exceed."""

    p50: float
    p90: float
    p99: float
    p99_9: float


@dataclass(frozen=True)
class Place:
    """One logit: the prompt, the position, the token of the vocabulary, and its error |e_t| in nats."""

    prompt: int
    position: int
    token: int
    error: float


@dataclass(frozen=True)
class Distribution:
    """The distribution of one cell's errors against the golden.

    Attributes:
        error: of |e_t| over all logits, in nats.
        kl: of KL(g || t) over positions, in nats.
        realised: of the change of the realised token's probability, |p_t - p_g|.
        overlap: the share that the distributions of e_t and e_h have in common: 1 if they are the same, 0 if disjoint.
        diverged: the first position, in any prompt, whose likeliest token is not HuggingFace's; None if there is none.
        worst: where |e_t| is largest.
    """

    error: Percentiles
    kl: Percentiles
    realised: Percentiles
    overlap: float
    diverged: int | None
    worst: Place


@dataclass(frozen=True)
class Fingerprint:
    """SHA-256 of the logits' bytes on the natural prompts: ``[batch, pos, d_vocab]`` in C order, at the model's dtype.

    Attributes:
        tl: of TransformerLens's logits.
        hf: of HuggingFace's.
    """

    tl: str
    hf: str
