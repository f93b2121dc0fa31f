"""A run with another catalogue loses nothing that is stored, and what it knows nothing of is no failure."""

import json
import math
from types import SimpleNamespace

import pytest
from asv.benchmarks import Benchmarks
from asv.results import Results
from asv.runner import BenchmarkResult

from asv_plugins import parameters
from tests.stored import GPT2, LLAMA, MEAN, PAIR, PARAMS, WRAPPERS, Stored, described


def of_models(*models):
    """The parameters for some models in both wrappers."""
    return PARAMS | {PAIR: [f"{model} {wrapper}" for model in models for wrapper in WRAPPERS]}


IN_ORDER = described(MEAN, of_models("zoo-gpt2", "zoo-llama", "mine"))["params"][0]
SMALL, OTHER = of_models("zoo-gpt2"), of_models("mine", "zoo-llama")


@pytest.fixture(autouse=True)
def wrapped(monkeypatch):
    """asv with this plugin alone."""
    monkeypatch.setattr(Benchmarks, "save", parameters.save)
    monkeypatch.setattr(Results, "add_result", parameters.add_result)
    monkeypatch.setattr(Results, "get_result_value", parameters.get_result_value)


def saved(folder, *kinds):
    """benchmarks.json after runs with these parameters, one after the other."""
    conf = SimpleNamespace(benchmark_dir="benchmarks", results_dir=str(folder))
    for kind in kinds:
        benchmarks = Benchmarks(conf, [described(MEAN, kind)])
        benchmarks.save()
        assert benchmarks[MEAN]["params"] == described(MEAN, kind)["params"]
    return json.loads((folder / "benchmarks.json").read_text())[MEAN]


def test_a_smaller_catalogue_leaves_the_list_of_benchmarks_byte_for_byte(tmp_path):
    saved(tmp_path, PARAMS)
    before = (tmp_path / "benchmarks.json").read_bytes()
    saved(tmp_path, SMALL)
    assert (tmp_path / "benchmarks.json").read_bytes() == before


def test_a_new_model_comes_after_those_that_are_stored(tmp_path):
    assert saved(tmp_path, PARAMS, OTHER)["params"][0] == IN_ORDER


def test_a_benchmark_whose_parameters_are_others_now_is_described_as_it_is_now(tmp_path):
    renamed = {**described(MEAN), "param_names": [PAIR, "dtype", "kind"]}
    assert parameters.merged_benchmark(described(MEAN, SMALL), renamed) == renamed


def added(result, kind, value, version="1"):
    benchmark = described(MEAN, kind) | {"version": version}
    count = math.prod(map(len, kind.values()))
    nothing = [None] * count
    result.add_result(benchmark, BenchmarkResult([value] * count, nothing, nothing, 0, "", None))


def test_a_run_with_another_catalogue_keeps_the_figures_of_the_models_that_it_lacks():
    result = Results({"machine": "mine"}, {}, "0" * 40, 1000, "3.11", "env", {})
    added(result, PARAMS, 1.0)
    added(result, OTHER, None)
    params = result.get_result_params(MEAN)
    assert params[0] == IN_ORDER
    assert result.get_result_value(MEAN, params) == [1.0] * 4 + [None] * 8
    added(result, SMALL, 2.0, version="2")
    assert result.get_result_value(MEAN, described(MEAN, SMALL)["params"]) == [2.0] * 4
    assert result.get_result_params(MEAN)[0] == described(MEAN, SMALL)["params"][0], "another version is another quantity"


def test_a_model_that_was_added_later_has_not_failed_before():
    result = Results({"machine": "mine"}, {}, "0" * 40, 1000, "3.11", "env", {})
    added(result, SMALL, None)
    values = result.get_result_value(MEAN, described(MEAN)["params"])
    assert values[:4] == [None] * 4
    assert all(map(math.isnan, values[4:]))


def test_old_results_can_be_shown_after_a_run_with_a_smaller_catalogue(tmp_path):
    stored = Stored.make(tmp_path)
    stored.store("v1", {GPT2: 1e-6, LLAMA: 2e-6})
    saved(tmp_path / "results", SMALL)
    assert "2e-06" in stored.asv("show", "v1")
