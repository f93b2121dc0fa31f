"""A folder that any transformers saved is read alike by every transformers under test, or what is misread is named."""

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tlbench import BadInput
from tlbench.checkpoints import byte_tokenizer, ensure, locate, store, zoo
from tlbench.checkpoints import derived as derived_folders
from tlbench.checkpoints.portable import misread_fields, misreading, portable_config
from tlbench.environments import lens_environment

ROOT = Path(__file__).resolve().parents[1]
RELEASES = {"4.57.6": "2.18.0", "5.9.0": "3.5.1"}
SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
GPT2_SIZES = {"vocab_size": 512, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"factor": 8.0, "original_max_position_embeddings": 32, "beta_fast": 16.0, "attention_factor": 1.3}
SHORT, LONG = [1.0 + i / 10 for i in range(8)], [2.0 + i / 2 for i in range(8)]
LONGROPE = {"factor": 3.0, "original_max_position_embeddings": 32, "short_factor": SHORT, "long_factor": LONG}
LOCAL = {"rope_type": "default", "rope_theta": 3000.0}


def rope(kind="default", theta=500000.0, **values):
    return {"rope_type": kind, "rope_theta": theta, **values}


def gemma3(full, sliding):
    layers = ["sliding_attention", "full_attention"]
    parameters = {"full_attention": full, "sliding_attention": sliding}
    return {"head_dim": 16, "sliding_window": 8, "layer_types": layers, "rope_parameters": parameters}


# As transformers 5 writes them: model type, and what its configuration is made with.
READ_ALIKE = {
    "llama-base": ("llama", {"rope_parameters": rope()}),
    "llama-linear": ("llama", {"rope_parameters": rope("linear", factor=4.0)}),
    "llama-llama3": ("llama", {"rope_parameters": rope("llama3", **LLAMA3)}),
    "llama-yarn": ("llama", {"rope_parameters": rope("yarn", **YARN)}),
    "llama-longrope": ("llama", {"rope_parameters": rope("longrope", **LONGROPE)}),
    "mistral-yarn": ("mistral", {"num_key_value_heads": 2, "sliding_window": 8, "rope_parameters": rope("yarn", **YARN)}),
    "olmo2-linear": ("olmo2", {"rope_parameters": rope("linear", factor=4.0)}),
    "falcon-dynamic": ("falcon", {"max_position_embeddings": 32, "rope_parameters": rope("dynamic", factor=4.0)}),
    "gpt_neox-partial": ("gpt_neox", {"rope_parameters": rope("linear", factor=4.0, partial_rotary_factor=0.5)}),
    "phi-partial": ("phi", {"rope_parameters": rope(partial_rotary_factor=0.25)}),
    "phi-partial-scaled": ("phi", {"rope_parameters": rope("linear", factor=4.0, partial_rotary_factor=0.25)}),
    "phi3-longrope": (
        "phi3",
        {
            "original_max_position_embeddings": 32,
            "pad_token_id": 0,
            "rope_parameters": rope("longrope", partial_rotary_factor=1.0, **{**LONGROPE, "factor": 8.0}),
        },
    ),
    "gemma3-scaled": ("gemma3_text", gemma3(rope("linear", factor=4.0), LOCAL)),
    "gpt2": ("gpt2", GPT2_SIZES),
}
# No configuration of 4.57 says these.
MISREAD = {
    "gemma3-local-scaled": ("gemma3_text", gemma3(rope(), rope("linear", factor=4.0))),
    "olmo2-yarn": ("olmo2", {"rope_parameters": rope("yarn", **YARN)}),
}
LOGITS = """
import sys, torch, transformers
from pathlib import Path
from tlbench import Dtype
from tlbench.checkpoints.portable import misread_fields
from tlbench.reference.huggingface import load_model
torch.set_num_threads(1)
ids = torch.arange(1, 129).reshape(2, 64) * 3 % 512
found = {}
for folder in map(Path, sys.argv[2:]):
    with torch.inference_mode():
        found[folder.name] = load_model(folder, Dtype.FLOAT32)(ids, use_cache=False).logits, misread_fields(folder)
torch.save((transformers.__version__, found), sys.argv[1])
"""
IN_TRANSFORMER_LENS = """
import sys
from pathlib import Path
from tlbench import catalogue
from tlbench.grid import Dtype, Option
from tlbench.checkpoints import locate
from tlbench.lens.hooked import load_hooked_transformer
models = catalogue.load()
model = load_hooked_transformer(locate(models.get("mine"), models), Dtype.FLOAT32, Option.UNPROCESSED).model
print("n_ctx", model.cfg.n_ctx)
"""


