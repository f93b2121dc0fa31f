"""The table says what asv's result files say."""

import csv
import io
import json
import math
import os
import re
import shutil
from datetime import UTC, datetime

import pytest
from rich.console import Console

from tests import command as command_line
from tlbench import BadInput, Space, Statistic, catalogue
from tlbench.arithmetic import SHARED_MACHINE
from tlbench.cli import read
from tlbench.history import SourceCommit, SourceFile, build_from_trees
from tlbench.metrics.verdict import SEVERITIES, Verdict, word_of
from tlbench.report import table as tables
from tlbench.report.render import Format
from tlbench.report.stored import Figure, State, StoredResults

MODELS, DTYPES, OPTIONS, WRAPPERS = (
    ["zoo-gpt2", "zoo-llama"],
    ["float32", "float16"],
    ["unprocessed", "fold_ln"],
    ["HookedTransformer", "TransformerBridge"],
)
GRID = [[*map(repr, words)] for words in (MODELS, DTYPES, OPTIONS, WRAPPERS)]
CELLS = [(m, d, o, w) for m in MODELS for d in DTYPES for o in OPTIONS for w in WRAPPERS]
FAILED = ("zoo-llama", "float16", "fold_ln", "HookedTransformer")
NOT_ASKED = "zoo-llama"
"""asv stores NaN for this model's bridges, and no run has left why."""


def figure(cell, statistic, release):
    """A number of its own for every cell, statistic and release; bridges do not exist before 3."""
    if cell[3] == "TransformerBridge" and release == "v2.0.0":
        return math.nan
    if cell == FAILED:
        return None
    return (CELLS.index(cell) + 1) * 10.0 ** -list(Statistic).index(statistic) / (3 if release == "v2.0.0" else 7)


def truth_figure(cell, name, release):
    """The same for the figures against the exact answer; a verdict is a severity."""
    if name == "verdict":
        value = figure(cell, Statistic.MAX, release)
        return value if value is None or math.isnan(value) else [*SEVERITIES.values()][CELLS.index(cell) % len(SEVERITIES)]
    if name in ("repeat", "threads", "batch"):
        return {"repeat": 0.0, "threads": 3e-6, "batch": 1e-6}[name]
    return figure(cell, Statistic.MEAN, release)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a configuration, a repository of two releases, and results of asv's own making."""
    from asv.results import Results
    from asv.runner import BenchmarkResult

    commits = build_from_trees(
        tmp_path / "history.git",
        [
            SourceCommit(tag, datetime(2024, month, 1, tzinfo=UTC), tag, {"a": SourceFile(tag.encode())})
            for month, tag in enumerate(("v2.0.0", "v3.0.0"), 1)
        ],
    )
    conf = {"version": 1, "project": "p", "repo": "history.git", "results_dir": "results", "branches": ["main"]}
    (tmp_path / "asv.conf.json").write_text(json.dumps(conf))
    benchmarks = {
        f"accuracy.{space.value.capitalize()}.track_{statistic}": {
            "name": f"accuracy.{space.value.capitalize()}.track_{statistic}",
            "params": GRID,
            "param_names": ["model", "dtype", "option", "wrapper"],
            "version": "1",
            "type": "track",
        }
        for space in Space
        for statistic in Statistic
    }
    changed = "accuracy.Processing.track_changed_weights"
    benchmarks[changed] = {**next(iter(benchmarks.values())), "name": changed}
    tracks = [f"truth.TransformerLens.track_{name}" for name in (*Figure, "verdict")]
    tracks += [f"noise_floor.NoiseFloor.track_{name}" for name in ("repeat", "threads", "batch")]
    benchmarks |= {name: {**benchmarks[changed], "name": name} for name in tracks}
    results = tmp_path / "results"
    for month, (tag, commit) in enumerate(commits.items(), 1):
        stored = Results({"machine": "m"}, {}, commit, month, "3.11", "env", {})
        for name, benchmark in benchmarks.items():
            track = name.split(".track_")[1]
            if name == changed:
                values = [0.0 if cell[2] == "fold_ln" and cell[0] == "zoo-llama" else 5.0 for cell in CELLS]
            elif name in tracks:
                values = [truth_figure(cell, track, tag) for cell in CELLS]
            else:
                values = [figure(cell, Statistic(track), tag) for cell in CELLS]
            n = len(values)
            result = BenchmarkResult(values, [None] * n, [None] * n, 0, "", None)
            stored.add_result(benchmark, result, started_at=datetime.now(UTC), duration=1.0)
        stored.save(str(results))
        missing = [cell for cell in CELLS if cell[0] != NOT_ASKED and cell[3] == "TransformerBridge" and tag == "v2.0.0"]
        line = {"question": "accuracy", "kind": "n/a", "judged_by": "", "reason": "it came with 3.0"}
        endings = results / "m" / f"{commit[:8]}-env.endings.jsonl"
        endings.write_text(json.dumps({**line, "cells": [" ".join(cell) for cell in missing]}) + "\n")
    (results / "benchmarks.json").write_text(json.dumps({**benchmarks, "version": 2}))
    (results / "m" / "machine.json").write_text(json.dumps({"machine": "m", "version": 1}))
    monkeypatch.chdir(tmp_path)
    return tmp_path, commits


