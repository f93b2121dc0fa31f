"""Canaries of transformers, on one small model of each architecture in the zoo."""

import copy
import importlib.util
import json
import re
import sys
from functools import cache

import pytest

from tests.canaries import canary
from tlbench.checkpoints import zoo

FAMILIES = tuple(zoo.families())
UNBLOCKED = ("gpt-neo", "bloom", "gpt-j")
"""Their modeling files have no eager_attention_forward."""
WITHOUT_ROTARY = ("gpt2", "gpt-neo", "bloom", "opt")
POST_NORMS = ("gemma2", "gemma3", "olmo2")
ONE_NORM = ("gpt-j", "phi")
"""Attention and MLP share a norm."""
VALUE_BIASES = ("gpt2", "bloom", "gpt-neox", "phi", "opt", "stablelm", "qwen2")


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small are slower with more."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def checkpoint(family):
    from tlbench import catalogue
    from tlbench.checkpoints import ensure

    models = catalogue.load()
    return ensure(models.get(f"zoo-{family}"), models)


@cache
def float32(family):
    """HuggingFace's model; tests must not change it."""
    from tlbench.reference.huggingface import load_model

    return load_model(checkpoint(family).folder, "float32")


@cache
def float64(family):
    from tlbench.reference.golden import Weights, load_exact

    return load_exact(checkpoint(family).folder, Weights.FLOAT32)


def tokens(family):
    from tlbench.reference import huggingface

    return huggingface.tokens(checkpoint(family), "natural")[:, :12]


def logits(model, ids):
    import torch

    with torch.inference_mode():
        return model(ids, use_cache=False).logits


# Attention, experts, rotary positions --------------------------------------------------------------------------------


@canary("transformers changed eager_attention_forward, or where attention looks it up", "tlbench/reference/blocked.py")
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in UNBLOCKED])
def test_attention_looks_its_eager_function_up_in_the_modeling_file(family, monkeypatch):
    import torch

    from tlbench.reference.blocked import EAGER, in_blocks

    model, ids, calls = float32(family), tokens(family), []
    modeling = sys.modules[type(model).__module__]
    own = getattr(modeling, EAGER)
    whole = logits(model, ids)
    monkeypatch.setattr(modeling, EAGER, lambda *given, **named: calls.append(given) or own(*given, **named))
    with in_blocks(model, queries=5):
        blocked = logits(model, ids)
    assert len(calls) == 3 * model.config.num_hidden_layers
    assert torch.allclose(whole, blocked, atol=1e-4)


@canary("transformers changed experts_implementation: a mixture cannot run in float64", "tlbench/reference/golden.py")
def test_a_mixture_with_eager_experts_runs_in_float64():
    import torch

    model = float64("mixtral")
    assert torch.allclose(logits(model, tokens("mixtral")).float(), logits(float32("mixtral"), tokens("mixtral")), atol=1e-3)


@canary(
    "transformers changed config._experts_implementation: a loaded mixture cannot be widened", "tlbench/lens/interface.py"
)
def test_a_loaded_mixture_can_switch_to_eager_experts():
    import torch

    from tlbench.lens import Lens
    from tlbench.reference.float64 import true_float64

    model = copy.deepcopy(float32("mixtral"))
    assert model.config._experts_implementation not in (None, "", "eager")
    Lens(None, 0, model, None, None, None).widen()
    with true_float64():
        assert logits(model, tokens("mixtral")).dtype is torch.float64


@canary("transformers renamed its rotary buffers, or no longer reads them", "tlbench/reference/golden.py")
@pytest.mark.parametrize("family", FAMILIES)
def test_rotary_tables_are_buffers_of_known_names_that_the_model_reads(family):
    import torch

    from tlbench.reference.golden import ROTARY_TABLES, round_rotary_tables

    model, ids = copy.deepcopy(float64(family)), tokens(family)
    assert round_rotary_tables(model) is (family not in WITHOUT_ROTARY)
    before = logits(model, ids)
    for name, buffer in model.named_buffers():
        if name.endswith(ROTARY_TABLES):
            buffer.mul_(0.5)
    assert torch.equal(logits(model, ids), before) is (family in WITHOUT_ROTARY)


@canary("transformers rounds where torch cannot intercept it", "tlbench/reference/float64.py")
@pytest.mark.parametrize("family", ["gpt2", "bloom", "gpt-j", "gemma3", "mixtral"])
def test_a_model_in_float64_is_float64_all_the_way(family):
    from tlbench.reference.float64 import assert_true_float64

    assert assert_true_float64(float64(family), tokens(family)).passed


