"""The tables of costs say what asv's result files say."""

import csv
import io
import json
import math
import os
from datetime import UTC, datetime

import pytest
from rich.console import Console

from tlbench.cli import main, read
from tlbench.exceptions import BadInput
from tlbench.grid import RuntimeCell, Wrapper
from tlbench.history import SourceCommit, SourceFile, build_from_trees
from tlbench.report.render import Format
from tlbench.report.slowdowns import (
    LEAK,
    MEMORY_RATIO,
    ChangedRow,
    CostRow,
    absences,
    changes,
    growth_rows,
    machine_of,
    memory_rows,
    rows,
    show_changes,
)
from tlbench.report.stored import State, StoredResults

MODELS = ["zoo-gpt2", "zoo-llama"]
GRID = {
    "model and wrapper": [f"{model} TransformerBridge" for model in MODELS],
    "option": ["all_options"],
    "dtype, shape and device": ["float32 1x64 cpu", "float32 1x64 cuda"],
}
"""asv stores the cells in this order: gpt2 on a CPU and on a GPU, then llama."""
NAN = math.nan
STORED = {
    "Slowdown.track_forward": [2.0, NAN, 3.0, NAN],
    "Interval.track_forward": [0.01, NAN, None, NAN],
    "Memory.track_forward": [1.25, NAN, 1.5, NAN],
    "Memory.track_cache": [4.5, NAN, None, NAN],
    "Memory.track_leak": [0.0, NAN, 8.0, NAN],
    "Growth.track_time_by_length": [1.5, NAN, 1.75, NAN],
    "Growth.track_memory_by_batch": [1.0, NAN, NAN, NAN],
}


@pytest.fixture
def config(tmp_path):
    """A configuration whose results hold what is in ``STORED``, of asv's own making."""
    from asv.results import Results
    from asv.runner import BenchmarkResult

    tree = {"a": SourceFile(b"a")}
    commits = build_from_trees(tmp_path / "history.git", [SourceCommit("v1", datetime(2024, 1, 1, tzinfo=UTC), "v1", tree)])
    conf = {"version": 1, "project": "p", "repo": "history.git", "results_dir": "results", "branches": ["main"]}
    (tmp_path / "asv.conf.json").write_text(json.dumps(conf))
    params = [[*map(repr, words)] for words in GRID.values()]
    benchmarks = {
        name: {"name": name, "params": params, "param_names": list(GRID), "version": "1", "type": "track"}
        for name in (f"runtime.{name}" for name in STORED)
    }
    error = "accuracy.Logit.track_max"
    benchmarks[error] = {**benchmarks["runtime.Slowdown.track_forward"], "name": error}
    costs, errors = {f"runtime.{name}": values for name, values in STORED.items()}, {error: [1.0] * 4}
    for machine, figures in (("costs", costs), ("errors", errors)):  # the last written at the end
        stored = Results({"machine": machine}, {}, commits["v1"], 1, "3.11", "env", {})
        for name, values in figures.items():
            none, now = [None] * len(values), datetime.now(UTC)
            result = BenchmarkResult(values, none, none, 0, "", None)
            stored.add_result(benchmarks[name], result, started_at=now, duration=1.0)
        stored.save(str(tmp_path / "results"))
        (tmp_path / "results" / machine / "machine.json").write_text(json.dumps({"machine": machine, "version": 1}))
        os.utime(next((tmp_path / "results" / machine).glob("*-env.json")), (1, 1 if machine == "costs" else 2))
    (tmp_path / "results" / "benchmarks.json").write_text(json.dumps({**benchmarks, "version": 2}))
    return tmp_path / "asv.conf.json"