def test_commits_are_found_by_tag_and_by_hash_and_the_newest_is_the_default(project):
    _, commits = project
    stored = StoredResults()
    assert [str(commit) for commit in stored.commits] == ["v2.0.0", "v3.0.0"]
    assert stored.commit(None).hash == commits["v3.0.0"]
    assert stored.commit("v2.0.0").hash == stored.commit(commits["v2.0.0"][:8]).hash == commits["v2.0.0"]
    assert stored.commit("2.0.0").tag == "v2.0.0"


@pytest.mark.parametrize(
    ("asked", "nearest"), [("2.5", "v2.0.0, v3.0.0"), ("v9", "v3.0.0"), ("1.0", "v2.0.0"), ("main", "v2.0.0, v3.0.0")]
)
def test_a_commit_without_results_is_refused_with_the_nearest_that_have(project, asked, nearest):
    with pytest.raises(BadInput, match=rf"'{asked}' matches no commits with results: choose one of {nearest}$"):
        StoredResults().commit(asked)


def test_a_release_that_nobody_measured_is_not_called_unknown(project):
    folder, _ = project
    later = build_from_trees(
        folder / "history.git",
        [
            SourceCommit(tag, datetime(2024, month, 1, tzinfo=UTC), tag, {"a": SourceFile(tag.encode())})
            for month, tag in enumerate(("v2.0.0", "v3.0.0", "v3.1.0"), 1)
        ],
    )
    assert "v3.1.0" in later
    with pytest.raises(
        BadInput, match=r"3\.1\.0 was not measured: choose one of v3\.0\.0, or measure a part: .*v3\.1\.0\^!"
    ):
        StoredResults().commit("3.1.0")


def test_every_figure_stands_in_its_own_cell_and_failed_not_applicable_and_not_measured_never_look_alike(project):
    stored = StoredResults()
    for row in stored.rows(stored.commit("v2.0.0"), Space.LOGIT):
        words = (row.cell.model, row.cell.dtype.value, row.cell.option.value, row.cell.wrapper.value)
        if words == FAILED:
            assert row.state is State.FAILED
        elif words[3] == "TransformerBridge":
            assert row.state is (State.NOT_MEASURED if words[0] == NOT_ASKED else State.NOT_APPLICABLE)
        else:
            assert row.values == {statistic: figure(words, statistic, "v2.0.0") for statistic in Statistic}


def test_an_option_that_changed_no_weight_is_a_no_op_and_unprocessed_never_is(project):
    stored = StoredResults()
    found = {(row.cell.model, row.cell.option.value): row.no_op for row in stored.rows(stored.commit(None), Space.ORIGIN)}
    assert found == {
        ("zoo-llama", "fold_ln"): True,
        ("zoo-llama", "unprocessed"): False,
        ("zoo-gpt2", "fold_ln"): False,
        ("zoo-gpt2", "unprocessed"): False,
    }


def test_verdicts_are_read_back_with_figures_floors_and_no_ops(project):
    stored = StoredResults()
    for row in stored.truth_rows(stored.commit("v2.0.0")):
        words = (row.cell.model, row.cell.dtype.value, row.cell.option.value, row.cell.wrapper.value)
        severity = truth_figure(words, "verdict", "v2.0.0")
        if words == FAILED:
            assert row.verdict is Verdict.FAILED
            assert Figure.RATIO not in row.figures
        elif words[3] == "TransformerBridge":
            assert row.verdict is (Verdict.NOT_MEASURED if words[0] == NOT_ASKED else Verdict.NOT_APPLICABLE)
            assert row.reason == ("" if words[0] == NOT_ASKED else "it came with 3.0")
        else:
            word = word_of(severity)
            no_op = words[0] == "zoo-llama" and words[2] == "fold_ln"
            assert row.verdict is (Verdict.NO_OP if no_op and word.passes else word)
            assert row.figures[Figure.RATIO] == figure(words, Statistic.MEAN, "v2.0.0")
        assert row.floor == 3e-6


