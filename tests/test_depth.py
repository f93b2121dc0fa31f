"""Errors by block and component: the arithmetic by hand, and what is watched inside a network by independent formulas."""

import itertools
import json
import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests import independent
from tlbench import Cell, catalogue
from tlbench.catalogue import Source
from tlbench.checkpoints import ensure
from tlbench.components import Component
from tlbench.exceptions import CellFailed, NoGolden, NotApplicable, NotGolden
from tlbench.grid import Dtype
from tlbench.metrics import growth
from tlbench.metrics.figures import UNIT_ROUNDOFF
from tlbench.metrics.relative_error import relative_error
from tlbench.records.depth_profile import DepthProfile, RoutingAgreement, SiteError
from tlbench.records.serial import plain, restored
from tlbench.reference import activations as inside
from tlbench.reference import elsewhere, golden, huggingface
from tlbench.reference import sites as places
from tlbench.reference.activations import Errors, Exact
from tlbench.reference.float64 import true_float64
from tlbench.reference.golden import Weights
from tlbench.reference.sites import feeding, watching

ZOO = [model.name for model in catalogue.load().models if model.source is Source.ZOO]
IN_ORDER = ("resid_pre", "ln1", "mixer_out", "pattern", "attn_out", "cross_attn_out", "ln2", "mlp_out", "resid_post")
N_BLOCKS = 3
COMPUTED = (
    "blocks.0.resid_pre",
    *(f"blocks.{i}.{component}" for i in range(N_BLOCKS) for component in IN_ORDER[1:]),
    "ln_final",
    "logits",
)
"""What a model of three blocks computes, in order; a later block's input is the output before."""
GATES = {"float32": 2.0, "float16": 3.0, "bfloat16": 3.0}


# How fast an error grows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 0.5, 1.0, 3.25])
def test_a_power_law_has_its_own_exponent_and_no_uncertainty(exponent):
    x = [1.0, 2.0, 3.0, 7.0, 12.0]
    found = growth.fit(x, [1e-7 * value**exponent for value in x])
    assert found.exponent == pytest.approx(exponent, abs=1e-12)
    assert found.standard_error == pytest.approx(0, abs=1e-12)
    assert found.points == len(x)


@settings(deadline=None, max_examples=50)
@given(st.integers(3, 40), st.floats(-2, 2), st.integers(0, 2**32 - 1))
def test_exponent_and_standard_error_are_those_of_numpys_regression(n, exponent, seed):
    generator = np.random.default_rng(seed)
    x = np.sort(generator.uniform(1, 100, n))
    error = 1e-6 * x**exponent * np.exp(generator.normal(0, 0.3, n))
    (slope, _), covariance = np.polyfit(np.log(x), np.log(error), 1, cov=True)
    found = growth.fit(x.tolist(), error.tolist())
    assert found.exponent == pytest.approx(slope, rel=1e-6, abs=1e-9)
    assert found.standard_error == pytest.approx(math.sqrt(covariance[0, 0]), rel=1e-6)


def test_points_without_a_positive_finite_error_are_left_out():
    clean = growth.fit([1, 2, 4, 9], [1, 3, 5, 4])
    assert growth.fit([1, 2, 3, 4, 5, 9, 10], [1, 3, 0, 5, math.inf, 4, math.nan]) == clean
    assert clean.points == 4


@pytest.mark.parametrize("error", [[], [1, 2], [1, 2, 0], [1, 2, math.inf], [0, 0, 0, 0]])
def test_fewer_than_three_points_have_no_growth(error):
    assert growth.fit(range(1, len(error) + 1), error) is None


def test_points_at_one_depth_have_no_growth():
    assert growth.fit([2, 2, 2], [1, 2, 3]) is None


# Relative errors -----------------------------------------------------------------------------------------------------


def test_the_relative_error_is_that_of_the_root_mean_squares():
    # rms (0, 1) / rms (3, 4) = sqrt(1/2) / sqrt(25/2)
    assert relative_error(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0])) == pytest.approx(1 / 5, rel=1e-12)
    assert relative_error(torch.tensor([[3.0, 5.0], [3.0, 4.0]]), torch.tensor([[3.0, 4.0], [3.0, 4.0]])) == pytest.approx(
        1 / math.sqrt(50), rel=1e-12
    )


