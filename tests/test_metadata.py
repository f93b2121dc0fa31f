"""What results were measured in is kept with them, and two environments can be told apart."""

import json
from importlib.metadata import version
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from asv_plugins import metadata as plugin
from tlbench.costs import process
from tlbench.environments import metadata
from tlbench.exceptions import BadInput
from tlbench.files import write_json
from tlbench.grid import RuntimeCell
from tlbench.paths import OUTCOMES

TEXTS = some.dictionaries(some.sampled_from("abcdef"), some.text(max_size=3), max_size=5)


def test_the_facts_are_this_processs():
    found = metadata.collect()
    assert all(isinstance(value, str) for value in found.values())
    assert found["torch"] == version("torch")
    assert found["torch's arithmetic"] == torch.backends.cpu.get_cpu_capability()
    assert found["torch's threads unless set"] == str(torch.get_num_threads())
    assert found["cpu"]
    assert found["transformer-lens"] == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_there_is_none():
    assert metadata.collect()["gpu"] == metadata.collect()["gpu driver"] == ""


def test_a_variable_that_changes_arithmetic_is_a_fact(monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    before = metadata.collect()
    monkeypatch.delenv("MKL_CBWR")
    assert metadata.differences(before, metadata.collect()) == {"MKL_CBWR": ("COMPATIBLE", "")}


@given(TEXTS, TEXTS)
def test_what_differs_is_every_name_with_another_value(one, other):
    found = metadata.differences(one, other)
    for name in one.keys() | other.keys():
        pair = (one.get(name, ""), other.get(name, ""))
        assert (found.get(name) == pair) if pair[0] != pair[1] else (name not in found)
    assert metadata.differences(one, one) == {}


def test_each_environment_is_kept_once_and_the_last_is_at_the_end(tmp_path):
    recorded, results = tmp_path / metadata.FILE_NAME, tmp_path / "12345678-virtualenv-py3.11.json"
    stored = tmp_path / "12345678-virtualenv-py3.11.environments.jsonl"
    metadata.keep(recorded, results)
    assert not stored.exists()
    for number in ("1", "2", "2", "1"):
        recorded.write_text(json.dumps({"torch": number}))
        metadata.keep(recorded, results)
    assert metadata.read(stored) == [{"torch": "2"}, {"torch": "1"}]


def test_a_damaged_file_is_told_in_one_sentence(tmp_path):
    path = tmp_path / "x.environments.jsonl"
    for damage in ("{", "[1]"):
        path.write_text(damage)
        with pytest.raises(BadInput, match="is damaged"):
            metadata.read(path)


def test_a_damaged_file_ends_no_run_and_is_left_as_it_is(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(plugin, "_save", lambda self, folder: kept.append(folder))
    monkeypatch.setattr(plugin.log, "warning", kept.append)
    monkeypatch.chdir(tmp_path)
    recorded = tmp_path / OUTCOMES / "machine" / "c0ffee" / metadata.FILE_NAME
    recorded.parent.mkdir(parents=True)
    recorded.write_text(json.dumps({"torch": "1"}))
    stored = tmp_path / "results" / "machine" / "c0ffee-env.environments.jsonl"
    stored.parent.mkdir(parents=True)
    results = SimpleNamespace(commit_hash="c0ffee", _filename="machine/c0ffee-env.json")
    plugin.save(results, "results")
    assert metadata.read(stored) == [{"torch": "1"}]
    assert kept == ["results"]
    assert not list(stored.parent.glob("*.endings.jsonl"))  # nothing failed
    stored.write_text("{")
    plugin.save(results, "results")
    assert stored.read_text() == "{"
    assert "is damaged" in kept[-1]


def test_what_an_earlier_run_was_measured_in_is_not_kept_with_another_run_s_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(plugin, "_save", lambda *_: None)
    monkeypatch.setattr(plugin, "_load_data", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    outcomes = tmp_path / OUTCOMES / "machine" / "c0ffee"
    write_json(outcomes / metadata.FILE_NAME, {"torch": "of a run that was killed"})
    (tmp_path / "results" / "machine").mkdir(parents=True)
    results = SimpleNamespace(commit_hash="c0ffee", _filename="machine/c0ffee-env.json")
    plugin.load_data(results, "results")
    plugin.save(results, "results")
    assert not list(tmp_path.glob("results/**/*.environments.jsonl"))
    plugin.load_data(results, "results")
    metadata.record(outcomes)
    plugin.save(results, "results")
    (stored,) = tmp_path.glob("results/**/*.environments.jsonl")
    assert metadata.read(stored) == [metadata.collect()]


def test_asv_s_own_measures_write_what_they_were_measured_in(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "setting", lambda: None)
    monkeypatch.setattr(process, "outcomes_dir", lambda: tmp_path)
    monkeypatch.setattr(process, "located", lambda _: None)
    monkeypatch.setattr(process, "settle", lambda *_: None)
    process.Loading(RuntimeCell("zoo-gpt2", "float32", "unprocessed", "HookedTransformer", "1x64", "cpu", "loading"))
    assert json.loads((tmp_path / metadata.FILE_NAME).read_text()) == metadata.collect()


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (root)",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue Jan 1 2026",
    ],
)
def test_the_gpu_s_driver_is_named_by_its_version_and_not_by_the_processor(text):
    assert metadata.driver_version(text) == "580.159.04"
