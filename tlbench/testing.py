"""For the tests of an adapter: is it no worse than HuggingFace? One assertion instead of a tolerance picked by hand.

>>> from tlbench.testing import assert_no_worse_than_hf
>>> assert_no_worse_than_hf(bridge, hf_model, tokens)

A tolerance fits one model, dtype and machine. Here the measure is HuggingFace's own error at the same dtype, against the
same function in true float64. Right code loses about as many bits as HuggingFace does, on any machine. It needs torch and
the transformers that made the model, and no other package of tlbench's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tlbench.exceptions import BadInput
from tlbench.grid import Dtype
from tlbench.metrics.figures import RATIO_GATE
from tlbench.metrics.golden_error import against_truth
from tlbench.metrics.hf_error import count_nonfinite, over_common_vocabulary
from tlbench.metrics.verdict import Evidence, Verdict, judge
from tlbench.reference import routing
from tlbench.reference.float64 import assert_true_float64, true_float64

CHECKED_TOKENS = 16
"""The self-check of float64 runs a dozen passes, so it gets the beginning of each sequence."""


@dataclass(frozen=True)
class Comparison:
    """What the assertion measured.

    Attributes:
        ratio: rms error of the model over rms error of HuggingFace, both against float64.
        error_nats: rms error of the model's centred logits; ``reference_nats``, of HuggingFace's.
        flips: positions whose most likely token changed, ties aside.
    """

    verdict: Verdict
    dtype: Dtype
    ratio: float
    error_nats: float
    reference_nats: float
    flips: int

    def __str__(self) -> str:
        limit = RATIO_GATE[self.dtype]
        return (
            f"{self.verdict}: {self.ratio:.3g} times HuggingFace's own error in {self.dtype} "
            f"({self.error_nats:.3g} against {self.reference_nats:.3g} nats rms; the limit is {limit:g} times); "
            f"{self.flips} changed top tokens"
        )


def assert_no_worse_than_hf(model: Callable[[Tensor], Any], hf_model: Any, tokens: Tensor) -> Comparison:
    """Assert that a model's logits are as near the exact ones as HuggingFace's are.

    Args:
        model: a HookedTransformer, a TransformerBridge, or any function from tokens to logits ``[batch, pos, d_vocab]``.
        hf_model: HuggingFace's model of the same weights, in the same dtype, on the CPU, in evaluation mode, with
            ``attn_implementation="eager"``, which TransformerLens forces. Pass one that ``model`` does not share and change.
        tokens: ids ``[batch, pos]``; 2 x 64 of natural text, or random ones, are enough.

    Returns:
        What was measured. Use it to report, not to assert.

    Raises:
        AssertionError: if the model is worse than HuggingFace, beyond rounding.
        BadInput: if ``hf_model`` cannot serve as the reference.
        NotGolden: if the architecture cannot be evaluated in float64 all the way, so nothing can be asserted of it.
    """
    dtype = _dtype_of(hf_model)
    with torch.inference_mode():
        h = hf_model(tokens, use_cache=False).logits
        t = _logits(model(tokens))
    t, h = over_common_vocabulary(t, h)
    if bad := count_nonfinite(h):
        raise BadInput(f"HuggingFace's own logits have {bad} values that are not finite in {dtype}: choose other tokens")
    if bad := count_nonfinite(t):
        raise AssertionError(f"broken: {bad} logits are not finite, and HuggingFace's are, in {dtype}")
    g, settled = golden(hf_model, tokens)
    g = g[..., : t.shape[-1]]
    truth = against_truth(t, h, g, g, dtype, settled=settled)
    verdict = judge(Evidence(dtype, truth=truth))
    found = Comparison(verdict, dtype, truth.judged_ratio, truth.error_rms, truth.reference_rms, truth.top1_flips)
    if not verdict.passes:
        raise AssertionError(f"{found}. To find the first wrong component: tlbench where FOLDER --tl SOURCE_TREE")
    return found


def golden(hf_model: Any, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
    """The exact logits of a model's weights as they are, and up to where no rounding can choose other experts.

    The second is None unless the model routes its tokens. Raises NotGolden if the model is not float64 all the way.
    """
    with true_float64(), torch.inference_mode():
        config = copy.deepcopy(hf_model.config)
        if hasattr(config, "_experts_implementation"):
            config._experts_implementation = "eager"  # torch's grouped product of matrices knows no float64
        exact = type(hf_model)(config).eval()
        exact.load_state_dict(hf_model.state_dict())
    assert_true_float64(exact, tokens[:, :CHECKED_TOKENS])
    with true_float64(), torch.inference_mode():
        logits = exact(tokens, use_cache=False).logits
        margins = routing.margins(exact, tokens, lambda: exact(tokens, use_cache=False).logits)
    is_routed = not bool(torch.isinf(margins).all())
    return logits, routing.settled(margins, _dtype_of(hf_model)) if is_routed else None


def _dtype_of(hf_model: Any) -> Dtype:
    """The model's dtype. Raises BadInput if the model cannot be a reference."""
    word = str(hf_model.dtype).removeprefix("torch.")
    if word not in tuple(Dtype):
        raise BadInput(f"hf_model is in {word}: load it in one of {', '.join(Dtype)}")
    attention = getattr(hf_model.config, "_attn_implementation", "eager")
    if attention != "eager":
        raise BadInput(f'hf_model computes attention by {attention}: load it with attn_implementation="eager"')
    if hf_model.training:
        raise BadInput("hf_model is in training mode: call hf_model.eval()")
    if hf_model.device.type != "cpu":
        raise BadInput(f"hf_model is on {hf_model.device}: assert on the CPU, or use `tlbench verify --device cuda`")
    return Dtype(word)


def _logits(output: Any) -> Tensor:
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        raise BadInput(f"the model returned {type(logits).__name__}: expected logits [batch, pos, d_vocab]")
    return logits.detach()
