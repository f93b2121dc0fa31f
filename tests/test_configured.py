"""A model is a configuration and no code: its bytes are pinned, nothing in it is neutral, and what is unknown is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from tlbench import BadInput, catalogue
from tlbench.catalogue import Model, Source, Task
from tlbench.checkpoints import configured, ensure, store
from tlbench.checkpoints.inputs import automatic_class
from tlbench.checkpoints.roles import GAINS, Role
from tlbench.reference.float64 import assert_true_float64
from tlbench.reference.golden import Weights, load_exact

ENTRIES = [model for model in catalogue.load().every if model.source is Source.CONFIG]
NAMES = [model.name for model in ENTRIES]
LLAMA = Model("mine", Source.CONFIG, model_type="llama")


def entry(name):
    return catalogue.load().get(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zoo-falcon-40b", "zoo-deepseek_v3", "zoo-jamba"])
def test_the_bytes_are_the_pinned_ones(own_cache, name):
    models = catalogue.load()
    checkpoint = ensure(models.get(name), models)
    pinned = json.loads(models.lock_path.read_text())[name]
    assert store.hashes(checkpoint.model, checkpoint.folder, checkpoint.folder / "prompts.json") == pinned


def test_the_grid_leaves_them_out_unless_told(monkeypatch):
    monkeypatch.delenv(catalogue.FURTHER_VARIABLE, raising=False)
    assert not set(NAMES) & set(catalogue.load().names())
    monkeypatch.setenv(catalogue.FURTHER_VARIABLE, "1")
    assert set(NAMES) < set(catalogue.load().names())


def test_a_checkpoint_has_the_names_of_the_hub(own_cache):
    models = catalogue.load()
    folder = ensure(models.get("zoo-mixtral-window"), models).folder
    with safe_open(folder / "model.safetensors", "np") as tensors:
        assert "model.layers.0.block_sparse_moe.experts.0.w1.weight" in tensors.keys()  # noqa: SIM118


def test_a_parameter_without_a_role_is_refused_by_name_and_shape():
    built = configured.build(LLAMA)
    built.model.layers[1].mystery = nn.Parameter(torch.rand(3, 5))
    with pytest.raises(
        BadInput, match=r"1 parameters is not recognised.*model.layers.1.mystery \[3, 5\] of LlamaDecoderLayer"
    ):
        configured.roles(LLAMA, built)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "lama"}, r"no model type 'lama': the nearest: .*llama"),
        ({"config": {"rope_thetas": 1.0}}, "LlamaConfig has no field rope_thetas: the nearest: "),
        ({"config": {"num_attention_heads": 0}}, r"cannot build a llama of this config \(\w*Error: .*correct the entry"),
        ({"model_type": "t5"}, r"cannot build a t5 of this config"),
    ],
)
def test_what_transformers_cannot_build_is_a_sentence(change, said):
    with pytest.raises(BadInput, match=said):
        configured.build(replace(LLAMA, **change))


def test_an_unembedding_is_its_own_if_the_entry_says_so_though_the_class_ties_it():
    t5 = Model("mine", Source.CONFIG, model_type="t5", task=Task.ENCODER_DECODER, config={"num_heads": 4, "num_layers": 1})
    for config, is_tied in ((t5.config, True), ({**t5.config, "tie_word_embeddings": False}, False)):
        built = configured.build(replace(t5, config=config))
        assert (built.lm_head.weight is built.shared.weight) is is_tied


def test_none_is_written_as_a_word():
    assert configured.configuration(replace(LLAMA, model_type="mistral")).sliding_window == configured.WINDOW
    windowless = replace(LLAMA, model_type="mistral", config={"sliding_window": "none"})
    assert configured.configuration(windowless).sliding_window is None


def test_another_seed_draws_other_values():
    first, second = (
        {parameter.name: values for parameter, _, values in configured.drawn(LLAMA, configured.build(LLAMA), seed)}
        for seed in ("one", "two")
    )
    assert all(not np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_neutral(name):
    model = entry(name)
    for parameter, role, values in configured.drawn(model, configured.build(model), name):
        assert np.isfinite(values).all()
        if role in GAINS:
            gains = values + ("less one" in role)
            assert np.abs(gains - 1).max() > (0.2 if gains.size > 1 else 0.01), parameter.name
        elif role is not Role.EXPERT_TABLE:
            assert (values != 0).mean() > 0.99, parameter.name
        if values.size > 1:
            assert values.std() > 1e-3, parameter.name
        assert not np.array_equal(values, parameter.initial.numpy()), parameter.name


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_huggingface_loads_every_parameter_and_no_other_and_the_logits_are_a_trained_model_s(name):
    models = catalogue.load()
    checkpoint = ensure(models.get(name), models)
    model, loading = automatic_class(checkpoint.inputs.task).from_pretrained(
        checkpoint.folder, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
    )
    assert not {name for names in loading.values() for name in names} - {"lm_head.weight"}
    with torch.inference_mode():
        reads = checkpoint.inputs.named(torch.tensor(checkpoint.prompts.natural))
        logits = model.eval()(**reads, use_cache=False).logits.double()
    assert 1 < logits.std(dim=-1).mean() < 12
    assert checkpoint.parameters * 4 < 2 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_golden_is_float64_throughout(name):
    models = catalogue.load()
    checkpoint = ensure(models.get(name), models)
    model = checkpoint.inputs.attached(load_exact(checkpoint.folder, Weights.ORIGINAL))
    check = assert_true_float64(model, torch.tensor(checkpoint.prompts.natural))
    assert check.noise < 1e-12