def test_the_command_prints_verdicts_and_in_a_terminal_what_is_wrong_first(project):
    done = run("--commit", "v3.0.0", "--format", "csv", command="verdicts")
    assert done.returncode == 1, done.stderr
    lines = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(lines) == len(CELLS)
    shown = run(command="verdicts").stdout.splitlines()
    found = [next(word for word in Verdict if line.startswith(word)) for line in shown if line.startswith(tuple(Verdict))]
    assert len(found) == len(CELLS)
    alarms = sum(line["verdict"] in ("worse", "broken", "failed") for line in lines)
    assert all(word.is_alarm for word in found[:alarms])
    assert not any(word.is_alarm for word in found[alarms:])
    markdown = run("--format", "markdown", command="verdicts").stdout
    assert sum(line.startswith("| zoo-") for line in markdown.splitlines()) == len(CELLS)


def test_every_cell_is_counted_under_one_of_the_words(project):
    done = run("--commit", "v2.0.0", command="verdicts")
    assert "4 n/a, 1 failed, 4 not measured" in done.stdout
    assert "cells are wrong" in done.stdout
    table = run("--commit", "v2.0.0", "--space", "logit")
    assert table.stderr == "Left out (4 n/a and 4 not measured at v2.0.0).\n"


def test_the_last_line_counts_the_verdicts_and_unjudged_is_neither_right_nor_wrong(project):
    right = run("--commit", "v3.0.0", "--model", "zoo-gpt2", "--option", "unprocessed", "--dtype", "float32",
                command="verdicts")  # fmt: skip
    assert right.returncode == 0
    assert right.stdout.splitlines()[-1] == "TransformerLens v3.0.0: no cell is wrong (1 exact, 1 same rounding)."
    cell = next(cell for cell in CELLS if truth_figure(cell, "verdict", "v3.0.0") == SEVERITIES[Verdict.UNJUDGED])
    words = dict(zip(("--model", "--dtype", "--option", "--wrapper"), cell, strict=True))
    unjudged = run(*(word for pair in words.items() for word in pair), command="verdicts")
    assert unjudged.returncode == 3
    assert "no cell is known to be wrong, but 1 could not be judged" in unjudged.stdout


def test_a_model_that_was_never_measured_is_not_called_failing(project):
    done = run("--commit", "v3.0.0", "--model", "zoo-opt", command="verdicts")
    assert done.returncode == 2
    assert "failed" not in done.stderr
    assert "zoo-opt was not measured against the golden at v3.0.0: choose one of zoo-gpt2, zoo-llama" in done.stderr


def test_a_damaged_file_of_endings_is_told(project):
    folder, commits = project
    (folder / "results" / "m" / f"{commits['v3.0.0'][:8]}-env.endings.jsonl").write_text("{")
    done = run("--commit", "v3.0.0")
    assert done.returncode == 2
    assert "is damaged" in done.stderr


def test_advice_is_printed_for_an_effect(project):
    done = run("zoo-gpt2", "--effect", "100nats", command="advise")
    assert done.returncode == 0, done.stderr
    assert "zoo-gpt2 on TransformerLens v3.0.0, for an effect of 100 nats: HookedTransformer is safe in float32" in (
        " ".join(done.stdout.split())
    )
    of_one = run("zoo-gpt2", "--effect", "100nats", "--dtype", "float32", command="advise").stdout
    assert "float32" in of_one
    assert "float16" in done.stdout
    assert "float16" not in of_one
    for words in (("zoo-gpt2", "--effect", "much"), ("zoo-opt", "--effect", "1nats")):
        refused = run(*words, command="advise")
        assert (refused.returncode, refused.stdout) == (2, "")


def run(*words, command="table", **environment):
    return command_line.run(command, *words, **environment)


