"""Is HuggingFace itself right? Its float32 logits must be a rounding away from the golden, or nobody else can be judged.

The golden is computed by this project's own transformers, HuggingFace's logits by the one in the environment under test. An
older one may misread a configuration without a word: transformers 4.57 takes a rotary base of 10000 where it does not find
its own field. What its own rounding can do follows from the model: HuggingFace's variants show it.
"""

from __future__ import annotations

from importlib.metadata import version

from tlbench.checkpoints import Checkpoint
from tlbench.checkpoints.portable import misreading
from tlbench.exceptions import NoGolden
from tlbench.grid import Attention, Dtype
from tlbench.metrics.closeness import spread
from tlbench.metrics.hf_error import count_nonfinite, over_common_vocabulary
from tlbench.reference import huggingface
from tlbench.reference.golden import Weights, golden

ROUNDINGS = 8.0
"""HuggingFace's distance from the golden may be so many times the largest of its variants' distances from it. On the zoo it
is 0.7 times in float32; a misread field makes it thousands."""


def reference_fault(checkpoint: Checkpoint) -> str:
    """Why HuggingFace's logits are wrong, in one sentence; "" where they are right, or where no golden can tell.

    It is asked in float32, where rounding hides least, and holds for every dtype: what is misread is the configuration.

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
    error = spread(*over_common_vocabulary(h, exact))
    variants = huggingface.reference_variants(checkpoint, Dtype.FLOAT32).values()
    own = max((one.typical if checkpoint.has_experts else one.rms) for one in variants)
    found = error.typical if checkpoint.has_experts else error.rms
    if found <= ROUNDINGS * own:
        return ""
    return (
        f"HuggingFace itself is wrong here: in float32 transformers {version('transformers')} is {found:.3g} nats from the "
        f"golden, where its own rounding can do {own:.2g}, which is not TransformerLens's doing{_misreading(checkpoint)}"
    )


def _misreading(checkpoint: Checkpoint) -> str:
    found = misreading(checkpoint.folder)
    return f": {found}" if found else ""