def _sized(case):
    kind, values = case
    return kind, values if kind == "gpt2" else {**SIZES, **values}


def save(case, folder):
    """A random model of a case, saved by this environment's transformers 5."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, _ = case
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **json.loads(json.dumps(_sized(case)[1])))
    model = AutoModelForCausalLM.from_config(config).float()
    for parameter in model.parameters():
        # Wide enough that the scores of attention depend on positions.
        parameter.data += torch.randn(parameter.shape) * (0.2 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    (folder / "prompts.json").write_text(json.dumps({"natural": [[1, 2, 3]], "origin": [[1, 2, 3]]}))
    return folder


def in_release(release, script, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    words = [str(lens_environment(release).python), "-c", script, *map(str, arguments)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def local(write_catalogue, folder, hooked_name="gpt2"):
    entry = f'[[model]]\nname = "mine"\nsource = "local"\npath = "{folder}"\nhooked_name = "{hooked_name}"\n'
    models = write_catalogue(entry)
    return models, models.get("mine")


@pytest.fixture
def theirs(tmp_path):
    """A user's folder, saved by transformers 5, with a tokenizer."""
    folder = save(READ_ALIKE["llama-base"], tmp_path / "theirs")
    for name, text in byte_tokenizer.files().items():
        (folder / name).write_text(text)
    return folder


# The translation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", zoo.families())
def test_the_zoo_s_configurations_are_portable_as_they_are(family):
    config = zoo.families()[family]().config
    assert portable_config(config) == config


@pytest.mark.parametrize("case", READ_ALIKE)
def test_translating_twice_changes_nothing_more(case):
    kind, values = _sized(READ_ALIKE[case])
    once = portable_config({"model_type": kind, **values})
    assert portable_config(once) == once
    assert "rope_parameters" not in once


@pytest.mark.parametrize("case", READ_ALIKE)
def test_transformers_5_reads_the_translation_as_the_original(case, tmp_path):
    from transformers import AutoConfig

    folder = save(READ_ALIKE[case], tmp_path / "original")
    (tmp_path / "portable").mkdir()
    translated = portable_config(json.loads((folder / "config.json").read_text()))
    (tmp_path / "portable" / "config.json").write_text(json.dumps(translated))
    original, portable = (AutoConfig.from_pretrained(tmp_path / name).to_dict() for name in ("original", "portable"))
    rotary = [config.pop("rope_parameters", {}) for config in (original, portable)]
    if case == "phi3-longrope":
        # 4.57 has no place for its factor, which is the ratio of the two contexts wherever it is left out.
        assert rotary[0].pop("factor") == original["max_position_embeddings"] / original["original_max_position_embeddings"]
    # What is added is derived: longrope's attention factor, and the old name of the kind.
    assert rotary[0].items() <= rotary[1].items()
    assert {key: portable[key] for key in original if key != "_name_or_path"} == {
        key: value for key, value in original.items() if key != "_name_or_path"
    }


def test_a_rotary_base_stands_where_transformers_4_reads_it():
    config = portable_config({"model_type": "llama", "rope_parameters": rope()})
    assert config == {"model_type": "llama", "rope_theta": 500000.0}


def test_a_neox_s_rotary_base_and_share_have_its_own_names():
    config = portable_config({"model_type": "gpt_neox", "rope_parameters": rope(partial_rotary_factor=0.5)})
    assert config == {"model_type": "gpt_neox", "rotary_emb_base": 500000.0, "rotary_pct": 0.5}


def test_gemma_3_s_layers_each_keep_their_base_and_only_the_full_ones_are_scaled():
    config = portable_config({"model_type": "gemma3_text", **gemma3(rope("linear", factor=4.0), LOCAL)})
    assert (config["rope_theta"], config["rope_local_base_freq"]) == (500000.0, 3000.0)
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}


def test_a_text_model_within_another_is_translated_too():
    config = portable_config({"model_type": "gemma3", "text_config": {"model_type": "llama", "rope_parameters": rope()}})
    assert config["text_config"] == {"model_type": "llama", "rope_theta": 500000.0}


@pytest.mark.parametrize("case", MISREAD)
def test_what_transformers_4_has_no_words_for_is_left_as_transformers_5_reads_it(case):
    kind, values = MISREAD[case]
    assert portable_config({"model_type": kind, **values}) == {"model_type": kind, **values}


def test_a_model_that_transformers_4_lacks_is_left_as_it_is():
    config = {"model_type": "cohere2_moe", "rope_parameters": rope("linear", factor=4.0)}
    assert portable_config(config) == config