def test_differences_far_below_the_values_own_precision_are_seen():
    exact = torch.tensor([1 + 2**-40], dtype=torch.float64)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert relative_error(torch.tensor([1.0], dtype=dtype), exact) == pytest.approx(2**-40, rel=1e-9)


def test_centring_takes_out_what_a_whole_row_shares_and_nothing_else():
    exact = torch.tensor([[1.0, 3.0], [5.0, 9.0]])
    shifted = exact + torch.tensor([[7.0], [-2.0]])
    assert relative_error(shifted, exact, centred=True) == 0
    assert relative_error(shifted, exact) == pytest.approx(math.sqrt(106 / 116), rel=1e-12)
    # Centred: (-2, 2), (-2, 2) against (-1, 1), (-2, 2).
    value = torch.tensor([[2.0, 6.0], [5.0, 9.0]])
    assert relative_error(value, exact, centred=True) == pytest.approx(math.sqrt(2 / 10), rel=1e-12)
    # Per column a shift is no shift of a row.
    assert relative_error(exact + torch.tensor([1.0, -1.0]), exact, centred=True) > 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("centred", [False, True])
def test_a_single_nonfinite_entry_makes_the_error_infinite(bad, centred):
    assert relative_error(torch.tensor([[1.0, bad]]), torch.tensor([[1.0, 2.0]]), centred=centred) == math.inf


def test_nothing_against_nothing_is_exact_and_something_against_nothing_infinitely_wrong():
    nothing = torch.zeros(2, 3)
    assert relative_error(nothing, nothing) == 0
    assert relative_error(nothing + 1e-30, nothing) == math.inf
    assert relative_error(nothing, nothing + 1) == 1


# Where the first wrong quantity is -----------------------------------------------------------------------------------


def profile(*wrong, dtype="float32", times=100.0, **changes):
    """Three blocks with HuggingFace's own errors everywhere, but in ``wrong``, where the local one is ``times`` that.

    The quantities are kept in the reverse of the order in which they are computed.
    """
    own = 8 * UNIT_ROUNDOFF[Dtype(dtype)]
    every = [f"blocks.{i}.{component}" for i in range(N_BLOCKS) for component in IN_ORDER] + ["ln_final", "logits"]
    sites = {name: SiteError(4 * own, times * own if name in wrong else own, 4 * own, own) for name in reversed(every)}
    cell = Cell("zoo-gpt2", dtype, "unprocessed", "TransformerBridge")
    return replace(DepthProfile(cell, N_BLOCKS, sites, routing=(), silent=(), missing=()), **changes)


def changed(found, name, **errors):
    return replace(found, sites={**found.sites, name: replace(found.sites[name], **errors)})


def where(found):
    wrong = found.first_wrong()
    return wrong and (wrong.block, wrong.component)


def place(name):
    """How a quantity's place is told: the first block's input is the embedding, which no block computes."""
    special = {"blocks.0.resid_pre": (None, "embed"), "ln_final": (None, "ln_final"), "logits": (None, "logits")}
    return special[name] if name in special else (int(name.split(".")[1]), name.split(".")[2])


def test_the_components_are_in_the_order_in_which_a_block_computes_them():
    assert tuple(Component) == IN_ORDER


def test_with_huggingfaces_own_errors_nothing_is_wrong():
    assert profile().first_wrong() is None
    assert profile().local_ratio == 1


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(COMPUTED, 2)))
def test_of_two_wrong_quantities_the_one_that_is_computed_first_is_named_though_the_other_be_larger(first, second):
    found = profile(first, second)
    assert where(changed(found, second, local=1e6)) == place(first)


def test_a_propagated_error_is_no_reason_to_be_named():
    assert where(changed(profile("blocks.2.ln2"), "blocks.1.ln1", propagated=1e6)) == (2, "ln2")


