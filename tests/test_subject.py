"""A model that is named on the command line, and is in no catalogue."""

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest

from tests import command
from tlbench import BadInput, catalogue
from tlbench.checkpoints import ensure
from tlbench.cli.subject import prepared
from tlbench.exceptions import CheckpointUnavailable


@pytest.fixture
def folder(tmp_path):
    models = catalogue.load()
    found = tmp_path / "my model"
    shutil.copytree(ensure(models.get("zoo-gpt2"), models).folder, found)
    return found


def test_within_the_block_the_catalogue_in_use_has_the_model_and_afterwards_not(folder):
    before = catalogue.load().names()
    with prepared(str(folder)) as (checkpoint, used):
        assert [checkpoint.model.name] == used.names() == catalogue.load().names()
        assert checkpoint.model.name not in before
    assert catalogue.load().names() == before


def test_two_runs_of_one_folder_wait_for_each_other(folder):
    entered, leave, order = threading.Event(), threading.Event(), []

    def first():
        with prepared(str(folder)):
            entered.set()
            leave.wait(60)
            order.append("first left")

    def second():
        with prepared(str(folder), say=lambda what: waiting.set() if what.startswith("waiting") else None):
            order.append("second entered")

    waiting = threading.Event()
    one, two = threading.Thread(target=first), threading.Thread(target=second)
    one.start()
    assert entered.wait(60)
    two.start()
    assert waiting.wait(60)
    two.join(0.3)
    assert order == []
    leave.set()
    one.join(60)
    two.join(60)
    assert order == ["first left", "second entered"]


ODD_NAMES = ["my model", "🤖", "👨‍👩‍👧", "日本語", "[red]a [b", 'it\'s "quoted" \\ 100 %', "a\nb\x7f\x1b", "-x"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_folder_may_have_any_name(folder, name):
    odd = folder.rename(folder.with_name(name))
    with prepared(str(odd)) as (checkpoint, used):
        assert checkpoint.folder == odd
        assert Path(used.models[0].path) == odd


def test_a_folder_whose_name_is_not_utf_8_is_refused_in_a_sentence(folder):
    odd = folder.rename(folder.with_name("a\udc80"))
    with pytest.raises(BadInput, match="is not UTF-8, which transformers needs: rename it"), prepared(str(odd)):
        pass


def test_a_folder_needs_no_slash(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    with prepared(folder.name) as (checkpoint, _):
        assert checkpoint.folder == folder


def test_a_file_is_told_from_a_folder(folder):
    with pytest.raises(BadInput, match=r"config.json is a file: name its folder"), prepared(str(folder / "config.json")):
        pass


def test_a_folder_that_is_not_there_is_told_even_if_its_name_could_be_one_on_the_hub(tmp_path, monkeypatch, own_cache):
    monkeypatch.chdir(tmp_path)
    missing = str(tmp_path / "models" / "my-gpt2")
    with pytest.raises(CheckpointUnavailable, match=f"and there is no folder {missing}$"), prepared("models/my-gpt2"):
        pass


def test_a_revision_that_moved_in_huggingface_s_cache_is_measured_anew(folder, tmp_path, monkeypatch, own_cache):
    repository = tmp_path / "hub" / "models--someone--tuned"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (repository / "refs").mkdir(parents=True)
    hashes = []
    for commit, change in (("0" * 40, ""), ("1" * 40, " ")):
        shutil.copytree(folder, repository / "snapshots" / commit)
        config = repository / "snapshots" / commit / "config.json"
        config.write_text(config.read_text() + change)
        (repository / "refs" / "main").write_text(commit)
        with prepared("someone/tuned") as (checkpoint, _):
            assert checkpoint.folder.name == commit
            hashes.append(checkpoint.sha256)
    assert hashes[0] != hashes[1]


def test_what_is_no_model_is_told_with_what_there_is():
    with (
        pytest.raises(BadInput, match=r"no model 'no such model!': not in .*: choose one of zoo-gpt2"),
        prepared("no such model!"),
    ):
        pass


def test_an_official_name_for_a_model_of_the_catalogue_is_refused_not_ignored():
    with pytest.raises(BadInput, match=r"zoo-gpt2 is in .*: leave it out"), prepared("zoo-gpt2", "gpt2"):
        pass


@pytest.mark.parametrize(
    ("code", "advice"), [(errno.ENOSPC, "free some disk space"), (errno.EACCES, "check that it exists")]
)
def test_what_the_system_refuses_is_a_sentence(monkeypatch, code, advice):
    def refuse():
        raise OSError(code, os.strerror(code), "/tmp/a")

    monkeypatch.setattr("tlbench.cli.app", refuse)
    done = command.run("verify", "zoo-gpt2")
    assert done.returncode == 2
    assert done.stderr.startswith(f"tlbench: cannot use /tmp/a ({os.strerror(code)}): {advice}")
