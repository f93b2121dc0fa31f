"""Is HuggingFace itself right? If its float32 logits differ from the golden by more than rounding, nothing can be judged.

This project's own transformers computes the golden; the transformers in the environment under test computes HuggingFace's
logits. An older one may silently misread a configuration: transformers 4.57 takes a rotary base of 10000 where it does not
find its own field. How far HuggingFace's rounding alone can take it depends on the model, and its variants measure that.
"""

from __future__ import annotations

from importlib.metadata import version

from tlbench.checkpoints import Checkpoint
from tlbench.checkpoints.portable import misreading
from tlbench.exceptions import NoGolden
from tlbench.grid import Attention, Dtype
from tlbench.metrics.closeness import Spread, spread
from tlbench.metrics.hf_error import count_nonfinite, over_common_vocabulary
from tlbench.reference import huggingface
from tlbench.reference.golden import Weights, golden

ROUNDINGS = 8.0
"""How far HuggingFace may be from the golden, as a multiple of the largest distance among its variants. On the zoo it is 0.7
times in float32; a misread field makes it thousands of times."""


def reference_fault(checkpoint: Checkpoint) -> str:
    """Why HuggingFace's logits are wrong, in one sentence; "" if they are right or there is no golden to compare with.

    The check runs in float32, where rounding hides least. It holds for every dtype, because it looks for a misread
    configuration.

    Raises:
        CellFailed: if HuggingFace cannot run this checkpoint in float32.
    """
    try:
        exact = golden(checkpoint, Weights.FLOAT32).logits
    except NoGolden:
        return ""
    h = huggingface.reference_logits(checkpoint, Dtype.FLOAT32, Attention.EAGER)["natural"]
    if count_nonfinite(h):
        return ""
    distance, rounding = _size(checkpoint, spread(*over_common_vocabulary(h, exact))), _rounding(checkpoint)
    if distance <= ROUNDINGS * rounding:
        return ""
    fault = misreading(checkpoint.folder)
    return (
        "HuggingFace itself is wrong for this model, not TransformerLens: in float32 transformers "
        f"{version('transformers')} is {distance:.3g} nats from the golden, but its rounding explains only {rounding:.2g}"
        + (f": {fault}" if fault else "")
    )


def other_function(checkpoint: Checkpoint) -> str:
    """Whether HuggingFace's default attention computes another function than its eager one, in one sentence; "" if not.

    TransformerLens and the golden run the eager one. transformers 5.23, for example, adds Falcon's ALiBi bias twice there.

    Raises:
        CellFailed: if HuggingFace cannot run this checkpoint in float32.
    """
    try:
        golden(checkpoint, Weights.FLOAT32)  # else it is too large for a further run
    except NoGolden:
        return ""
    eager, default = (huggingface.reference_logits(checkpoint, Dtype.FLOAT32, kind)["natural"] for kind in Attention)
    if count_nonfinite(eager) or count_nonfinite(default):
        return ""
    distance, rounding = _size(checkpoint, spread(default, eager)), _rounding(checkpoint)
    if distance <= ROUNDINGS * rounding:
        return ""
    return (
        "HuggingFace's default attention computes another function than its eager one, which TransformerLens and the golden "
        f"follow: in float32 transformers {version('transformers')} has them {distance:.3g} nats apart, and its rounding "
        f"explains only {rounding:.2g}"
    )


def _size(checkpoint: Checkpoint, distance: Spread) -> float:
    return distance.typical if checkpoint.has_experts else distance.rms


def _rounding(checkpoint: Checkpoint) -> float:
    """How far HuggingFace's own rounding can go in float32, in nats."""
    return max(_size(checkpoint, variant) for variant in huggingface.reference_variants(checkpoint, Dtype.FLOAT32).values())