def test_a_later_blocks_input_is_never_named():
    """It is the output of the block before, which is looked at there."""
    assert where(profile("blocks.1.resid_pre", "blocks.2.resid_pre")) is None
    assert where(profile("blocks.1.resid_pre", "logits")) == (None, "logits")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("blocks.0.resid_pre", "embedding"),
        ("blocks.1.ln1", "norm"),
        ("blocks.1.pattern", "attention"),
        ("blocks.1.attn_out", "attention"),
        ("blocks.1.ln2", "norm"),
        ("blocks.1.mlp_out", "mlp"),
        ("blocks.1.resid_post", "residual"),
        ("ln_final", "norm"),
        ("logits", "unembedding"),
    ],
)
def test_the_part_that_computes_the_wrong_quantity_is_told_with_its_figures(name, part):
    wrong = profile(name, times=10).first_wrong()
    own = 8 * 2**-24
    assert (wrong.block, wrong.component) == place(name)
    assert (wrong.part, wrong.error, wrong.reference_error, wrong.ratio) == (part, 10 * own, own, 10)


@pytest.mark.parametrize(("dtype", "gate"), GATES.items())
def test_just_beyond_the_gate_of_the_dtype_is_wrong_and_at_the_gate_it_is_not(dtype, gate):
    name = "blocks.1.mlp_out"
    assert where(profile(name, dtype=dtype, times=gate)) is None
    assert where(profile(name, dtype=dtype, times=math.nextafter(gate, 10))) == (1, "mlp_out")


@pytest.mark.parametrize(("dtype", "gate"), GATES.items())
def test_beside_a_reference_nearer_than_one_rounding_the_rounding_is_the_measure(dtype, gate):
    name, roundoff = "blocks.1.pattern", {"float32": 2**-24, "float16": 2**-11, "bfloat16": 2**-8}[dtype]
    for own in (0.0, roundoff / 1000, roundoff):
        at_gate = changed(profile(dtype=dtype), name, local=gate * roundoff, reference_local=own)
        assert where(at_gate) is None
        assert at_gate.ratio(at_gate.sites[name]) == gate
        assert where(changed(at_gate, name, local=1.001 * gate * roundoff)) == (1, "pattern")
    assert where(changed(at_gate, name, local=1.001 * gate * roundoff, reference_local=2 * roundoff)) is None


@pytest.mark.parametrize("error", [math.inf, math.nan])
def test_an_error_that_is_no_number_is_wrong(error):
    assert where(changed(profile(), "blocks.0.ln2", local=error)) == (0, "ln2")


def test_quantities_that_an_architecture_lacks_are_passed_over():
    found = profile("blocks.1.ln2", "blocks.1.mlp_out")
    without = {name: error for name, error in found.sites.items() if not name.endswith("ln2")}
    assert where(replace(found, sites=without)) == (1, "mlp_out")


def test_the_worst_block_is_that_of_the_largest_local_error_and_of_two_the_first():
    found = changed(profile("blocks.1.ln2"), "blocks.2.pattern", local=0.5)
    assert found.worst_local == (2, 0.5)
    assert changed(found, "blocks.1.attn_out", local=0.5).worst_local == (1, 0.5)
    assert changed(found, "blocks.1.resid_pre", local=0.9).worst_local == (2, 0.5)
    assert changed(found, "logits", local=0.9).worst_local == (2, 0.5)
    assert replace(found, sites={}).worst_local is None


def test_the_growth_is_that_of_the_residual_stream_over_the_blocks():
    found = profile()
    for i, error in enumerate([1e-7, 1e-7 * math.sqrt(2), 1e-7 * math.sqrt(3)]):
        found = changed(found, f"blocks.{i}.resid_post", propagated=error)
    assert found.growth.exponent == pytest.approx(0.5, abs=1e-12)
    assert found.growth.points == N_BLOCKS
    assert found.propagated_last == 1e-7 * math.sqrt(3)