def test_csv_has_the_agreed_columns_and_every_digit(project):
    _, commits = project
    done = run("--commit", "v3.0.0", "--format", "csv", "--model", "zoo-gpt2")
    assert done.returncode == 0, done.stderr
    lines = list(csv.DictReader(io.StringIO(done.stdout)))
    assert ",".join(lines[0]) == "commit,tag,model,dtype,options,wrapper,space,max,mean,median,std"
    assert len(lines) == 8 * len(Space)
    for line in lines:
        cell = (line["model"], line["dtype"], line["options"], line["wrapper"])
        assert float(line["median"]) == figure(cell, Statistic.MEDIAN, "v3.0.0")
        assert (line["commit"], line["tag"]) == (commits["v3.0.0"], "v3.0.0")


def test_two_commits_stand_side_by_side_in_issue_496_s_table(project):
    done = run("--commit", "v2.0.0", "--commit", "v3.0.0", "--format", "markdown", "--wrapper", "HookedTransformer")
    assert done.returncode == 0, done.stderr
    header, _, first, *_ = done.stdout.splitlines()[2:]
    columns = [word.strip() for word in header.strip("|").split("|")]
    assert columns[:7] == ["", "model", "dtype", "options", "wrapper", "max v2.0.0", "max v3.0.0"]
    assert [word.strip() for word in first.strip("|").split("|")][:7] == [
        *("0", "zoo-gpt2", "float32", "unprocessed", "HookedTransformer"),
        *("0.333333", "0.142857"),
    ]
    assert "failed" in done.stdout
    assert "no-op" in done.stdout


def test_the_terminal_s_table_holds_the_same_figures(project):
    done = run("--space", "logit", "--dtype", "float16", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert "TransformerLens v3.0.0 against HuggingFace" in done.stdout
    assert (
        f"{figure(('zoo-gpt2', 'float16', 'unprocessed', 'HookedTransformer'), Statistic.MAX, 'v3.0.0'):.6g}" in done.stdout
    )


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--model", "zoo-gpt9"), "unknown model 'zoo-gpt9'"),
        (("--dtype", "float8"), "unknown dtype 'float8'"),
        (("--option", "fold"), "unknown option 'fold'"),
        (("--space", "outer"), "unknown space 'outer'"),
        (("--format", "pdf"), "unknown format 'pdf'"),
        (("--commit", "v9"), "'v9' matches no commits with results"),
        (("--config", "nowhere.json"), "not found"),
        (("--model", "zoo-opt"), "zoo-opt was not measured at v3.0.0"),
        (
            ("--commit", "2.0.0", "--wrapper", "TransformerBridge", "--model", "zoo-gpt2"),
            "4 n/a at v2.0.0): it was measured at v3",
        ),
        (("--machine", "yours"), "no results of machine 'yours': choose one of m"),
    ],
)
def test_bad_use_is_one_sentence_and_exit_status_2(project, words, named):
    done = run(*words)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_folder_without_results_is_told(project):
    folder, _ = project
    (folder / "results" / "m").rename(folder / "elsewhere")
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert "run `asv run`" in done.stderr


def copied(folder, machine, started):
    """The same results of another machine, with another figure, measured at another time; the files are the oldest."""
    shutil.copytree(folder / "results" / "m", folder / "results" / machine)
    for path in (folder / "results" / machine).glob("*.json"):
        data = json.loads(path.read_text().replace("0.14285714285714285", "0.5"))
        if "params" in data:
            data["params"]["machine"] = machine
            at = data["result_columns"].index("started_at")
            for columns in data["results"].values():
                columns[at] = started
        path.write_text(json.dumps({**data, "machine": machine} if "machine" in data else data))
        os.utime(path, (0, 0))


def test_the_machine_that_measured_last_is_the_default_whatever_the_files_times_are(project):
    folder, _ = project
    copied(folder, "earlier", 0)
    copied(folder, "later", 10**14)
    stored = StoredResults()
    newest = stored.commit(None)
    assert stored.machine(newest) == "later"
    rows = {machine: StoredResults(machine=machine).rows(newest, Space.ORIGIN)[0] for machine in ("m", "later")}
    assert rows["m"].values[Statistic.MAX] == 1 / 7
    assert rows["later"].values[Statistic.MAX] == 0.5