@canary("transformers' routers no longer choose by torch.topk", "tlbench/reference/routing.py")
def test_a_router_chooses_by_topk():
    from tlbench.reference.routing import margins

    model, ids = float64("mixtral"), tokens("mixtral")
    assert margins(model, ids, lambda: logits(model, ids)).isfinite().all()


# Modules, tlbench/reference/sites.py and attribution.py --------------------------------------------------------------


@canary("transformers renamed modules, or changed what they return", "tlbench/reference/sites.py")
@pytest.mark.parametrize("family", FAMILIES)
def test_what_attention_and_mlp_add_to_a_block_s_input_is_its_output(family):
    import torch

    from tlbench.components import LN_FINAL, ROUTING, Component, site
    from tlbench.reference.sites import watching

    model, seen = float32(family), {}
    blocks = range(model.config.num_hidden_layers)
    with torch.inference_mode(), watching(model, lambda name, value: seen.update({name: value.clone()})):
        model(tokens(family), use_cache=False, output_attentions=True)
    absent = {Component.CROSS_ATTN_OUT, Component.MIXER_OUT}  # of a decoder that reads an encoder, and of a state space
    absent |= {Component.LN2} if family in ONE_NORM else {Component.LN1, Component.LN2} if family == "olmo2" else set()
    parts = [*(component for component in Component if component not in absent), *[ROUTING] * (family == "mixtral")]
    assert seen.keys() == {LN_FINAL, *(site(block, part) for block in blocks for part in parts)}
    for block in blocks:
        of = {component: seen[site(block, component)] for component in parts}
        added = of[Component.RESID_PRE] + of[Component.ATTN_OUT] + of[Component.MLP_OUT]
        assert torch.allclose(added, of[Component.RESID_POST], rtol=1e-4, atol=1e-4)
        assert torch.allclose(of[Component.PATTERN].sum(-1), torch.ones(()), atol=1e-5)
        if ROUTING in of:
            assert (of[ROUTING].sum(-1) == 2).all()


@canary(
    "transformers changed its norms: the name of eps, or whether one is added to the weight",
    "tlbench/reference/attribution.py",
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_norm_is_normalised_input_times_gain_plus_bias(family):
    import torch

    from tlbench.reference.attribution import gain
    from tlbench.reference.sites import normalised, sites

    places = sites(float32(family))
    x = torch.linspace(-2, 3, 64)[None, None]
    for norm in (places.ln_final, *(block.ln1 for block in places.blocks if block.ln1 is not None)):
        bias = getattr(norm, "bias", None)
        expected = normalised(x, norm) * gain(norm) + (0 if bias is None else bias.double())
        assert torch.allclose(norm(x).double(), expected, rtol=1e-4, atol=1e-5)


@canary("transformers changed the layout of attention's value and output projections", "tlbench/reference/attribution.py")
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in POST_NORMS])
def test_heads_that_read_zeros_add_what_their_value_biases_add(family):
    import torch

    from tlbench.reference import attribution
    from tlbench.reference.sites import sites

    model, ids = copy.deepcopy(float32(family)), tokens(family)
    for block in sites(model).blocks:
        block.ln1.weight.data.fill_(-1.0 if family == "gemma" else 0.0)
        if getattr(block.ln1, "bias", None) is not None:
            block.ln1.bias.data.zero_()
    parts = attribution.head_attribution(model, ids, torch.tensor([[1, 2]] * len(ids)))
    assert torch.allclose(parts[attribution.HEADS], parts[attribution.VALUE_BIASES], atol=1e-4)
    assert bool(parts[attribution.HEADS].abs().max() > 1e-3) is (family in VALUE_BIASES)


# Loading -------------------------------------------------------------------------------------------------------------


@canary("transformers no longer loads parameters by their names on the hub", "tlbench/checkpoints/zoo.py")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_of_a_checkpoint_is_loaded_and_none_is_initialised(family):
    from transformers import AutoModelForCausalLM

    folder = checkpoint(family).folder
    _, info = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


ROPE = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "attention_factor": 1.3},
}
WORDS = {
    **{family: {} for family in FAMILIES},
    **{f"llama, {kind}": {"rope_theta": 12345.0, "rope_scaling": scaling} for kind, scaling in ROPE.items()},
    "gpt-neox, partial": {"rotary_emb_base": 12345, "rotary_pct": 0.5},
    "phi, partial": {"rope_theta": 12345.0, "partial_rotary_factor": 0.25},
    "gemma3, scaled": {
        "rope_theta": 12345.0,
        "rope_local_base_freq": 321.0,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    },
}
"""A family, and fields to add to its config.json, in the form of transformers 4.57."""


