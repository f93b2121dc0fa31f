"""What is checked beyond the logits, and how large each stored figure may be. Data and plain arithmetic; reads nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from tlbench.grid import Dtype
from tlbench.metrics.figures import RATIO_GATE, UNIT_ROUNDOFF
from tlbench.questions import registry

ROUNDINGS = 16.0
"""The largest difference over a few thousand logits that is still a rounding, over the cell's rms error against the golden.
In the committed results every healthy one is at most 12.2 times, and every fault found by hand more than 16."""
ROW_ROUNDINGS = 8.0
"""How far a row of an attention pattern may be from its sum, in roundings: of exponential, sum and division."""
REFACTORING_ROUNDINGS = 64.0
"""The same for weights that went through a singular value decomposition."""
ORDER_ROUNDINGS = 16.0
"""How far sums of the same terms in another order may be apart, in roundings: a sum of a few dozen terms is."""
RATIO = "x HuggingFace's error"
"""The unit of an error relative to HuggingFace's own."""
OWN_ERROR = "context_length.ContextLength.track_longest"
"""The cell's rms error against the golden, in nats, which measures what is a rounding there."""


class Part(StrEnum):
    """What a person asks about, by its name in tables."""

    LOGITS = "logits"
    HOOKS = "hooks"
    GENERATION = "generation"
    READING = "reading"
    GRADIENTS = "gradients"
    DEPTH = "depth"
    LENGTH = "context length"
    FLOOR = "noise floor"
    CAUSALITY = "causality"
    PADDING = "padding"
    LOSS = "loss"
    SWITCHES = "switches"
    BACKWARD = "backward hooks"
    DECOMPOSITION = "decomposition"
    ACCESSORS = "accessors"
    MEMORY = "held memory"


CLASSES = {
    Part.LOGITS: "truth.TransformerLens",
    Part.HOOKS: "hooks.Hooks",
    Part.GENERATION: "hooks.Generation",
    Part.READING: "gradients.Reading",
    Part.GRADIENTS: "gradients.Gradients",
    Part.DEPTH: "depth.Depth",
    Part.LENGTH: "context_length.ContextLength",
    Part.FLOOR: "noise_floor.NoiseFloor",
}
"""The benchmark class that stores each part. Only `tlbench verify` asks about the others."""
STORED = tuple(CLASSES)
OTHER_MODULES = ("accuracy.", "runtime.")
"""The distance from HuggingFace, which the logits' verdict judges, and costs."""
OTHER_CLASSES = ("truth.HuggingFace",)
"""Not TransformerLens's figures."""
QUESTIONS = {
    Part.LOGITS: registry.ACCURACY.name,
    Part.HOOKS: registry.HOOKS.name,
    Part.GENERATION: registry.GENERATION.name,
    Part.READING: registry.READING.name,
    Part.GRADIENTS: registry.GRADIENTS.name,
    Part.DEPTH: registry.DEPTH.name,
    Part.LENGTH: registry.CONTEXT_LENGTH.name,
    Part.FLOOR: registry.NOISE_FLOOR.name,
    Part.CAUSALITY: registry.CAUSALITY.name,
    Part.PADDING: registry.PADDING.name,
    Part.LOSS: registry.LOSS.name,
    Part.SWITCHES: registry.SWITCHES.name,
    Part.BACKWARD: registry.BACKWARD.name,
    Part.DECOMPOSITION: registry.DECOMPOSITION.name,
    Part.ACCESSORS: registry.ACCESSORS.name,
    Part.MEMORY: registry.HELD_MEMORY.name,
}
"""The question that measures each part, as kept endings name it."""

Limit = Callable[[Dtype, float | None], float | None]
"""From a dtype and the cell's own rms error in nats: the largest figure that is right; None if only 0 is known to be."""


def zero(_: Dtype, __: float | None) -> float:
    """A promise: anything but 0 is a fault."""
    return 0.0


def ratio(dtype: Dtype, _: float | None) -> float:
    """An error over HuggingFace's own: the verdict's gate."""
    return RATIO_GATE[dtype]


def rounding(_: Dtype, own_error: float | None) -> float | None:
    """A difference in nats of what should agree: the size of this cell's rounding."""
    return None if own_error is None else ROUNDINGS * own_error


def refactoring(_: Dtype, own_error: float | None) -> float | None:
    """The same through a singular value decomposition, whose factors have roundings of their own."""
    return None if own_error is None else REFACTORING_ROUNDINGS * own_error


def agreement(dtype: Dtype, _: float | None) -> float:
    """The relative error of what one dtype computes in two orders."""
    return ORDER_ROUNDINGS * UNIT_ROUNDOFF[dtype]


def half_a_copy(_: Dtype, __: float | None) -> float:
    """Memory beyond HuggingFace's, in copies of the parameters: masks and tables are less, second weights are more."""
    return 0.5


def row_sum(dtype: Dtype, _: float | None) -> float:
    """A row of probabilities against its sum."""
    return ROW_ROUNDINGS * UNIT_ROUNDOFF[dtype]


def zero_in_float32(dtype: Dtype, _: float | None) -> float | None:
    """Tokens: in 16 bits a rounding may turn one, so another token says neither right nor wrong."""
    return 0.0 if dtype is Dtype.FLOAT32 else None


@dataclass(frozen=True)
class Check:
    """One track that has a largest right value.

    Attributes:
        what: what is checked, in a few words.
        unit: of the figure; "" for a ratio.
        limit: the largest right value.
    """

    part: Part
    track: str
    what: str
    unit: str
    limit: Limit

    @property
    def benchmark(self) -> str:
        """asv's full name of the track."""
        return f"{CLASSES[self.part]}.track_{self.track}"