@pytest.fixture
def said(config, monkeypatch, capsys):
    """Run `tlbench costs`: its exit status and what it printed."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["tlbench", "costs", "--config", str(config), *words])
        with pytest.raises(SystemExit) as ended:
            main()
        found = capsys.readouterr()
        return ended.value.code, found.out + found.err

    return run


def table(said, what):
    status, text = said("--what", what, "--format", "csv")
    assert status == 0, text
    return list(csv.DictReader(io.StringIO(text)))


def test_costs_are_those_of_the_machine_that_measured_costs_last_whoever_measured_errors_since(config):
    stored = StoredResults(config)
    commit = stored.commit("v1")
    found = {name: stored.machine(commit, name) for name in ("runtime.Memory.track_leak", "accuracy.Logit.track_max", "")}
    assert list(found.values()) == ["costs", "errors", "errors"]
    assert stored.machine(commit, "truth.TransformerLens.track_verdict") == "errors"
    assert not rows(StoredResults(config, "errors"), commit)


class Machines(StoredResults):
    """Stored results, of which only who measured which commit is known, the last at the end."""

    def __init__(self, **of):
        self.machines = lambda commit, benchmark: of[commit]
        self._having = self.machines


def test_two_commits_are_compared_on_one_machine_even_if_another_measured_one_of_them_since():
    assert machine_of(Machines(v1=["a", "b"], v2=["a", "b", "c"]), ["v1", "v2"]) == "b"
    assert machine_of(Machines(v1=["a"], v2=["a", "c"]), ["v1", "v2"]) == "a"
    assert machine_of(Machines(v2=["a", "c"]), ["v2"]) == "c"
    with pytest.raises(
        BadInput, match=r"no machine has measured runtime.Slowdown at each commit \(v1: a; v2: c\): .*MACHINE:"
    ):
        machine_of(Machines(v1=["a"], v2=["c"]), ["v1", "v2"])


def test_where_one_wrapper_follows_the_other_their_slowdowns_are_paired_and_else_never():
    hooked, bridge = (RuntimeCell("m", "float32", "all_options", w, "1x64", "cpu", "forward") for w in Wrapper)
    (paired,) = changes([CostRow(hooked, 1.0, 0.01)], [CostRow(bridge, 2.0, 0.01)])
    assert (paired.earlier.cell, paired.later.cell) == (hooked, bridge)
    both = [CostRow(hooked, 1.0, 0.01), CostRow(bridge, 2.0, 0.01)]
    assert [row.later and row.later.cell for row in changes(both, [CostRow(bridge, 3.0, 0.01)])] == [None, bridge]


def test_a_pair_of_wrappers_is_named_in_every_format(capsys):
    hooked, bridge = (RuntimeCell("m", "float32", "all_options", w, "1x64", "cpu", "forward") for w in Wrapper)
    row = ChangedRow(CostRow(hooked, 1.0, 0.01), CostRow(bridge, 2.0, 0.01))
    show_changes(Console(), Format.CSV, "", [row])
    (line,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (line["wrapper"], line["later_wrapper"]) == ("HookedTransformer", "TransformerBridge")
    show_changes(Console(), Format.MARKDOWN, "", [row])
    assert "| TransformerBridge |" in capsys.readouterr().out


def test_a_slowdown_that_failed_is_shown_and_is_not_one_that_nobody_measured(config, said):
    path = next((config.parent / "results" / "costs").glob("*-env.json"))
    path.write_text(path.read_text().replace("[2.0, NaN, 3.0, NaN]", "[2.0, NaN, null, NaN]"))
    assert [(line["model"], line["slowdown"]) for line in table(said, "time")] == [
        ("zoo-gpt2", "2.0"),
        ("zoo-llama", "failed"),
    ]
    cell = RuntimeCell("m", "float32", "all_options", "TransformerBridge", "1x64", "cpu", "forward")
    for absent, word in (({cell: State.FAILED}, State.FAILED), ({}, State.NOT_MEASURED)):
        assert [row.absent for row in changes([CostRow(cell, 1.0, 0.1)], [], absent)] == [word]
    stored = StoredResults(config)
    words = absences(stored, stored.commit("v1"), "costs")
    assert {(cell.model, cell.device): word for cell, word in words.items() if cell.operation == "forward"} == {
        ("zoo-gpt2", "cpu"): State.NOT_MEASURED,  # where there is a slowdown, nobody asks
        ("zoo-gpt2", "cuda"): State.NOT_MEASURED,
        ("zoo-llama", "cpu"): State.FAILED,
        ("zoo-llama", "cuda"): State.NOT_MEASURED,
    }


def test_the_table_names_the_machine_that_its_figures_are_of(config, said):
    """Exponents of one machine, slowdowns of another that measured since."""
    status, text = said("--what", "growth", "--format", "markdown")
    assert (status, "on costs:" in text) == (0, True)


def test_a_slowdown_without_its_interval_is_not_told(config, said):
    stored = StoredResults(config)
    (row,) = rows(stored, stored.commit("v1"))
    assert (row.cell.model, row.ratio, row.half_width, row.reference_seconds) == ("zoo-gpt2", 2.0, 0.01, None)
    assert [(line["model"], line["slowdown"], line["half_width"]) for line in table(said, "time")] == [
        ("zoo-gpt2", "2.0", "0.01")
    ]


def test_memory_is_told_by_operation_with_the_leak_beside_the_cache(config, said):
    stored = StoredResults(config)
    found = {(r.cell.model, r.cell.operation): r.figures for r in memory_rows(stored, stored.commit("v1"))}
    assert found == {
        ("zoo-gpt2", "forward"): {MEMORY_RATIO: 1.25},
        ("zoo-llama", "forward"): {MEMORY_RATIO: 1.5},
        ("zoo-gpt2", "cache"): {MEMORY_RATIO: 4.5, LEAK: 0.0},
        ("zoo-llama", "cache"): {MEMORY_RATIO: None, LEAK: 8.0},  # the first failed
    }
    assert [(line["operation"], line[MEMORY_RATIO], line[LEAK]) for line in table(said, "memory")] == [
        ("forward", "1.25", ""),
        ("forward", "1.5", ""),
        ("cache", "4.5", "0.0"),
        ("cache", "failed", "8.0"),
    ]


def test_exponents_are_told_where_there_is_one(config, said):
    stored = StoredResults(config)
    found = {r.cell.model: r.figures for r in growth_rows(stored, stored.commit("v1"))}
    assert found == {
        "zoo-gpt2": {"time_by_length": 1.5, "memory_by_batch": 1.0},
        "zoo-llama": {"time_by_length": 1.75},
    }
    status, text = said("--what", "growth", "--format", "markdown", "--model", "zoo-llama")
    assert status == 0
    assert "zoo-llama" in text
    assert "1.75" in text
    assert "zoo-gpt2" not in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--what", "money"], "unknown what 'money': choose one of time, memory, growth"),
        (["--what", "growth", "--model", "zoo-opt"], "no matching costs (growth) are stored for v1"),
        (["--what", "memory", "--wrapper", "HookedTransformer"], "no matching costs (memory) are stored for v1"),
    ],
)
def test_what_is_not_there_is_told(said, words, told):
    status, text = said(*words)
    assert status == 2
    assert told in " ".join(text.split())


@pytest.mark.parametrize(("n_cells", "n_flagged"), [(1, 1), (40, 0)])
def test_a_growth_just_beyond_its_own_interval_is_slower_alone_and_chance_among_forty(
    monkeypatch, capsys, n_cells, n_flagged
):
    names = [
        RuntimeCell("m", "float32", "all_options", "TransformerBridge", f"{i}x64", "cpu", "forward") for i in range(1, 41)
    ]
    found = {
        "v1": [CostRow(cell, 1.0, 0.08) for cell in names[:n_cells]],
        "v2": [CostRow(cell, 1.1 if cell is names[0] else 1.0, 0.08) for cell in names[:n_cells]],
    }
    monkeypatch.setattr(read, "_machine_of_both", lambda *words: "here")
    monkeypatch.setattr(read, "_slowdowns", lambda name, config, machine: (found[name], {}))
    monkeypatch.setattr("sys.argv", ["tlbench", "slower", "v1", "v2", "--format", "markdown"])
    with pytest.raises(SystemExit) as ended:
        main()
    text = capsys.readouterr().out
    assert ended.value.code == n_flagged
    assert f"{n_flagged} of {n_cells} slowdowns grew from v1 to v2 on here by 5 % and by more than chance" in text
    assert f"corrected for {n_cells} cells by Holm's method: at most 1 % of comparisons raise a false alarm" in text
    assert text.count("| forward") == n_flagged


def test_changes_in_csv_have_every_digit_and_say_what_was_not_measured(capsys):
    cell = RuntimeCell("m", "float32", "all_options", "TransformerBridge", "1x64", "cpu", "forward")
    both = ChangedRow(CostRow(cell, 1.5, 0.03, 2.0), CostRow(cell, 2.0, 0.21, 3.0))
    show_changes(Console(), Format.CSV, "a title", [both, ChangedRow(CostRow(cell, 1 / 3, 0.03), None)])
    grew, gone = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (grew["earlier"], grew["later"], grew["factor"], grew["reference_factor"]) == ("1.5", "2.0", repr(4 / 3), "1.5")
    assert float(grew["half_width"]) == pytest.approx(0.15)  # the root mean square
    assert gone["earlier"] == repr(1 / 3)
    assert [gone[name] for name in ("later", "factor", "half_width", "reference_factor")] == ["not measured", "", "", ""]
