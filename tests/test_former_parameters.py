"""Results that had model and wrapper as two parameters are read, shown and extended as if they had been stored today."""

import itertools
import json
import math

import pytest

from tests.stored import GPT2, GPT2_16, LLAMA, MACHINE, MEAN, PAIR, Stored, described

FORMER = {
    "model": ["zoo-gpt2", "zoo-llama", "zoo-stablelm", "mine"],
    "dtype": ["float32", "float16"],
    "option": ["unprocessed", "fold_ln"],
    "wrapper": ["HookedTransformer", "TransformerBridge"],
}
FIGURES = {GPT2: 1e-6, GPT2_16: None, LLAMA: 2e-6, ("mine", "float32", "unprocessed", "HookedTransformer"): 3e-6}
TODAY = [
    *(f"{model} {wrapper}" for model in ("zoo-gpt2", "zoo-llama") for wrapper in FORMER["wrapper"]),
    "zoo-stablelm TransformerBridge",  # HookedTransformer has no StableLM 2
    *(f"mine {wrapper}" for wrapper in FORMER["wrapper"]),
]


@pytest.fixture
def stored(tmp_path):
    """A folder with a file of results of the former form, and its description."""
    made = Stored.make(tmp_path)
    made.store("v1", {})
    (path,) = made.folder.glob("results/*/*-virtualenv-py3.11.json")
    data = json.loads(path.read_text())
    params = [[f"'{word}'" for word in words] for words in FORMER.values()]
    columns = dict(zip(data["result_columns"], data["results"][MEAN], strict=False))
    columns |= {"params": params, "result": [FIGURES.get(cell, math.nan) for cell in itertools.product(*FORMER.values())]}
    data["results"] = {MEAN: list(columns.values())}
    path.write_text(json.dumps(data))
    benchmark = {**described(MEAN), "params": params, "param_names": list(FORMER)}
    (made.folder / "results" / "benchmarks.json").write_text(json.dumps({MEAN: benchmark, "version": 2}))
    return made


def test_asv_shows_every_figure_and_failure_by_today_s_parameters(stored):
    said = stored.asv("show", "--machine", MACHINE, "v1", "--bench", r"'zoo-gpt2 HookedTransformer'|mine|llama")
    lines = {tuple(line.split()) for line in said.splitlines() if "Transformer " in line or "Bridge " in line}
    assert lines == {
        ("zoo-gpt2", "HookedTransformer", "float32", "unprocessed", "1e-06"),
        ("zoo-gpt2", "HookedTransformer", "float16", "unprocessed", "failed"),
        ("zoo-llama", "HookedTransformer", "float32", "unprocessed", "2e-06"),
        ("mine", "HookedTransformer", "float32", "unprocessed", "3e-06"),
    }


def test_a_new_result_is_compared_with_a_former_one(stored):
    stored.store("v2", {GPT2: 4e-6})
    said = stored.asv("compare", "v1", "v2")
    assert "| 1e-06" in said.split("'zoo-gpt2 HookedTransformer', 'float32'")[0].splitlines()[-1]


def test_what_is_stored_anew_has_the_pairs_that_can_exist_and_those_with_figures_and_no_unused_option(stored):
    code = """
import asv_plugins.former_parameters, sys
from asv.results import Results, iter_results
(results,) = iter_results("results")
results.save("results")
"""
    stored.python(code)
    (path,) = stored.folder.glob("results/*/*-virtualenv-py3.11.json")
    data = json.loads(path.read_text())
    columns = dict(zip(data["result_columns"], data["results"][MEAN], strict=False))
    assert columns["params"] == [[f"'{word}'" for word in words] for words in (TODAY, FORMER["dtype"], ["unprocessed"])]
    figures = dict(zip(itertools.product(*columns["params"]), columns["result"], strict=True))
    given = {(f"'{m} {w}'", f"'{d}'", f"'{o}'"): value for (m, d, o, w), value in FIGURES.items()}
    assert {point: value for point, value in figures.items() if value is None or not math.isnan(value)} == given


def test_descriptions_get_today_s_parameters(stored):
    code = """
import asv_plugins.former_parameters
from asv.benchmarks import Benchmarks
from asv.config import Config
for benchmark in Benchmarks.load(Config.load()).values():
    print(benchmark["param_names"], benchmark["params"])
"""
    params = [[f"'{word}'" for word in words] for words in (TODAY, FORMER["dtype"], FORMER["option"])]
    assert stored.python(code) == f"{[PAIR, 'dtype', 'option']} {params}\n"
