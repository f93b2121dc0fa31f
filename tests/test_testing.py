"""The assertion for adapters' tests: a right model passes in each dtype, a planted fault fails, nothing passes unjudged."""

import subprocess

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from tests.conftest import ROOT
from tlbench import catalogue
from tlbench.checkpoints import ensure
from tlbench.environments import lens_environment
from tlbench.exceptions import BadInput
from tlbench.metrics.verdict import Verdict
from tlbench.testing import assert_no_worse_than_hf

SIZES = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = LlamaConfig(**SIZES, num_key_value_heads=2, intermediate_size=64, attn_implementation="eager")
TOKENS = torch.arange(48).remainder(128).view(2, 24)


def made(kind, config, dtype=torch.float32):
    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():  # else norms and biases are neutral
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.to(dtype).eval()


def scaled(model, factor):
    """The same model with one weight of its second block wrong."""
    other = type(model)(model.config).to(model.dtype).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight *= factor
    return other


@pytest.mark.slow
def test_the_reference_itself_passes_as_exact():
    model = made(LlamaForCausalLM, LLAMA, torch.bfloat16)
    assert assert_no_worse_than_hf(model, model, TOKENS).verdict is Verdict.EXACT


@pytest.mark.slow
def test_another_order_of_the_same_arithmetic_passes():
    model = made(LlamaForCausalLM, LLAMA)
    other = made(LlamaForCausalLM, LlamaConfig(**{**LLAMA.to_dict(), "attn_implementation": "sdpa"}))
    found = assert_no_worse_than_hf(lambda tokens: other(tokens).logits, model, TOKENS)
    assert 0.2 < found.ratio < 2


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_weight_that_is_a_tenth_off_fails(dtype):
    model = made(LlamaForCausalLM, LLAMA, dtype)
    with pytest.raises(AssertionError, match=r"(worse|broken): .* times HuggingFace's own error"):
        assert_no_worse_than_hf(scaled(model, 1.1), model, TOKENS)


def test_a_fault_far_below_the_usual_tolerances_fails_in_float32():
    model = made(LlamaForCausalLM, LLAMA)
    other = scaled(model, 1 + 1e-5)
    with torch.inference_mode():
        assert (other(TOKENS).logits - model(TOKENS).logits).abs().max() < 1e-3
    with pytest.raises(AssertionError):
        assert_no_worse_than_hf(other, model, TOKENS)


def test_not_finite_logits_fail():
    model = made(LlamaForCausalLM, LLAMA)
    with pytest.raises(AssertionError, match="not finite"):
        assert_no_worse_than_hf(lambda tokens: model(tokens).logits / 0, model, TOKENS)


@pytest.mark.slow
def test_a_constant_shift_of_the_logits_which_softmax_ignores_passes():
    config = GPT2Config(vocab_size=128, n_embd=32, n_layer=2, n_head=4, attn_implementation="eager")
    model = made(GPT2LMHeadModel, config)
    assert_no_worse_than_hf(lambda tokens: model(tokens).logits + 1.5, model, TOKENS)


@pytest.mark.slow
def test_a_mixture_of_experts_is_judged_where_no_rounding_reroutes():
    config = MixtralConfig(
        **SIZES, num_key_value_heads=2, intermediate_size=64, num_local_experts=4, attn_implementation="eager"
    )
    model = made(MixtralForCausalLM, config)
    assert assert_no_worse_than_hf(model, model, TOKENS).verdict is Verdict.EXACT
    with pytest.raises(AssertionError):
        assert_no_worse_than_hf(lambda tokens: model(tokens).logits * 1.01, model, TOKENS)


@pytest.mark.slow
def test_a_reference_that_cannot_serve_is_refused_in_words():
    model = made(LlamaForCausalLM, LLAMA)
    with pytest.raises(BadInput, match="training mode"):
        assert_no_worse_than_hf(model, made(LlamaForCausalLM, LLAMA).train(), TOKENS)
    with pytest.raises(BadInput, match="float64"):
        assert_no_worse_than_hf(model, made(LlamaForCausalLM, LLAMA, torch.float64), TOKENS)
    sdpa = made(LlamaForCausalLM, LlamaConfig(**{**LLAMA.to_dict(), "attn_implementation": "sdpa"}))
    with pytest.raises(BadInput, match='attn_implementation="eager"'):
        assert_no_worse_than_hf(model, sdpa, TOKENS)
    with pytest.raises(BadInput, match="returned NoneType"):
        assert_no_worse_than_hf(lambda _: None, model, TOKENS)


ADAPTER = """
import sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM
from transformer_lens.model_bridge import TransformerBridge
before = set(sys.modules)
from tlbench.testing import assert_no_worse_than_hf
print(sorted({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
folder, tokens = sys.argv[1], torch.arange(64).view(2, 32)
for dtype in (torch.float32, torch.bfloat16):
    hf_model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    bridge = TransformerBridge.boot_transformers(folder, dtype=dtype)
    bridge.enable_compatibility_mode()
    assert_no_worse_than_hf(bridge, hf_model, tokens)
    with torch.no_grad():
        next(one for name, one in bridge.named_parameters() if "layers.1." in name and "up_proj" in name).mul_(1.2)
    try:
        assert_no_worse_than_hf(bridge, hf_model, tokens)
    except AssertionError as error:
        print(str(error).split(":")[0])
"""


@pytest.mark.slow
def test_in_transformer_lens_s_own_environment_a_healthy_bridge_passes_and_a_planted_fault_fails():
    known = catalogue.load()
    folder = ensure(known.get("zoo-llama"), known).folder
    command = [lens_environment("4.3.0").python, "-c", ADAPTER, folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported, *verdicts = done.stdout.splitlines()
    assert imported == "['tlbench']"
    assert len(verdicts) == 2
    assert set(verdicts) <= {"worse", "broken"}