def test_routing_disagreement_is_the_share_of_misrouted_tokens_over_all_blocks():
    routing = (RoutingAgreement(1.0, 0.5), RoutingAgreement(0.75, 1.0))
    assert profile(routing=routing).routing_disagreement == 1 / 8
    assert profile().routing_disagreement is None


ERRORS = st.builds(SiteError, *[st.floats(min_value=0, allow_nan=False)] * 4)


@given(st.lists(ERRORS, min_size=len(COMPUTED), max_size=len(COMPUTED)), st.sampled_from(list(GATES)))
def test_through_json_a_profile_loses_no_bit(errors, dtype):
    routing = (RoutingAgreement(errors[0].local, 0.1 + 0.2),)
    found = profile(
        dtype=dtype,
        sites=dict(zip(COMPUTED, errors, strict=True)),
        routing=routing,
        silent=("blocks.0.hook_in",),
        missing=("a", "b"),
    )
    again = restored(DepthProfile, json.loads(json.dumps(plain(found))))
    assert again == found
    assert again.first_wrong() == found.first_wrong()


# What is watched inside HuggingFace's models -------------------------------------------------------------------------


def checkpoint(name):
    models = catalogue.load()
    return ensure(models.get(name), models)


def load(name):
    point = checkpoint(name)
    return golden.load_exact(point.folder, Weights.ORIGINAL), huggingface.tokens(point, "natural")


def watch(model, ids, inputs=None):
    """Every quantity of one forward pass in float64 and the logits; with ``inputs``, of blocks that are fed them."""
    seen = {}

    def keep(name, value):
        seen[name] = value.clone()

    with true_float64(), torch.no_grad():
        if inputs is None:
            with watching(model, keep):
                seen["logits"] = model(ids, use_cache=False).logits
        else:
            with feeding(model, inputs), watching(model, keep):
                seen["logits"] = model(ids, use_cache=False).logits
    return seen


@lru_cache
def watched(name):
    """Every quantity of one architecture; several tests look at them, and none changes them."""
    return watch(*load(name))


def inputs_of(seen):
    n_blocks = sum(name.endswith("resid_post") for name in seen)
    return [seen[f"blocks.{i}.resid_pre"] for i in range(n_blocks)] + [seen[f"blocks.{n_blocks - 1}.resid_post"]]


def relative(one, other):
    one, other = (torch.as_tensor(value) for value in (one, other))
    return ((one - other).abs().max() / other.abs().max()).item()


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_what_attention_and_mlp_add_to_a_blocks_input_is_its_output_in_every_architecture(name):
    seen = watched(name)
    n_blocks = len(inputs_of(seen)) - 1
    assert n_blocks >= 4
    for i in range(n_blocks):
        before, attn, mlp, after = (
            seen[f"blocks.{i}.{component}"] for component in ("resid_pre", "attn_out", "mlp_out", "resid_post")
        )
        assert after.dtype is torch.float64
        assert relative(before + attn + mlp, after) < 1e-12
        assert attn.abs().max() > 0
        assert mlp.abs().max() > 0
        assert i == n_blocks - 1 or torch.equal(after, seen[f"blocks.{i + 1}.resid_pre"])


@pytest.mark.parametrize("name", ZOO)
def test_the_pattern_of_every_architecture_is_causal_and_its_rows_are_probabilities(name):
    seen = watched(name)
    patterns = [value for key, value in seen.items() if key.endswith("pattern")]
    assert len(patterns) == len(inputs_of(seen)) - 1
    for pattern in patterns:
        assert (pattern.sum(-1) - 1).abs().max() < 1e-12
        assert pattern.min() >= 0
        assert not pattern.triu(1).any()


def test_a_mixture_of_experts_sends_each_token_to_two():
    seen = watched("zoo-mixtral")
    for i in range(4):
        assert set(seen[f"blocks.{i}.routing"].unique().tolist()) == {0, 1}
        assert (seen[f"blocks.{i}.routing"].sum(-1) == 2).all()
        assert seen[f"blocks.{i}.routing"].shape[:2] == seen[f"blocks.{i}.resid_pre"].shape[:2]