def test_the_dtype_has_its_old_name_too_and_gpt_2_its_context():
    config = portable_config({"model_type": "gpt2", "n_positions": 64, "dtype": "float16"})
    assert (config["torch_dtype"], config["n_ctx"]) == ("float16", 64)


# The derived folder --------------------------------------------------------------------------------------------------


def test_the_user_s_folder_is_read_through_links_and_never_written(own_cache, write_catalogue, theirs):
    before = {path.name: path.read_bytes() for path in theirs.iterdir()}
    theirs.chmod(stat.S_IRUSR | stat.S_IXUSR)
    models, model = local(write_catalogue, theirs)
    checkpoint = ensure(model, models)
    theirs.chmod(0o755)
    assert checkpoint.folder.is_relative_to(own_cache)
    assert json.loads((checkpoint.folder / "config.json").read_text())["rope_theta"] == 500000.0
    assert (checkpoint.folder / "model.safetensors").samefile(theirs / "model.safetensors")
    assert {path.name for path in checkpoint.folder.iterdir()} == set(before)
    assert {path.name: path.read_bytes() for path in theirs.iterdir()} == before
    assert locate(model, models) == checkpoint


def test_a_portable_folder_is_read_as_it_is(own_cache, write_catalogue, theirs):
    config = theirs / "config.json"
    config.write_text(json.dumps(portable_config(json.loads(config.read_text()))))
    models, model = local(write_catalogue, theirs)
    assert ensure(model, models).folder == theirs
    assert store.DERIVED not in json.loads(models.lock_path.read_text())["mine"]


def test_an_altered_derived_configuration_is_found_and_mended(own_cache, write_catalogue, theirs):
    models, model = local(write_catalogue, theirs)
    checkpoint = ensure(model, models)
    config = checkpoint.folder / "config.json"
    config.write_text(config.read_text().replace("500000", "10000"))
    with pytest.raises(BadInput, match=r"missing or altered file .*config.json: run `tlbench checkpoints mine`"):
        locate(model, models)
    assert ensure(model, models) == checkpoint
    assert "500000" in config.read_text()


def test_a_link_that_leads_to_other_weights_is_found(own_cache, write_catalogue, theirs, tmp_path):
    models, model = local(write_catalogue, theirs)
    link = ensure(model, models).folder / "model.safetensors"
    other = tmp_path / "other.safetensors"
    other.write_bytes((theirs / "model.safetensors").read_bytes()[:-1] + b"x")
    link.unlink()
    link.symlink_to(other)
    with pytest.raises(BadInput, match=r"missing or altered file .*model.safetensors"):
        locate(model, models)


def test_weights_of_the_user_s_folder_must_not_change_behind_the_links(own_cache, write_catalogue, theirs):
    models, model = local(write_catalogue, theirs)
    ensure(model, models)
    weights = theirs / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(BadInput, match=r"model.safetensors is truncated or altered"):
        locate(model, models)


def test_a_changed_configuration_of_the_user_s_folder_is_told_before_it_is_pinned(own_cache, write_catalogue, theirs):
    models, model = local(write_catalogue, theirs)
    ensure(model, models)
    pinned = models.lock_path.read_text()
    config = theirs / "config.json"
    config.write_text(config.read_text().replace("500000", "10000"))
    with pytest.raises(BadInput, match=r"config.json is truncated or altered"):
        ensure(model, models)
    assert models.lock_path.read_text() == pinned


def test_a_folder_without_a_tokenizer_is_given_the_one_of_bytes_and_one_with_any_keeps_its_own(
    own_cache, write_catalogue, theirs
):
    (theirs / "tokenizer.json").write_text("its own")
    models, model = local(write_catalogue, theirs)
    assert (ensure(model, models).folder / "tokenizer.json").read_text() == "its own"
    for name in byte_tokenizer.files():
        (theirs / name).unlink()
    models.lock_path.unlink()
    without = ensure(model, models)
    assert (without.folder / "tokenizer.json").read_text() == byte_tokenizer.files()["tokenizer.json"]
    assert not (theirs / "tokenizer.json").exists()
    (without.folder / "tokenizer.json").write_text("another")
    assert ensure(model, models) == without
    assert (without.folder / "tokenizer.json").read_text() == byte_tokenizer.files()["tokenizer.json"]


def test_another_translation_is_another_checkpoint_and_is_told(own_cache, write_catalogue, theirs, monkeypatch):
    models, model = local(write_catalogue, theirs)
    before = ensure(model, models)
    monkeypatch.setattr(derived_folders, "portable_config", lambda config: {**portable_config(config), "new": 1})
    with pytest.raises(BadInput, match="does not match its pin"):
        locate(model, models)
    assert ensure(model, models).sha256 != before.sha256


