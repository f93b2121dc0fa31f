"""Is HuggingFace itself right? If its float32 logits differ from the golden by more than rounding, nothing can be judged.

This project's own transformers computes the golden; the transformers in the environment under test computes HuggingFace's
logits. An older one may silently misread a configuration: transformers 4.57 takes a rotary base of 10000 where it does not
find its own field. How far HuggingFace's rounding alone can take it depends on the model, and its variants measure that.
"""

from __future__ import annotations

from importlib.metadata import version
from operator import attrgetter

from tlbench.checkpoints import Checkpoint
from tlbench.checkpoints.portable import misreading
from tlbench.exceptions import NoGolden
from tlbench.grid import Attention, Dtype
from tlbench.metrics.closeness import spread
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
    size = attrgetter("typical" if checkpoint.has_experts else "rms")
    distance = size(spread(*over_common_vocabulary(h, exact)))
    rounding = max(map(size, huggingface.reference_variants(checkpoint, Dtype.FLOAT32).values()))
    if distance <= ROUNDINGS * rounding:
        return ""
    fault = misreading(checkpoint.folder)
    return (
        "HuggingFace itself is wrong for this model, not TransformerLens: in float32 transformers "
        f"{version('transformers')} is {distance:.3g} nats from the golden, but its rounding explains only {rounding:.2g}"
        + (f": {fault}" if fault else "")
    )
