"""How the pages name, explain and write figures and verdicts: docs/method.md and docs/reading.md in a line each."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tlbench.grid import Option
from tlbench.metrics.verdict import Verdict
from tlbench.report.checks import RATIO
from tlbench.report.stored import Figure


@dataclass(frozen=True)
class Explained:
    """A track's name, unit and meaning."""

    name: str
    unit: str
    meaning: str


_LOGIT = "the absolute difference from HuggingFace's logits, less each position's mean, over every entry"
TRACKS = {
    "accuracy.Logit.track_max": Explained("max", "nats", f"the largest of {_LOGIT}"),
    "accuracy.Logit.track_mean": Explained("mean", "nats", f"the mean of {_LOGIT}"),
    "accuracy.Logit.track_median": Explained("median", "nats", f"the median of {_LOGIT}"),
    "accuracy.Logit.track_std": Explained("std", "nats", f"the standard deviation of {_LOGIT}"),
    f"truth.TransformerLens.track_{Figure.RATIO}": Explained(
        "R",
        RATIO,
        "TransformerLens's rms distance from the float64 golden over HuggingFace's: 1 rounds alike, less is closer",
    ),
    f"truth.TransformerLens.track_{Figure.BITS_LOST}": Explained(
        "bits lost", "bits", "log₂(1 + error / one rounding of the golden logits): 0 is exact, comparable across dtypes"
    ),
    f"truth.TransformerLens.track_{Figure.KL_NATS}": Explained(
        "KL", "nats a token", "divergence from the golden distribution"
    ),
    f"truth.TransformerLens.track_{Figure.TOTAL_RMS}": Explained(
        "total rms",
        "nats",
        "rms distance from the golden of the weights in the file: what you get, weight rounding included",
    ),
    f"truth.TransformerLens.track_{Figure.DIFFERENCE_RMS}": Explained(
        "logit difference, rms", "nats", "typical error of a difference between two of the ten likeliest tokens' logits"
    ),
    f"truth.TransformerLens.track_{Figure.DIFFERENCE_P99}": Explained(
        "logit difference, 99 %", "nats", "99th percentile of the error of a difference between two likely tokens' logits"
    ),
    "truth.HuggingFace.track_bits_lost": Explained(
        "HuggingFace's bits lost", "bits", "the same for HuggingFace itself, with eager attention"
    ),
}
VERDICTS = {
    Verdict.EXACT: ("=", "HuggingFace's logits, bit for bit"),
    Verdict.SAME_ROUNDING: ("≈", "the error is HuggingFace's own, nearly entry by entry"),
    Verdict.BENIGN: ("~", "rounds differently from HuggingFace, but no worse"),
    Verdict.NO_OP: ("○", "right, and the option changed no weight of this model"),
    Verdict.UNJUDGED: ("?", "measured, but nothing could tell whether it is right; this never passes"),
    Verdict.WORSE: ("▲", "loses accuracy that HuggingFace keeps: beyond 2 times its error in float32, 3 in 16 bits"),
    Verdict.BROKEN: ("✕", "computes something else: non-finite, wrong top tokens, or 100 times HuggingFace's error"),
    Verdict.FAILED: ("!", "it raised"),
    Verdict.NOT_APPLICABLE: ("–", "this TransformerLens has no such wrapper, option or architecture"),
    Verdict.NOT_MEASURED: ("", "nobody has run it"),
}
"""The symbol and the meaning of each verdict."""
WORST_FIRST = (
    Verdict.BROKEN,
    Verdict.FAILED,
    Verdict.WORSE,
    Verdict.UNJUDGED,
    Verdict.BENIGN,
    Verdict.SAME_ROUNDING,
    Verdict.EXACT,
    Verdict.NO_OP,
    Verdict.NOT_APPLICABLE,
    Verdict.NOT_MEASURED,
)
ENVIRONMENT = ("transformers", "torch", "tokenizers", "numpy", "probe")
"""What the compare page names of an environment, beside TransformerLens."""
OPTIONS = {
    Option.UNPROCESSED: "none",
    Option.FOLD_LN: "fold LN",
    Option.CENTER_WRITING_WEIGHTS: "center W",
    Option.CENTER_UNEMBED: "center U",
    Option.FOLD_VALUE_BIASES: "fold b_V",
    Option.ALL_OPTIONS: "all",
}
"""Short names of the options, for the heads of tables."""


def css_class(verdict: Verdict) -> str:
    """The name of a verdict's style."""
    return "v-" + {Verdict.NOT_APPLICABLE: "absent"}.get(verdict, verdict.value.replace(" ", "-"))


def spelled(value: float) -> str:
    """A figure in three digits; whole numbers whole, exponents without their zeros."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    text = f"{value:.3g}"
    if "e" in text:
        digits, exponent = text.split("e")
        return f"{digits}e{int(exponent)}".replace("-", "−")
    return text.replace("-", "−")