def numpy_gpt2(seen, i, config, weights):
    """What GPT-2's formulas make of a block's watched inputs."""
    block, n_heads, epsilon = f"transformer.h.{i}", config["n_head"], config["layer_norm_epsilon"]

    def affine(x, name):
        return x @ weights[f"{block}.{name}.weight"] + weights[f"{block}.{name}.bias"]

    def scaled(x, name):
        return weights[f"{block}.{name}.weight"] * x + weights[f"{block}.{name}.bias"]

    x = seen[f"blocks.{i}.resid_pre"]
    ln1 = independent.layer_norm(x, 1, 0, epsilon)
    q, k, v = (
        independent.split_heads(part, n_heads) for part in np.split(affine(scaled(ln1, "ln_1"), "attn.c_attn"), 3, axis=-1)
    )
    attn_out = affine(independent.merge_heads(independent.attention(q, k, v)), "attn.c_proj")
    ln2 = independent.layer_norm(x + attn_out, 1, 0, epsilon)
    mlp_out = affine(independent.gelu_tanh(affine(scaled(ln2, "ln_2"), "mlp.c_fc")), "mlp.c_proj")
    # Values that are one at one position each are mixed into the pattern itself.
    pattern = independent.attention(q, k, np.broadcast_to(np.eye(q.shape[-2]), (*q.shape[:-1], q.shape[-2])))
    return {"ln1": ln1, "pattern": pattern, "attn_out": attn_out, "ln2": ln2, "mlp_out": mlp_out}


def numpy_llama(seen, i, config, weights):
    """What Llama's formulas make of a block's watched inputs."""
    block, n_heads, base, epsilon = (
        f"model.layers.{i}",
        config["num_attention_heads"],
        config["rope_theta"],
        config["rms_norm_eps"],
    )

    def linear(x, name):
        return x @ weights[f"{block}.{name}.weight"].T

    x = seen[f"blocks.{i}.resid_pre"]
    ln1 = independent.rms_norm(x, 1, epsilon)
    read = weights[f"{block}.input_layernorm.weight"] * ln1
    q, k, v = (independent.split_heads(linear(read, f"self_attn.{letter}_proj"), n_heads) for letter in "qkv")
    q, k = independent.rotary(q, base), independent.rotary(k, base)
    attn_out = linear(independent.merge_heads(independent.attention(q, k, v)), "self_attn.o_proj")
    ln2 = independent.rms_norm(x + attn_out, 1, epsilon)
    read = weights[f"{block}.post_attention_layernorm.weight"] * ln2
    mlp_out = linear(independent.silu(linear(read, "mlp.gate_proj")) * linear(read, "mlp.up_proj"), "mlp.down_proj")
    pattern = independent.attention(q, k, np.broadcast_to(np.eye(q.shape[-2]), (*q.shape[:-1], q.shape[-2])))
    return {"ln1": ln1, "pattern": pattern, "attn_out": attn_out, "ln2": ln2, "mlp_out": mlp_out}


@pytest.mark.parametrize(("name", "formulas"), [("zoo-gpt2", numpy_gpt2), ("zoo-llama", numpy_llama)])
def test_each_quantity_is_what_numpy_computes_of_its_blocks_input_from_the_papers_formulas(name, formulas):
    seen = {key: value.numpy() for key, value in watched(name).items()}
    config, weights = independent.read_checkpoint(checkpoint(name).folder, lambda weight: weight)
    for i in range(4):
        for component, value in formulas(seen, i, config, weights).items():
            assert relative(seen[f"blocks.{i}.{component}"], value) < 1e-12, (i, component)
    last = seen["blocks.3.resid_post"]
    if name == "zoo-gpt2":
        final = independent.layer_norm(last, 1, 0, config["layer_norm_epsilon"])
    else:
        final = independent.rms_norm(last, 1, config["rms_norm_eps"])
    assert relative(seen["ln_final"], final) < 1e-12


