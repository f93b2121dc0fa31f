"""True float64: every request for less is answered, and the self-check tells rounding from curvature, kinks and choices."""

import json
import math
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.test_golden import checkpoint, relative
from tlbench.components import ROUTING, site
from tlbench.exceptions import NotGolden
from tlbench.grid import Dtype
from tlbench.reference import float64, golden, huggingface
from tlbench.reference.float64 import assert_true_float64, true_float64
from tlbench.reference.golden import Precision, Weights
from tlbench.reference.sites import watching
from tools.architectures import draw_model, invisible, planted, visible

SHORT = (torch.float32, torch.float16, torch.bfloat16)
ONCE_REFUSED = ("gpt_oss", "nemotron", "qwen3_next", "falcon-alibi")
FAMILIES = ("gpt2", "llama", "opt", "mamba2", *ONCE_REFUSED)
ROUTERS = {
    "mixtral": "model.layers.2.mlp.gate",
    "gpt_oss": "model.layers.1.mlp.router",
    "qwen3_next": "model.layers.1.mlp.gate",
}
NORMS = {
    "gpt2": "transformer.h.0.ln_1",
    "llama": "model.layers.0.input_layernorm",
    "opt": "model.decoder.layers.1.final_layer_norm",
    "mamba2": "backbone.layers.1.norm",
    "gpt_oss": "model.layers.0.input_layernorm",
    "falcon-alibi": "transformer.h.1.input_layernorm",
}


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """A small random model of an architecture in true float64, its token ids and its folder; loaded anew for each test."""

    def draw(name):
        folder = tmp_path_factory.getbasetemp() / f"drawn-{name}"
        if not folder.exists():
            folder.mkdir()
            draw_model(f"zoo-{name}", 0, folder)
        ids = torch.tensor(json.loads((folder / "prompts.json").read_text())["natural"])
        return golden.load_exact(folder, Weights.ORIGINAL), ids, folder

    return draw


# Requests ------------------------------------------------------------------------------------------------------------


REQUESTS = {
    "a new tensor": lambda x, dtype: torch.zeros(2, dtype=dtype),
    "a constant": lambda x, dtype: torch.tensor([0.1], dtype=dtype),
    "to": lambda x, dtype: x.to(dtype),
    "to by keyword": lambda x, dtype: x.to(dtype=dtype),
    "to with a device": lambda x, dtype: x.to("cpu", dtype),
    "type": lambda x, dtype: x.type(dtype),
    "softmax": lambda x, dtype: torch.softmax(x, -1, dtype=dtype),
    "functional softmax": lambda x, dtype: nn.functional.softmax(x, dim=-1, dtype=dtype),
    "a sum": lambda x, dtype: x.sum(dtype=dtype),
    "a module": lambda x, dtype: nn.Linear(3, 3).to(dtype)(x),
    "autocast": lambda x, dtype: autocast(x),
}
NAMED = {
    "float": lambda x: x.float(),
    "half": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "a module's half": lambda x: nn.Identity().half()(x.half()),
    "a type by name": lambda x: x.type("torch.HalfTensor"),
    "a type by class": lambda x: x.type(torch.FloatTensor),
    "a constructor": lambda x: torch.FloatTensor(x.numpy()),
}