@pytest.mark.parametrize("refused", [("symlink_to",), ("symlink_to", "link")])
def test_without_symbolic_links_there_are_hard_ones_or_copies(own_cache, write_catalogue, theirs, monkeypatch, refused):
    def refuse(*_, **__):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    if "link" in refused:
        monkeypatch.setattr(os, "link", refuse)
    models, model = local(write_catalogue, theirs)
    folder = ensure(model, models).folder
    weights = folder / "model.safetensors"
    assert not weights.is_symlink()
    assert weights.read_bytes() == (theirs / "model.safetensors").read_bytes()
    assert weights.samefile(theirs / "model.safetensors") is ("link" not in refused)


def test_an_interrupted_derivation_leaves_nothing_and_is_made_again(own_cache, write_catalogue, theirs, monkeypatch):
    models, model = local(write_catalogue, theirs)
    with monkeypatch.context() as patch:

        def interrupt(*_):
            raise KeyboardInterrupt

        patch.setattr(derived_folders, "_link", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ensure(model, models)
    assert not list((own_cache / "portable").iterdir())
    assert ensure(model, models).folder.is_dir()


def test_a_configuration_that_is_not_json_is_told(own_cache, write_catalogue, theirs):
    (theirs / "config.json").write_text("{")
    models, model = local(write_catalogue, theirs)
    with pytest.raises(BadInput, match=r"invalid JSON in .*config.json"):
        ensure(model, models)


# What is misread -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", {**READ_ALIKE, **MISREAD})
def test_transformers_5_misreads_nothing_of_what_it_saved(case, tmp_path):
    assert misread_fields(save({**READ_ALIKE, **MISREAD}[case], tmp_path / "model")) == []
    assert misreading(tmp_path / "model") == ""


def test_a_field_that_changes_the_logits_and_that_no_class_knows_is_told(theirs):
    config = json.loads((theirs / "config.json").read_text())
    (theirs / "config.json").write_text(json.dumps({**config, "attn_logit_softcapping": 20.0}))
    assert misread_fields(theirs) == ["ignores attn_logit_softcapping, which the file says is 20.0"]


@pytest.fixture(scope="module")
def eras(tmp_path_factory):
    """Logits and misread fields by transformers' version and folder: originals, and their translations ``NAME portable``."""
    import torch

    root = tmp_path_factory.mktemp("eras")
    folders = [save(case, root / name) for name, case in {**READ_ALIKE, **MISREAD}.items()]
    for folder in folders[: len(READ_ALIKE)]:
        portable = shutil.copytree(folder, root / f"{folder.name} portable")
        config = portable / "config.json"
        config.write_text(json.dumps(portable_config(json.loads(config.read_text()))))
        folders.append(portable)
    found = {}
    for version, release in RELEASES.items():
        # 5.9 fails of itself on a Phi with a share other than its own and scaling.
        read = [folder for folder in folders if version == "4.57.6" or folder.name != "phi-partial-scaled"]
        in_release(release, LOGITS, root / version, *read)
        told, found[version] = torch.load(root / version)
        assert told == version
    subprocess.run([ROOT / ".venv" / "bin" / "python", "-c", LOGITS, root / "5", *folders], cwd=ROOT, check=True)
    found["here"] = torch.load(root / "5")[1]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", READ_ALIKE)
@pytest.mark.parametrize("version", RELEASES)
def test_huggingface_s_logits_of_the_translation_are_the_same_bits_in_every_era(eras, version, case):
    expected, _ = eras["here"][case]
    logits, misread = eras[version][f"{case} portable"]
    assert logits.equal(expected)
    assert misread == []


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in {**READ_ALIKE, **MISREAD} if case != "gpt2"])
def test_transformers_4_misreads_the_original_by_far_more_than_rounding_and_it_is_told(eras, case):
    expected, _ = eras["here"][case]
    logits, misread = eras["4.57.6"][case]
    assert (logits - expected).abs().max() > 1e-2
    assert misread


@pytest.mark.slow
def test_what_is_misread_is_told_with_both_values(eras):
    assert eras["4.57.6"]["llama-base"][1] == ["takes rope_theta 10000.0 where the file says 500000.0"]


@pytest.mark.slow
def test_a_gpt_2_that_transformers_5_saved_loads_in_an_old_transformer_lens(own_cache, write_catalogue, tmp_path):
    models, model = local(write_catalogue, save(READ_ALIKE["gpt2"], tmp_path / "theirs"))
    ensure(model, models)
    assert "n_ctx 256" in in_release("2.18.0", IN_TRANSFORMER_LENS)