@pytest.mark.parametrize("name", ["zoo-gpt2", "zoo-llama", "zoo-gpt-neox", "zoo-opt", "zoo-mixtral", "zoo-gemma2"])
def test_fed_with_its_own_inputs_a_model_computes_the_same_bit_for_bit(name):
    model, ids = load(name)
    seen = watch(model, ids)
    fed = watch(model, ids, inputs_of(seen))
    assert fed.keys() == seen.keys()
    assert [key for key, value in seen.items() if not torch.equal(fed[key], value)] == []


@pytest.mark.parametrize("name", ["zoo-gpt2", "zoo-llama"])
def test_what_is_fed_to_one_block_changes_that_block_and_no_other(name):
    model, ids = load(name)
    seen = watch(model, ids)
    inputs = inputs_of(seen)
    inputs[1] = torch.zeros_like(inputs[1])
    fed = watch(model, ids, inputs)
    different = {key for key, value in seen.items() if not torch.equal(fed[key], value)}
    assert "blocks.1.resid_post" in different
    assert {key.split(".")[1] for key in different} == {"1"}


def test_afterwards_nothing_is_watched_and_nothing_fed():
    model, ids = load("zoo-gpt2")
    seen = watch(model, ids)
    watch(model, ids, [torch.zeros_like(value) for value in inputs_of(seen)])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(watch(model, ids)["logits"], seen["logits"])


def test_an_unknown_architecture_is_not_looked_into_and_told_what_to_do():
    with pytest.raises(
        NotApplicable, match=r"no blocks found in Linear \(looked for model.layers, .* add the name of their list to"
    ):
        places.sites(nn.Linear(2, 2))


def layers(**parts):
    """A model of one block with these parts."""
    model = nn.Module()
    model.model = nn.Module()
    block = nn.Module()
    for name, part in parts.items():
        block.add_module(name, part)
    model.model.layers = nn.ModuleList([block])
    return model, block