def autocast(x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return x @ x.T


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_for_a_shorter_type_is_answered_with_float64_and_the_same_numbers(request_, dtype):
    x = torch.randn(3, 3, dtype=torch.float64)
    with torch.no_grad(), true_float64():
        torch.manual_seed(0)
        found = REQUESTS[request_](x, dtype)
        torch.manual_seed(0)
        exact = REQUESTS[request_](x, torch.float64)
    assert found.dtype is torch.float64
    assert torch.equal(found, exact)


@pytest.mark.parametrize("name", NAMED)
def test_a_request_by_name_is_answered_with_float64(name):
    x = torch.randn(3, 3, dtype=torch.float64)
    with torch.no_grad(), true_float64():
        found = NAMED[name](x)
    assert found.dtype is torch.float64
    assert torch.equal(found, x)


def test_complex_numbers_are_answered_with_those_of_two_float64():
    with true_float64():
        assert torch.zeros(2).to(torch.complex64).dtype is torch.complex128


def test_integers_and_truth_values_stay_what_they_are():
    with true_float64():
        for dtype in (torch.bool, torch.int8, torch.int32, torch.int64):
            assert torch.zeros(2).to(dtype).dtype is dtype


def test_outside_the_block_torch_has_its_own_constructors_again():
    before = torch.FloatTensor
    with pytest.raises(ZeroDivisionError), true_float64():
        raise ZeroDivisionError
    assert torch.FloatTensor is before
    assert torch.zeros(1).dtype is torch.float32


@pytest.mark.parametrize("stored", SHORT)
def test_a_checkpoint_of_any_type_is_read_as_the_numbers_that_it_holds(tmp_path, stored):
    source = checkpoint("zoo-llama").folder
    weights = {name: weight.to(stored) for name, weight in load_file(source / "model.safetensors").items()}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    parameters = dict(golden.load_exact(tmp_path, Weights.ORIGINAL).named_parameters())
    assert len(parameters) > 10
    for name, parameter in parameters.items():
        assert parameter.dtype is torch.float64
        assert torch.equal(parameter, weights[name].double())
    with true_float64():
        for name, weight in load_file(tmp_path / "model.safetensors").items():
            assert torch.equal(weight.double(), weights[name].double())


# Roundings on purpose ------------------------------------------------------------------------------------------------


def test_falcon_s_golden_is_the_exact_function_and_its_bfloat16_bias_is_huggingface_s_own_error(drawn, monkeypatch):
    from transformers.models.falcon import modeling_falcon

    model, ids, folder = drawn("falcon-alibi")
    found = golden.run(model, ids, Precision.FLOAT64)

    def alibi(attention_mask, num_heads, dtype):
        """Twelve heads: the slopes of eight, then every other one of sixteen (Press et al., 2022)."""
        slopes = [2.0**-i for i in range(1, 9)] + [2.0 ** -(i / 2) for i in (1, 3, 5, 7)]
        positions = torch.arange(attention_mask.shape[-1], dtype=torch.float64)
        bias = torch.tensor(slopes, dtype=torch.float64)[:, None] * positions
        return bias.repeat(len(attention_mask), 1)[:, None]

    monkeypatch.setattr(modeling_falcon, "build_alibi_tensor", alibi)
    assert relative(golden.run(model, ids, Precision.FLOAT64), found) < 1e-13
    monkeypatch.undo()
    float32 = huggingface.load_model(folder, Dtype.FLOAT32)
    with torch.inference_mode():
        own = relative(float32(ids).logits.double(), found)
        monkeypatch.setattr(modeling_falcon, "build_alibi_tensor", lambda *given, **named: alibi(*given, **named).float())
        unrounded = relative(float32(ids).logits.double(), found)
    assert unrounded < 1e-5
    assert own > 1e-4


def test_a_shorter_type_that_is_not_intercepted_is_refused_by_name(drawn, monkeypatch):
    model, ids, _ = drawn("falcon-alibi")
    monkeypatch.setattr(float64, "SHORTENING", ())
    with pytest.raises(NotGolden, match=r"bfloat16.*did not intercept"):
        assert_true_float64(model, ids)


# The self-check of real architectures --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_a_healthy_model_leaves_nothing_but_float64_s_own_noise(drawn, name):
    model, ids, _ = drawn(name)
    found = assert_true_float64(model, ids)
    assert found.passed
    assert found.excess < float64.TIMES_THE_NOISE / 10
    assert 1e-16 < found.noise < 1e-12
    assert 0.1 < found.amplification < 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_rounding_of_one_activation_that_torch_cannot_see_is_refused(drawn, name):
    model, ids, _ = drawn(name)
    norms = [module for key, module in model.named_modules() if "norm" in key.lower() or ".ln_" in key]
    with planted(norms[len(norms) // 2], invisible), pytest.raises(NotGolden, match="third difference"):
        assert_true_float64(model, ids)


@pytest.mark.slow
@pytest.mark.parametrize("name", NORMS)
def test_a_rounding_of_one_scalar_for_each_token_is_refused(drawn, name):
    """The planted fault: the mean square of what a norm is given goes through float32 in numpy."""
    model, ids, _ = drawn(name)

    def scaled(module, inputs, output):
        square = inputs[0].square().mean(-1, keepdim=True)
        return output * (invisible(square) / square)

    model.get_submodule(NORMS[name]).register_forward_hook(scaled)
    with pytest.raises(NotGolden, match="third difference"):
        assert_true_float64(model, ids)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUTERS)
def test_a_rounding_of_a_router_s_scores_is_refused(drawn, name):
    model, ids, _ = drawn(name)
    with planted(model.get_submodule(ROUTERS[name]), invisible), pytest.raises(NotGolden, match="third difference"):
        assert_true_float64(model, ids)


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_a_cast_that_torch_sees_is_refused_with_the_operation_s_name(drawn, name):
    model, ids, _ = drawn(name)
    with planted(list(model.modules())[-2], visible), pytest.raises(NotGolden, match=r"aten.*float32"):
        assert_true_float64(model, ids)


def test_the_logits_of_the_first_pass_are_freed_before_the_last_ones_are_computed(drawn, monkeypatch):
    model, ids, _ = drawn("gpt2")
    alive = []

    class Watched(float64._Moved):
        def __call__(self, step):
            logits = super().__call__(step)
            if step == float64.STEP:
                weakref.finalize(logits, alive.clear)
                alive.append(step)
            return logits

    def growth(*_):
        assert not alive
        return math.inf

    monkeypatch.setattr(float64, "_Moved", Watched)
    monkeypatch.setattr(float64, "_growth", growth)
    assert assert_true_float64(model, ids).growth == math.inf


@pytest.mark.parametrize("name", ["llama", "gpt_oss"])
def test_rotary_tables_made_in_numpy_s_float32_are_refused(drawn, name):
    """No step of the embeddings moves them, so the differences cannot show their rounding."""
    model, ids, _ = drawn(name)
    with (
        planted(model.model.rotary_emb, invisible),
        pytest.raises(NotGolden, match=r"output of its module model\.rotary_emb was rounded"),
    ):
        assert_true_float64(model, ids)


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_a_mixture_of_experts_shows_where_its_tokens_go(drawn, name):
    model, ids, _ = drawn(name)
    seen = {}
    with true_float64(), torch.inference_mode(), watching(model, seen.__setitem__):
        model(ids)
    mask = seen[site(int(ROUTERS[name].split(".")[2]), ROUTING)]
    assert mask.shape[:2] == ids.shape
    assert (mask.sum(-1) == model.config.num_experts_per_tok).all()


@pytest.mark.parametrize("as_buffer", [True, False])
def test_a_table_that_numpy_rounded_is_refused_as_a_buffer_and_as_an_attribute(drawn, as_buffer):
    model, ids, _ = drawn("gpt2")
    table = torch.from_numpy(np.sin(np.arange(9, dtype=np.float32)).astype(np.float64))
    if as_buffer:
        model.transformer.register_buffer("table", table, persistent=False)
    else:
        model.transformer.table = table
    with pytest.raises(NotGolden, match=r"transformer\.table was rounded to float32"):
        assert_true_float64(model, ids)


def test_a_table_of_integers_or_powers_of_two_is_no_rounding(drawn):
    model, ids, _ = drawn("gpt2")
    model.transformer.table = torch.tensor([1e9, -1.0, 0.5, 2.0**-30], dtype=torch.float64)
    assert_true_float64(model, ids)


def test_a_healthy_model_costs_five_forward_passes(drawn):
    model, ids, _ = drawn("llama")
    passes = []
    model.register_forward_hook(lambda *call: passes.append(1))
    assert_true_float64(model, ids)
    assert len(passes) == 5


def test_two_checks_of_one_model_measure_the_same(drawn):
    model, ids, _ = drawn("llama")
    assert assert_true_float64(model, ids) == assert_true_float64(model, ids)


def test_a_choice_that_is_nearly_a_tie_is_held_and_no_reason_to_refuse(drawn, monkeypatch):
    """One token's second expert is chosen by a difference of scores of 0, which any step of its embedding changes."""
    model, ids, _ = drawn("mixtral")
    gate, given = model.model.layers[0].mlp.gate, []
    handle = gate.register_forward_hook(lambda module, inputs, output: given.append(inputs[0]))
    with torch.inference_mode(), true_float64():
        model(ids, use_cache=False)
    handle.remove()
    weight, tokens = gate.weight.data, given[0].reshape(-1, gate.weight.shape[1])
    scores = tokens @ weight.T
    second = (scores[:, 2:] > scores[:, :1]).sum(1) == 1  # one of the two others is above: the tie is for the second place
    token = tokens[second.nonzero()[-1, 0]]
    weight[1] = weight[0] + weight[2] - (weight[2] @ token) / (token @ token) * token
    assert assert_true_float64(model, ids).excess < float64.TIMES_THE_NOISE

    class NothingHeld:
        held = staticmethod(nullcontext)

    monkeypatch.setattr(float64, "_HeldChoices", NothingHeld)
    with pytest.raises(NotGolden, match="third difference"):
        assert_true_float64(model, ids)


# The self-check of functions whose derivatives are known -------------------------------------------------------------


class Function(nn.Module):
    """Logits that are a function of the embeddings ``[batch, pos, 64]``."""

    def __init__(self, function):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.embedding = nn.Embedding.from_pretrained(torch.randn(512, 64, generator=generator, dtype=torch.float64))
        self.function = function

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, ids, use_cache):
        return SimpleNamespace(logits=self.function(self.embedding(ids)))


class TwoStacks(Function):
    """An encoder-decoder: its logits are a function of both texts' embeddings, by modules of their own."""

    config = SimpleNamespace(is_encoder_decoder=True)

    def __init__(self, rounding=lambda x: x):
        super().__init__(two_layers(torch.sin))
        self.rounding, weights = rounding, self.embedding.weight
        self.encoder, self.decoder = Function(None), Function(None)
        self.encoder.embedding.weight = self.decoder.embedding.weight = weights

    def get_encoder(self):
        return self.encoder

    def get_decoder(self):
        return self.decoder

    def forward(self, ids, use_cache):
        source = self.rounding(self.encoder.embedding(ids[:, :40])).mean(1, keepdim=True)
        return SimpleNamespace(logits=self.function(self.decoder.embedding(ids) + source))


def check(function):
    ids = torch.randint(512, (2, 64), generator=torch.Generator().manual_seed(4))
    return assert_true_float64(Function(function), ids)


def two_layers(activation, between=lambda x: x):
    """Two layers of 256 units with an activation, normalized; what is between them can be rounded."""
    generator = torch.Generator().manual_seed(5)
    first, back, second, out = (
        torch.randn(shape, generator=generator, dtype=torch.float64) / shape[0] ** 0.5
        for shape in ((64, 256), (256, 64), (64, 256), (256, 64))
    )

    def function(x):
        x = x + activation(x @ first) @ back
        x = between(x / x.square().mean(-1, keepdim=True).sqrt())
        return x + activation(x @ second) @ out

    return function


CURVES = {
    "sin": torch.sin,
    "sin of 300 x": lambda x: torch.sin(300 * x),
    "relu": torch.relu,
    "squared relu": lambda x: torch.relu(x).square(),
    "kinks of 300 x": lambda x: torch.relu(torch.sin(300 * x)),
    "exp": lambda x: torch.exp(2 * x),
}


@pytest.mark.parametrize("name", CURVES)
def test_curvature_and_kinks_alone_are_never_refused(name):
    assert check(two_layers(CURVES[name])).passed


@pytest.mark.parametrize("name", CURVES)
def test_a_rounding_is_refused_however_curved_or_kinked_the_function_is(name):
    with pytest.raises(NotGolden, match="third difference"):
        check(two_layers(CURVES[name], between=invisible))


def test_a_rounding_in_an_encoder_is_refused():
    ids = torch.randint(512, (2, 64), generator=torch.Generator().manual_seed(4))
    assert assert_true_float64(TwoStacks(), ids).passed
    with pytest.raises(NotGolden, match="third difference"):
        assert_true_float64(TwoStacks(invisible), ids)


def test_embeddings_that_are_never_called_show_nothing_so_the_model_is_refused():
    model, other = Function(two_layers(torch.sin)), nn.Embedding(512, 64, dtype=torch.float64)
    model.get_input_embeddings = lambda: other
    with pytest.raises(NotGolden, match="input embeddings are never called"):
        assert_true_float64(model, torch.zeros(2, 64, dtype=torch.long))


def test_the_kinks_are_judged_by_their_growth_and_not_by_their_size():
    found = check(two_layers(CURVES["kinks of 300 x"]))
    assert found.excess > 100 * float64.TIMES_THE_NOISE
    assert 16 <= found.growth < math.inf


def test_the_refusal_says_what_was_measured_and_what_is_allowed():
    with pytest.raises(NotGolden) as refused:
        check(two_layers(torch.sin, between=invisible))
    text = str(refused.value)
    assert text.startswith("Function is not float64 all the way: with an embedding step of 1e-08")
    assert "the limit is 3e+04 times" in text
    assert "but curvature and kinks would grow at least 10 times" in text


@pytest.mark.parametrize(("power", "amplification"), [(1, 1), (3, 3), (5, 5)])
def test_the_amplification_of_a_power_is_its_exponent(power, amplification):
    """A relative change r of x changes x ** n by n r, relatively."""
    assert check(lambda x: x**power).amplification == pytest.approx(amplification, rel=0.05)


def test_constant_logits_have_no_noise_and_no_amplification():
    found = check(torch.ones_like)
    assert (found.noise, found.difference, found.excess, found.amplification) == (0, 0, 0, 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused_and_told_as_that(bad):
    with pytest.raises(NotGolden, match="not finite"):
        check(lambda x: x + bad * (x > 2))
