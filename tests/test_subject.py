"""A model that is named on the command line, and is in no catalogue."""

import shutil
import threading

import pytest

from tlbench import BadInput, catalogue
from tlbench.checkpoints import ensure
from tlbench.cli.subject import prepared


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


def test_what_is_no_model_is_told_with_what_there_is():
    with (
        pytest.raises(BadInput, match=r"no model 'no such model!': not in .*: choose one of zoo-gpt2"),
        prepared("no such model!"),
    ):
        pass


def test_an_official_name_for_a_model_of_the_catalogue_is_refused_not_ignored():
    with pytest.raises(BadInput, match=r"zoo-gpt2 is in .*: leave it out"), prepared("zoo-gpt2", "gpt2"):
        pass