@pytest.mark.parametrize("name", ["mixer", "mamba", "linear_attn", "conv", "temporal_block"])
def test_a_block_without_attention_has_a_mixer_and_is_not_whole(name):
    model, block = layers(**{name: nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    found = places.sites(model)
    assert found.blocks[0].mixer is getattr(block, name)
    assert found.blocks[0].ln1 is block.norm
    assert (found.blocks[0].attention, found.blocks[0].mlp_out, found.is_whole) == (None, None, False)


def test_what_a_block_adds_is_the_output_of_the_norm_after_attention_or_mlp_if_it_has_one():
    parts = {
        "gemma": ("self_attn", "post_attention_layernorm", "pre_feedforward_layernorm", "mlp", "post_feedforward_layernorm"),
        "trinity": ("self_attn", "post_attention_layernorm", "pre_mlp_layernorm", "mlp", "post_mlp_layernorm"),
        "glm": ("self_attn", "post_self_attn_layernorm", "post_attention_layernorm", "mlp", "post_mlp_layernorm"),
    }
    for names in parts.values():
        model, block = layers(**{name: nn.LayerNorm(2) for name in names})
        found = places.sites(model).blocks[0]
        assert [found.attention, found.attn_out, found.ln2, found.mlp_out] == [
            getattr(block, name) for name in (names[0], names[1], names[2], names[4])
        ]


def test_a_norm_whose_epsilon_is_not_known_is_not_guessed_at():
    with pytest.raises(NotApplicable, match="Linear has no epsilon that tlbench knows"):
        places.normalised(torch.ones(1, 1, 2), nn.Linear(2, 2))


def test_a_norm_that_does_nothing_is_none():
    model, _ = layers(attn=nn.Linear(2, 2), mlp=nn.Linear(2, 2), attn_norm=nn.Identity())
    assert places.sites(model).blocks[0].ln1 is None
    assert places.sites(model).is_whole


# The exact quantities, kept ------------------------------------------------------------------------------------------


@pytest.fixture
def kept(own_cache, monkeypatch):
    """A checkpoint in a cache of this test's own, whose inside is computed in this process, and how often that was."""
    point = checkpoint("zoo-gpt2")
    calls = []

    def compute_elsewhere(python, function, kind, dtype, name, doing):
        calls.append([kind, dtype])
        inside.compute_exact(point, Dtype(dtype))

    monkeypatch.setattr(elsewhere, "compute_elsewhere", compute_elsewhere)
    return point, calls


def test_the_exact_quantities_are_computed_once_and_are_what_is_watched(kept):
    point, calls = kept
    first = inside.exact(point, Dtype.FLOAT32)
    again = inside.exact(point, Dtype.FLOAT32)
    assert calls == [["exact", "float32"]]
    seen = watched("zoo-gpt2")
    for name, value in seen.items():
        assert torch.equal(first.by_name(name), value), name
        assert torch.equal(again.by_name(name), value), name
    assert (first.n_blocks, first.centres) == (4, True)
    assert all(torch.equal(one, other) for one, other in zip(first.inputs(), inputs_of(seen), strict=True))


def test_a_damaged_file_is_computed_again(kept, own_cache):
    point, calls = kept
    # A copy: what was read is the file's own pages.
    first = {name: value.clone() for name, value in inside.exact(point, Dtype.FLOAT32).tensors.items()}
    (path,) = (own_cache / "inside").glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    again = inside.exact(point, Dtype.FLOAT32)
    assert len(calls) == 2
    assert all(torch.equal(again.tensors[name], value) for name, value in first.items())


def test_for_an_unknown_architecture_the_reason_is_kept_and_told_without_another_try(kept, monkeypatch):
    point, calls = kept
    monkeypatch.setattr(places, "BLOCKS", ("decoder.stack",))
    for _ in range(2):
        with pytest.raises(NotApplicable, match=r"no blocks found in GPT2LMHeadModel \(looked for decoder\.stack"):
            inside.exact(point, Dtype.FLOAT32)
    assert len(calls) == 1


def test_a_model_that_is_not_float64_all_the_way_has_nothing_exact_inside(kept, monkeypatch):
    def refused(model, ids):
        raise NotGolden("not float64 all the way")

    point, calls = kept
    monkeypatch.setattr(inside, "assert_true_float64", refused)
    for _ in range(2):
        with pytest.raises(NoGolden, match="not float64 all the way"):
            inside.exact(point, Dtype.FLOAT32)
    assert len(calls) == 1


# Errors of what passes by --------------------------------------------------------------------------------------------


TOKENS = torch.tensor([[[3.0, 4.0], [6.0, 8.0], [0.0, 5.0]]], dtype=torch.float64)
EXPERTS = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
TO_THE_OTHER = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])


@pytest.fixture
def mixture():
    """Two blocks with two experts; every quantity of the residual stream is the same three tokens."""
    names = [f"blocks.{i}.{component}" for i in range(2) for component in ("resid_pre", "attn_out", "mlp_out")]
    tensors = dict.fromkeys([*names, "blocks.1.resid_post"], TOKENS)
    return Exact({**tensors, "blocks.0.routing": EXPERTS, "blocks.1.routing": EXPERTS}, 2, centres=False)


def test_of_a_fed_block_a_token_that_goes_to_the_wrong_expert_counts_nowhere_after_the_experts(mixture):
    value = TOKENS.clone()
    value[0, 1] = 1000  # the misrouted token
    value[0, 0, 0] += 1
    errors = Errors(mixture, fed=True)
    for name in ("resid_pre", "attn_out"):
        errors.see(f"blocks.0.{name}", value)
    errors.see("blocks.0.routing", TO_THE_OTHER)
    for name in ("mlp_out", "resid_post"):
        errors.see(f"blocks.0.{name}", value)
    assert errors.found["blocks.0.routing"] == pytest.approx(2 / 3)
    # One entry of four is wrong by 1, and the squares of the right ones are 9, 16, 0 and 25.
    without = pytest.approx(math.sqrt(1 / 50), rel=1e-12)
    assert errors.found["blocks.0.mlp_out"] == errors.found["blocks.0.resid_post"] == without
    # All six: errors of 1, 994 and 992, and 150 is the sum of squares.
    every = pytest.approx(math.sqrt((1 + 994**2 + 992**2) / 150), rel=1e-12)
    assert errors.found["blocks.0.resid_pre"] == errors.found["blocks.0.attn_out"] == every