@canary("transformers no longer reads the config.json of 4.57", "tlbench/checkpoints/portable.py")
@pytest.mark.parametrize("case", WORDS)
def test_a_configuration_in_the_old_form_is_read_as_it_stands(case, tmp_path):
    from tlbench.checkpoints.portable import misread_fields

    config = zoo.families()[case.split(",", maxsplit=1)[0]]().config | WORDS[case]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert misread_fields(tmp_path) == []


@canary("transformers changed how configurations declare their fields", "tlbench/checkpoints/portable.py")
def test_an_undeclared_field_is_reported(tmp_path):
    from tlbench.checkpoints.portable import misread_fields

    config = zoo.families()["llama"]().config | {"residual_multiplier": 2.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert misread_fields(tmp_path) == ["ignores residual_multiplier, which the file says is 2.0"]


@canary("transformers changed config.rope_parameters", "tlbench/checkpoints/making.py")
def test_rope_parameters_holds_the_rotary_base():
    assert float32("llama").config.rope_parameters["rope_theta"] == zoo.families()["llama"]().config["rope_theta"]


@canary("transformers changed how it reads a tokenizer, or backend_tokenizer", "tlbench/checkpoints/byte_tokenizer.py")
def test_the_handwritten_tokenizer_has_one_token_per_byte(tmp_path):
    from transformers import AutoTokenizer

    from tlbench.checkpoints import byte_tokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint("gpt2").folder)
    text = "Ein Wort, naïve: 12 €"
    assert tokenizer(text, add_special_tokens=False).input_ids == byte_tokenizer.encode(text)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == byte_tokenizer.SPECIALS
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert "model" in json.loads((tmp_path / "tokenizer.json").read_text())


@canary("transformers changed its error for a model that is no causal language model", "tlbench/reference/huggingface.py")
def test_a_model_that_is_no_causal_language_model_is_refused(tmp_path):
    from tlbench.exceptions import CellFailed
    from tlbench.reference.huggingface import language_model

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(CellFailed, match="no causal language model"):
        language_model(tmp_path)


@canary("transformers changed conversion_mapping: every fork builds it again", "tlbench/reference/preload.py")
def test_the_conversion_mapping_is_built_once(monkeypatch):
    from transformers import conversion_mapping

    from tlbench.reference.huggingface import load_model

    conversion_mapping.get_checkpoint_conversion_mapping("llama")
    compile_one, expressions = re.compile, []
    monkeypatch.setattr(re, "compile", lambda *given: expressions.append(given) or compile_one(*given))
    load_model(checkpoint("llama").folder, "float32")
    assert len(expressions) < 500  # 118 with the mapping there, 1162 without


@canary("transformers moved modules that a server imports before it forks", "tlbench/reference/preload.py")
def test_the_modules_that_a_server_imports_exist():
    from tlbench.reference.preload import MODULES

    assert [name for name in MODULES if importlib.util.find_spec(name) is None] == []


@canary("transformers moved the modules whose import is timed", "tlbench/costs/slowdown.py")
def test_the_modules_whose_import_is_timed_exist():
    from tlbench.costs.slowdown import IMPORTS

    names = IMPORTS[1].removeprefix("import ").split(", ")
    assert [name for name in names if importlib.util.find_spec(name) is None] == []


# Calling -------------------------------------------------------------------------------------------------------------


@canary("transformers changed logits_to_keep: it no longer takes positions", "tlbench/reference/lengths.py")
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_logits_are_computed_at_the_requested_positions(family):
    import torch

    model, ids, positions = float32(family), tokens(family)[:1], [0, 3, 11]
    with torch.inference_mode():
        at_positions = model(ids, use_cache=False, logits_to_keep=torch.tensor(positions)).logits[0]
    assert len(at_positions) == len(positions)
    assert torch.allclose(at_positions, logits(model, ids)[0, positions], atol=1e-5)


@canary("transformers changed past_key_values: a step no longer gets the cache", "tlbench/reference/activations.py")
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_steps_with_the_cache_give_the_logits_of_a_forward_pass(family):
    from tlbench.reference.activations import STEPS, _generated

    assert _generated(float32(family), tokens(family))[STEPS].max() < 1e-3


@canary(
    "transformers changed CONFIG_MAPPING, or configurations are no longer dataclasses", "tlbench/checkpoints/configured.py"
)
def test_a_small_configuration_can_be_made_of_an_architecture_s_name():
    from tlbench.catalogue import Model, Source
    from tlbench.checkpoints.configured import SIZES, configuration

    config = configuration(Model("small", Source.CONFIG, model_type="llama"))
    assert (config.hidden_size, config.vocab_size) == (SIZES["hidden_size"], SIZES["vocab_size"])