def test_errors_in_the_shared_arithmetic_come_before_any_machine_s_own_and_costs_do_not(project):
    folder, _ = project
    copied(folder, SHARED_MACHINE, 0)
    copied(folder, f"{SHARED_MACHINE}-mine", 1)  # the same bits of fewer cells, as a rule
    stored = StoredResults()
    newest = stored.commit(None)
    assert stored.machine(newest, "accuracy.Logit.track_max") == SHARED_MACHINE
    assert stored.machine(newest, "runtime.Slowdown.track_forward") == "m"


def test_csv_of_a_failed_cell_says_failed(project, capsys):
    stored = StoredResults()
    newest = stored.commit(None)
    rows = [row for row in stored.rows(newest, Space.ORIGIN) if row.state is State.FAILED]
    tables.show(Console(), Format.CSV, [newest], {Space.ORIGIN: [rows]})
    assert capsys.readouterr().out.splitlines()[1].endswith("origin,failed,failed,failed,failed")


# Several commits ------------------------------------------------------------------------------------------------------


def test_any_number_of_commits_stand_below_each_other_and_one_wrapper_below_the_one_that_it_follows(project):
    folder, commits = project
    narrowed(folder, commits["v3.0.0"], "HookedTransformer")
    done = run("--commit", "2.0.0", "--commit", "3.0.0", "--commit", "2.0.0", "--model", "zoo-gpt2", "--dtype", "float32",
               COLUMNS="160")  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [
        [word.strip() for word in line.strip("│").split("│")] for line in done.stdout.splitlines() if "unprocessed" in line
    ]
    assert [line[3:5] for line in lines] == [
        ["v2.0.0", "HookedTransformer"],
        ["v3.0.0", "TransformerBridge"],
        ["v2.0.0", "HookedTransformer"],
    ]
    assert [line[-2] for line in lines] == ["", "0.857", "1.17"]  # (2 / 7) / (1 / 3), and back


def test_in_markdown_one_wrapper_shares_the_line_of_the_one_that_it_follows(project):
    folder, commits = project
    narrowed(folder, commits["v3.0.0"], "HookedTransformer")
    done = run("--commit", "2.0.0", "--commit", "3.0.0", "--model", "zoo-gpt2", "--dtype", "float32", "--format", "markdown")
    line = next(line for line in done.stdout.splitlines() if "unprocessed" in line)
    words = [word.strip() for word in line.strip("|").split("|")]
    assert words[4:7] == ["HookedTransformer, TransformerBridge", "0.333333", "0.285714"]


def test_what_is_not_applicable_at_one_of_two_commits_is_not_said_to_be_not_measured(project):
    done = run("--commit", "2.0.0", "--commit", "3.0.0", "--wrapper", "TransformerBridge", "--format", "markdown")
    by_model = {model: [line for line in done.stdout.splitlines() if f"| {model} " in line] for model in MODELS}
    assert all("| n/a " in line and "not measured" not in line for line in by_model["zoo-gpt2"])
    assert all("| not measured " in line and "n/a" not in line for line in by_model[NOT_ASKED])


def narrowed(folder, commit, wrapper):
    """Leave a wrapper out of a commit's results, as if it were gone."""
    path = next((folder / "results" / "m").glob(f"{commit[:8]}-env.json"))
    data = json.loads(path.read_text())
    at = data["result_columns"].index("result")
    for columns in data["results"].values():
        columns[at] = [math.nan if cell[3] == wrapper else value for cell, value in zip(CELLS, columns[at], strict=True)]
    path.write_text(json.dumps(data))


def test_two_machines_are_compared_only_if_each_is_named(project):
    folder, commits = project
    copied(folder, "other", 10**14)
    next((folder / "results" / "m").glob(f"{commits['v2.0.0'][:8]}-env.json")).unlink()
    next((folder / "results" / "other").glob(f"{commits['v3.0.0'][:8]}-env.json")).unlink()
    both = ("--commit", "2.0.0", "--commit", "3.0.0")
    refused = run(*both)
    assert refused.returncode == 2
    assert "no machine has measured accuracy.Origin at each commit (v2.0.0: other; v3.0.0: m)" in refused.stderr
    named = run("--commit", "other:2.0.0", "--commit", "m:3.0.0", "--format", "markdown")
    assert named.returncode == 0, named.stderr
    assert "max v2.0.0 on other" in named.stdout
    assert "max v3.0.0 on m" in named.stdout