def test_without_a_token_that_goes_to_the_right_experts_the_block_is_wrong(mixture):
    """Nothing is left to compare, which must not pass for right."""
    errors = Errors(mixture, fed=True)
    errors.see("blocks.0.resid_pre", TOKENS)
    errors.see("blocks.0.routing", 1 - EXPERTS)
    errors.see("blocks.0.mlp_out", TOKENS)
    assert errors.found == {"blocks.0.resid_pre": 0, "blocks.0.routing": 0, "blocks.0.mlp_out": math.inf}
    assert where(changed(profile(), "blocks.0.mlp_out", local=math.inf)) == (0, "mlp_out")


def test_in_the_next_block_every_token_counts_again_whether_it_has_experts_or_not(mixture):
    value = TOKENS.clone()
    value[0, 1] = 1000
    errors = Errors(mixture, fed=True)
    errors.see("blocks.0.resid_pre", TOKENS)
    errors.see("blocks.0.routing", TO_THE_OTHER)
    errors.see("blocks.1.resid_pre", TOKENS)
    errors.see("blocks.1.mlp_out", value)
    assert errors.found["blocks.1.mlp_out"] > 100
    errors.see("blocks.1.routing", EXPERTS)
    errors.see("blocks.1.resid_post", value)
    assert errors.found["blocks.1.routing"] == 1
    assert errors.found["blocks.1.resid_post"] > 100


def test_of_a_model_run_from_the_tokens_every_token_counts(mixture):
    value = TOKENS.clone()
    value[0, 1] = 1000
    errors = Errors(mixture, fed=False)
    errors.see("blocks.0.resid_pre", TOKENS)
    errors.see("blocks.0.routing", TO_THE_OTHER)
    errors.see("blocks.0.mlp_out", value)
    assert errors.found["blocks.0.routing"] == pytest.approx(2 / 3)
    assert errors.found["blocks.0.mlp_out"] > 100


def test_the_residual_stream_is_centred_where_norms_centre_and_logits_always():
    value = torch.tensor([[[1.0, 2.0, 4.0]]], dtype=torch.float64)
    tensors = dict.fromkeys(["blocks.0.attn_out", "blocks.0.ln1", "logits"], value)
    centring, other = (Exact(tensors, 1, centres=centres) for centres in (True, False))
    assert centring.error("blocks.0.attn_out", value + 1) == 0
    assert other.error("blocks.0.attn_out", value + 1) == pytest.approx(math.sqrt(3 / 21))
    for exact in (centring, other):
        assert exact.error("logits", value + 1) == 0
        assert exact.error("blocks.0.ln1", value + 1) == pytest.approx(math.sqrt(3 / 21))


def test_a_quantity_with_all_tokens_in_one_row_is_the_same_quantity(mixture):
    assert mixture.error("blocks.0.mlp_out", TOKENS.reshape(3, 2)) == 0


def test_a_quantity_of_another_shape_is_refused_with_both(mixture):
    with pytest.raises(CellFailed, match=r"blocks.0.mlp_out has shape \[1, 2, 2\], but the golden has shape \[1, 3"):
        mixture.error("blocks.0.mlp_out", TOKENS[:, :2])
    with pytest.raises(CellFailed, match="the golden has none"):
        mixture.error("blocks.0.ln2", TOKENS)


def test_experts_are_compared_whatever_the_order_in_which_they_are_named(mixture):
    assert torch.equal(mixture.expert_mask("blocks.0.routing", torch.tensor([[0], [0], [1]])), EXPERTS)
    pairs = Exact({"blocks.0.routing": torch.zeros(1, 2, 3, dtype=torch.float64)}, 1, centres=False)
    one, other = (pairs.expert_mask("blocks.0.routing", torch.tensor(k)) for k in ([[0, 2], [1, 2]], [[2, 0], [2, 1]]))
    assert torch.equal(one, other)
    assert one.tolist() == [[[1, 0, 1], [0, 1, 1]]]