CHECKS = (
    Check(Part.HOOKS, "start_at_layer", "start_at_layer", "nats", zero),
    Check(Part.HOOKS, "stop_at_layer", "stop_at_layer", "", zero),
    Check(Part.HOOKS, "hook_disturbance", "hooks or a cache move the logits", "nats", zero),
    Check(Part.HOOKS, "leftover_hooks", "hooks left behind", "hooks", zero),
    Check(Part.HOOKS, "silent_hooks", "hooks that never fire", "hook points", zero),
    Check(Part.HOOKS, "repeated_hooks", "hooks that fire twice", "hook points", zero),
    Check(Part.HOOKS, "additivity", "input + attention + MLP is the output", "", zero),
    Check(Part.HOOKS, "final_logits", "hooked residual stream gives the logits", "", zero),
    Check(Part.HOOKS, "pattern_rows", "attention rows sum to one", "", row_sum),
    Check(Part.HOOKS, "edit_ratio", "logits under an intervention", RATIO, ratio),
    Check(Part.GENERATION, "cache_error", "key-value cache against a full pass", "nats", rounding),
    Check(Part.GENERATION, "wrong_tokens", "greedy tokens", "tokens", zero_in_float32),
    Check(Part.READING, "logit_difference", "logit difference", "nats", rounding),
    Check(Part.READING, "patch_effect", "activation patching", "nats", rounding),
    Check(Part.READING, "head_attribution", "logit_attrs of heads", "nats", rounding),
    Check(Part.GRADIENTS, "error_ratio", "gradients", RATIO, ratio),
    Check(Part.DEPTH, "local_ratio_max", "a block's own error", RATIO, ratio),
    Check(Part.LENGTH, "largest_ratio", "error at some length", RATIO, ratio),
    Check(Part.LENGTH, "left_padding", "masked padding on the left", "nats", rounding),
    Check(Part.LENGTH, "past_window", "past the sliding window", RATIO, ratio),
    Check(Part.LENGTH, "past_rotary_table", "past the rotary table", RATIO, ratio),
    Check(Part.LENGTH, "table_end", "end of the position table", RATIO, ratio),
    Check(Part.FLOOR, "repeat", "the same pass twice", "nats", zero),
)
"""Every check beyond the logits, whose own verdict is stored."""

ONLY_VERIFIED = (
    Check(Part.CAUSALITY, "last_token", "another last token moves earlier logits", "nats", rounding),
    Check(Part.CAUSALITY, "given_last_token", "the same with hf_model= under default attention", "nats", rounding),
    Check(Part.CAUSALITY, "given_logits", "hf_model= under default attention against HuggingFace", "nats", rounding),
    Check(Part.PADDING, "left", "unequal prompts, padded on the left", "nats", rounding),
    Check(Part.PADDING, "right", "unequal prompts, padded on the right", "nats", rounding),
    Check(Part.PADDING, "generated", "generate from unequal prompts", "tokens", zero_in_float32),
    Check(Part.PADDING, "listed", "generate from a list of texts", "tokens", zero_in_float32),
    Check(Part.PADDING, "loss", "loss of unequal prompts", "nats", rounding),
    Check(Part.LOSS, "mean", "loss", "nats", rounding),
    Check(Part.LOSS, "per_token", "loss_per_token", "nats", rounding),
    Check(Part.SWITCHES, "use_attn_result", "use_attn_result", "nats", rounding),
    Check(Part.SWITCHES, "use_split_qkv_input", "use_split_qkv_input", "nats", rounding),
    Check(Part.SWITCHES, "use_attn_in", "use_attn_in", "nats", rounding),
    Check(Part.SWITCHES, "use_hook_mlp_in", "use_hook_mlp_in", "nats", rounding),
    Check(Part.SWITCHES, "refactor_factored_attn_matrices", "refactor_factored_attn_matrices", "nats", refactoring),
    Check(Part.BACKWARD, "bwd_hooks", "bwd_hooks against autograd", "", agreement),
    Check(Part.BACKWARD, "incl_bwd", "incl_bwd against autograd", "", agreement),
    Check(Part.DECOMPOSITION, "accumulated", "accumulated_resid", "", zero),
    Check(Part.DECOMPOSITION, "logit_lens", "accumulated_resid, unembedded", "nats", rounding),
    Check(Part.DECOMPOSITION, "decomposed", "sum of decompose_resid", "", agreement),
    Check(Part.DECOMPOSITION, "attributed", "sum of logit_attrs", "nats", rounding),
    Check(Part.ACCESSORS, "n_wrong", "weights by accessor", "accessors", zero),
    Check(Part.MEMORY, "copies", "memory beyond HuggingFace's", "copies of the parameters", half_a_copy),
    Check(Part.MEMORY, "left_bytes", "what a forward pass leaves in the model", "bytes", zero),
)
"""The checks that only `tlbench verify` makes. Each track is an attribute of the question's record."""

UNCHECKED = {
    Part.GENERATION: ("cache_error_growth",),
    Part.GRADIENTS: ("error", "error_correlation", "one_less_cosine"),
    Part.DEPTH: ("propagated_last", "local_max", "local_argmax_block", "growth_exponent", "routing_disagreement"),
    Part.LENGTH: ("longest", "growth_exponent"),
    Part.FLOOR: ("threads", "batch", "attention"),
}
"""Tracks that describe and have no largest right value: sizes that go with the dtype, exponents, places."""