def test_two_commits_are_read_from_the_machine_that_has_both(project):
    folder, commits = project
    copied(folder, "later", 10**14)
    next((folder / "results" / "later").glob(f"{commits['v2.0.0'][:8]}-env.json")).unlink()
    done = run("--commit", "2.0.0", "--commit", "3.0.0", "--format", "csv", "--space", "origin")
    (first,) = [line for line in csv.DictReader(io.StringIO(done.stdout)) if line["tag"] == "v3.0.0"][:1]
    assert float(first["max"]) == 1 / 7  # of m, not the 0.5 of the machine that measured since


# The newest commit ----------------------------------------------------------------------------------------------------


def test_without_a_commit_the_newest_that_has_what_is_asked_is_shown_and_it_is_said(project):
    folder, commits = project
    for wrapper in WRAPPERS:
        narrowed(folder, commits["v3.0.0"], wrapper)
    for command in ("table", "verdicts"):
        done = run(command=command)
        assert "TransformerLens v2.0.0" in done.stdout
        assert "v3.0.0 has none of this: showing v2.0.0." in done.stderr
    advised = run("zoo-gpt2", "--effect", "100nats", command="advise")
    assert "TransformerLens v2.0.0" in " ".join(advised.stdout.split())


def test_a_space_that_nobody_measured_gives_way_to_the_next_unless_it_is_asked_for(project):
    folder, _ = project
    for path in (folder / "results" / "m").glob("*-env.json"):
        data = json.loads(path.read_text())
        data["results"] = {name: value for name, value in data["results"].items() if "Origin" not in name}
        path.write_text(json.dumps(data))
    assert "(space: probability)" in " ".join(run().stdout.split())
    asked = run("--space", "origin")
    assert asked.returncode == 2
    assert "no measured cell in the origin space matches" in asked.stderr


def test_figures_of_another_machine_are_named_where_the_default_s_lacks_them(project):
    folder, commits = project
    copied(folder, SHARED_MACHINE, 0)
    path = next((folder / "results" / SHARED_MACHINE).glob(f"{commits['v3.0.0'][:8]}-env.json"))
    path.write_text(path.read_text().replace("zoo-llama", "zoo-opt"))
    done = run("--model", "zoo-llama", "--commit", "3.0.0", command="verdicts")
    assert done.returncode == 2
    assert "m has measured it, add --machine m" in done.stderr


# The terminal ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 60])
@pytest.mark.parametrize(
    "words",
    [
        ("table",),
        ("table", "--commit", "2.0.0", "--commit", "3.0.0"),
        ("verdicts", "--commit", "2.0.0"),
        ("advise", "zoo-gpt2", "--effect", "1nats"),
        ("outcomes",),
        ("status",),
    ],
)
def test_no_table_is_wider_than_the_terminal_and_no_figure_is_cut(project, words, columns):
    done = command_line.run(*words, COLUMNS=str(columns))
    tables = [line for line in done.stdout.splitlines() if "zoo-" in line or "float" in line]
    assert tables
    assert max(map(len, tables)) <= columns
    assert "…" not in done.stdout


def test_the_models_whose_names_do_not_say_what_they_are_are_explained_and_csv_is_not_touched(project):
    folder, _ = project
    for path in (folder / "results" / "m").glob("*-env.json"):
        path.write_text(path.read_text().replace("zoo-llama", "smollm2-135m"))
    sentence = "smollm2-135m is SmolLM2-135M-Instruct, dequantized from Q4_1."
    for command in ("table", "verdicts", "status"):
        assert sentence in run(command=command).stdout
        assert sentence not in run("--format", "csv", command=command).stdout


def test_a_wrapper_that_cannot_load_a_model_is_not_applicable(project):
    refused = run("--model", "zoo-stablelm", "--wrapper", "HookedTransformer")
    assert refused.returncode == 2
    assert "zoo-stablelm is n/a in HookedTransformer, which has no such architecture: leave --wrapper out" in refused.stderr


def test_a_table_says_what_its_models_are_and_of_many_how_to_ask(capsys):
    read._say_about(["zoo-gpt2", "zoo-olmo", "zoo-mpt", "zoo-mpt"])
    assert capsys.readouterr().out.splitlines() == [
        "zoo-olmo is OLMo: LayerNorm without gains, queries, keys and values clipped.",
        "zoo-mpt is MPT: ALiBi, no biases.",
    ]
    read._say_about([model.name for model in catalogue.load().every])
    assert re.fullmatch(
        r"What a model is, of \d{3} whose names do not say it: add --model and its name.\n", capsys.readouterr().out
    )
