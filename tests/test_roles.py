"""Each role is recognised on a small module, and what no rule recognises has none."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tlbench.arithmetic.draws import draw, outlier_dimensions
from tlbench.checkpoints.roles import Parameter, Role, Sizes, draw_of, input_axis, role_of

SIZES = Sizes(d_model=8, d_vocab=32, n_experts=3)


class RMSNorm(nn.Module):
    pass


class Experts(nn.Module):
    pass


def parameter(name, *shape, module=None, value=None, **more):
    """A parameter of this name and shape; initialised to the value, else to no constant."""
    initial = torch.arange(1.0, 1 + np.prod(shape)).view(shape) if value is None else torch.full(shape, float(value))
    return Parameter(name, module or nn.Module(), initial, **more)


def linear(name, d_in, d_out):
    module = nn.Linear(d_in, d_out)
    return Parameter(f"{name}.weight", module, module.weight.detach())


NORM = RMSNorm()
EMBEDDING = nn.Embedding(32, 8)
RECOGNISED = {
    "a norm's ones": (parameter("layers.0.ln.weight", 8, module=NORM, value=1), Role.GAIN),
    "a norm's zeros": (parameter("layers.0.ln.weight", 8, module=NORM, value=0), Role.GAIN_LESS_ONE),
    "a norm's bias": (parameter("norm.bias", 8, module=nn.LayerNorm(8), value=0), Role.NORM_BIAS),
    "a norm of queries": (parameter("attn.q_norm.weight", 4, module=NORM, value=1), Role.QUERY_KEY_GAIN),
    "one stored less one": (parameter("attn.k_norm.weight", 4, module=NORM, value=0), Role.QUERY_KEY_GAIN_LESS_ONE),
    "norms of each head": (parameter("q_layernorm.norms.0.weight", 4, module=NORM, value=1), Role.QUERY_KEY_GAIN),
    "a bias": (parameter("attn.o_proj.bias", 8, module=nn.Linear(4, 8), value=0), Role.BIAS),
    "experts' biases": (parameter("experts.gate_up_proj_bias", 3, 10, module=Experts()), Role.BIAS),
    "an embedding": (parameter("embed.weight", 32, 8, module=EMBEDDING), Role.EMBEDDING),
    "positions": (parameter("wpe.weight", 16, 8, module=nn.Embedding(16, 8)), Role.TABLE),
    "an unembedding": (parameter("lm_head.weight", 32, 8, is_unembedding=True), Role.UNEMBEDDING),
    "a tied one": (parameter("wte.weight", 32, 8, is_unembedding=True, is_tied=True), Role.TIED_EMBEDDING),
    "queries": (linear("attn.q_proj", 8, 12), Role.QUERY_KEY),
    "square queries": (linear("attn.q_proj", 8, 8), Role.QUERY_KEY),
    "an MLP's first": (linear("mlp.anything", 8, 20), Role.READING),
    "an MLP's second": (linear("mlp.anything", 20, 8), Role.WRITING),
    "a square output": (linear("attn.out_proj", 8, 8), Role.WRITING),
    "a square input": (linear("attn.v_proj", 8, 8), Role.READING),
    "a latent": (linear("attn.kv_b_proj", 5, 12), Role.INNER),
    "a router": (linear("mlp.gate", 8, 3), Role.ROUTER),
    "experts that read": (parameter("experts.gate_up_proj", 3, 10, 8, module=Experts()), Role.READING),
    "experts that write": (parameter("experts.down_proj", 3, 8, 5, module=Experts()), Role.WRITING),
    "a correction": (parameter("gate.e_score_correction_bias", 3, value=0), Role.CORRECTION),
    "a sink": (parameter("attn.sinks", 4), Role.SINK),
    "a convolution": (parameter("conv.weight", 6, 1, 4, module=nn.Conv1d(6, 6, 4, groups=6)), Role.CONVOLUTION),
    "a convolution's bias": (parameter("conv.bias", 6, module=nn.Conv1d(6, 6, 4, groups=6)), Role.BIAS),
    "a decay": (parameter("mixer.A_log", 4), Role.DECAY),
    "a time step": (parameter("mixer.dt_bias", 4, value=1), Role.TIME_STEP),
    "a time step's projection": (parameter("mixer.dt_proj.bias", 4, module=nn.Linear(2, 4)), Role.TIME_STEP),
    "a skip": (parameter("mixer.D", 4, value=1), Role.SCALE),
    "a recurrence": (parameter("rg_lru.recurrent_param", 4), Role.RECURRENCE),
    "a mix": (parameter("attention.time_mix_key", 1, 1, 8), Role.MIX),
    "a scale": (parameter("layer_scalar", 1, value=1), Role.SCALE),
}


@pytest.mark.parametrize("case", RECOGNISED)
def test_each_role_is_recognised(case):
    given, role = RECOGNISED[case]
    assert role_of(given, SIZES) is role


UNKNOWN = {
    "a vector": parameter("attn.mystery", 8),
    "a matrix that is no layer's": parameter("attn.mystery", 5, 7),
    "a square matrix of no known name": linear("attn.mystery", 8, 8),
    "a norm that starts as neither one nor zero": parameter("norm.weight", 8, module=NORM, value=0.5),
    "four axes": parameter("attn.mystery", 2, 3, 4, 5),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_no_rule_recognises_has_no_role(case):
    assert role_of(UNKNOWN[case], SIZES) is None


@pytest.mark.parametrize(
    ("given", "axis"),
    [
        (linear("up", 8, 20), -1),
        (parameter("c_fc.weight", 8, 20, module=Conv1D(20, 8)), -2),
        (parameter("experts.gate_up_proj", 3, 10, 8), -1),
        (parameter("experts.gate_up_proj", 3, 8, 10), -2),
        (parameter("experts.down_proj", 3, 8, 5), -1),
        (parameter("experts.down_proj", 3, 5, 8), -2),
    ],
)
def test_the_input_of_a_projection_is_found_however_it_is_stored(given, axis):
    assert input_axis(given, SIZES) == axis


def of(case, sizes=SIZES):
    given, role = RECOGNISED[case]
    return draw(draw_of(given, role, sizes), "a seed")


@pytest.mark.parametrize("case", [case for case, (_, role) in RECOGNISED.items() if "gain" in role and case[0] != "n"])
def test_no_gain_is_one(case):
    _, role = RECOGNISED[case]
    gains = of(case) + ("less one" in role)
    assert np.abs(gains - 1).max() > 0.2
    assert (gains > 0).all()


def test_experts_that_write_are_large_in_the_outlier_dimensions_of_the_residual_stream():
    sizes = Sizes(d_model=64, d_vocab=512, n_experts=3)
    for shape, axis in (((3, 64, 48), 1), ((3, 48, 64), 2)):
        given = parameter("experts.down_proj", *shape, module=Experts())
        values = np.abs(draw(draw_of(given, Role.WRITING, sizes), "a seed"))
        outliers = values.take(outlier_dimensions(64), axis=axis).mean()
        assert outliers > 6 * np.delete(values, outlier_dimensions(64), axis=axis).mean()


def test_a_projection_s_output_has_its_role_s_size_whichever_way_it_is_stored():
    x = np.random.default_rng(0).standard_normal((500, 64))
    sizes = Sizes(d_model=64, d_vocab=512)
    for module, shape in ((nn.Linear(64, 160), (160, 64)), (Conv1D(160, 64), (64, 160))):
        values = draw(draw_of(parameter("up.weight", *shape, module=module), Role.READING, sizes), "a seed")
        outputs = x @ (values if isinstance(module, Conv1D) else values.T)
        assert outputs.std() == pytest.approx(1.3, rel=0.05)


def test_decays_lie_between_zero_and_one_and_differ():
    given = parameter("mixer.A_log", 64)
    rates = np.exp(draw(draw_of(given, Role.DECAY, SIZES), "a seed"))
    steps = np.log1p(np.exp(draw(draw_of(parameter("dt_bias", 64), Role.TIME_STEP, SIZES), "a seed")))
    decays = np.exp(-rates * steps)
    assert 0.1 < decays.min() < decays.max() < 1
    assert decays.std() > 0.05
