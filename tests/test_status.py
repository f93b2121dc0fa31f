"""Is anything wrong at a commit? What the command says of stored results whose faults are known."""

import csv
import io
import itertools
import json
import math
import shutil
from datetime import UTC, datetime

import pytest
from asv.results import Results
from asv.runner import BenchmarkResult

from tests import command as command_line
from tests.conftest import ROOT
from tests.stored import PAIR
from tlbench.arithmetic import SHARED_MACHINE
from tlbench.grid import Dtype, Statistic, words_of
from tlbench.history import SourceCommit, SourceFile, build_from_trees
from tlbench.metrics.figures import UNIT_ROUNDOFF
from tlbench.metrics.verdict import Verdict
from tlbench.questions.registry import QUESTIONS as ASKABLE
from tlbench.report.checks import CHECKS, CLASSES, OWN_ERROR, QUESTIONS, ROUNDINGS, UNCHECKED, Part, row_sum
from tlbench.report.stored import TRUTH

GRID = (
    ["zoo-gpt2", "zoo-bloom", "gpt2"],
    ["float32", "bfloat16"],
    ["unprocessed"],
    ["HookedTransformer", "TransformerBridge"],
)
CELLS = list(itertools.product(*GRID))
VERDICT = f"{TRUTH}.track_verdict"
OWN = 1e-6
"""Every measured cell's own error in nats."""


def is_measured(cell):
    return cell[0] != "gpt2" and cell[3] == "TransformerBridge"


def right_values():
    """By track and cell: everything right, and measured for the zoo's bridges."""
    values = {check.benchmark: dict.fromkeys(CELLS, 0.0) for check in CHECKS} | {VERDICT: dict.fromkeys(CELLS, 2.0)}
    values[OWN_ERROR] = dict.fromkeys(CELLS, OWN)
    return {track: {c: v if is_measured(c) else math.nan for c, v in cells.items()} for track, cells in values.items()}


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Write results of asv's own making: the logits of one machine, all else of another. Then run a command there."""
    releases = [
        SourceCommit(tag, datetime(2024, month, 1, tzinfo=UTC), tag, {"a": SourceFile(tag.encode())})
        for month, tag in ((1, "v1.0.0"), (2, "v2.0.0"))
    ]
    commits = build_from_trees(tmp_path / "h.git", releases)
    conf = {"version": 1, "project": "p", "repo": "h.git", "results_dir": "results", "branches": ["main"]}
    (tmp_path / "asv.conf.json").write_text(json.dumps(conf))
    monkeypatch.chdir(tmp_path)
    models, dtypes, options, wrappers = GRID
    pairs = [f"{model} {wrapper}" for model in models for wrapper in wrappers]
    params = [[*map(repr, words)] for words in (pairs, dtypes, options)]
    stored_cells = [words_of(*point) for point in itertools.product(pairs, dtypes, options)]

    def write(values, failed="", release="v1.0.0", of_inside="xeon", noticed_on=SHARED_MACHINE):
        benchmarks = {
            name: {"name": name, "params": params, "param_names": [PAIR, "dtype", "option"], "version": "1", "type": "track"}
            for name in values
        }
        for machine, day in ((SHARED_MACHINE, 2), (of_inside, 3)):
            of_logits = {name for name in values if name.startswith(("accuracy.", "truth."))}
            own = {name: cells for name, cells in values.items() if (name in of_logits) is (machine == SHARED_MACHINE)}
            stored = Results({"machine": machine}, {}, commits[release], int(release[1]), "3.11", "env", {})
            for name, cells in own.items():
                none = [None] * len(CELLS)
                result = BenchmarkResult([cells[cell] for cell in stored_cells], none, none, 0, "", None)
                stored.add_result(benchmarks[name], result, started_at=datetime(2026, 5, day, tzinfo=UTC), duration=1.0)
            if own:
                stored.save(str(tmp_path / "results"))
                (tmp_path / "results" / machine / "machine.json").write_text(json.dumps({"machine": machine, "version": 1}))
        (tmp_path / "results" / "benchmarks.json").write_text(json.dumps({**benchmarks, "version": 2}))
        absent = [" ".join(cell) for cell in CELLS if cell[3] == "HookedTransformer"]
        lines = [{"question": "accuracy", "kind": "n/a", "judged_by": "", "reason": "it was removed", "cells": absent}]
        if failed:
            line = {"question": "accuracy", "kind": "failed", "judged_by": "", "reason": "it raised SomeError"}
            lines.append({**line, "cells": [failed]})
        (tmp_path / "results" / noticed_on).mkdir(exist_ok=True)
        endings = tmp_path / "results" / noticed_on / f"{commits[release][:8]}-env.endings.jsonl"
        endings.write_text("".join(json.dumps(line) + "\n" for line in lines))

    return write


def status(*words, **environment):
    return command_line.run("status", *words, **environment)


def checked(*words):
    """The CSV's lines by check, model and dtype, of the bridge alone."""
    lines = csv.DictReader(io.StringIO(status("1.0.0", "--format", "csv", *words).stdout))
    return {(one["check"], one["model"], one["dtype"]): one for one in lines if one["wrapper"] == "TransformerBridge"}


def test_nothing_wrong_is_a_no_in_the_first_line_and_exit_status_0(store):
    store(right_values())
    done = status("1.0.0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("No, nothing is wrong in TransformerLens v1.0.0 (")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.part}-{check.track}")
def test_each_check_finds_a_figure_beyond_its_limit_and_accepts_one_at_it(store, check):
    values, cell = right_values(), ("zoo-bloom", "float32", "unprocessed", "TransformerBridge")
    limit = check.limit(Dtype.FLOAT32, OWN)
    values[check.benchmark][cell] = limit
    store(values)
    assert status("1.0.0").returncode == 0
    values[check.benchmark][cell] = limit * 1.01 + 1e-9
    store(values)
    done = status("1.0.0")
    assert done.returncode == 1
    first, *rest = done.stdout.splitlines()
    assert first.startswith("Yes, in TransformerLens v1.0.0: wrong in ")
    assert str(check.part) in first
    found = " ".join(line for line in rest[1:5])
    assert check.what.split()[0] in found
    assert "zoo-bloom (1 of 4 cells" in " ".join(found.split())


def test_the_limits_are_those_of_the_method():
    limits = {check.track: [check.limit(dtype, OWN) for dtype in Dtype] for check in CHECKS}
    assert limits["start_at_layer"] == [0, 0, 0]
    assert limits["edit_ratio"] == [2, 3, 3]
    assert limits["cache_error"] == [ROUNDINGS * OWN] * 3
    assert limits["wrong_tokens"] == [0, None, None]
    assert row_sum(Dtype.BFLOAT16, None) == 8 * UNIT_ROUNDOFF[Dtype.BFLOAT16] == 1 / 32


def test_what_cannot_be_judged_is_neither_right_nor_wrong(store):
    values = right_values()
    values["hooks.Generation.track_wrong_tokens"]["zoo-gpt2", "bfloat16", "unprocessed", "TransformerBridge"] = 3.0
    values["hooks.Generation.track_cache_error"]["zoo-gpt2", "float32", "unprocessed", "TransformerBridge"] = 1e-7
    values[OWN_ERROR] = dict.fromkeys(CELLS, math.nan)  # so nothing says how large a rounding is
    store(values)
    done = status("1.0.0")
    assert done.returncode == 3
    sentence = "Nothing is known to be wrong in TransformerLens v1.0.0, but: partly unjudged in generation."
    assert done.stdout.splitlines()[0] == sentence
    words = {key: one["word"] for key, one in checked().items()}
    assert words["greedy tokens", "zoo-gpt2", "bfloat16"] == "unjudged"
    assert words["key-value cache against a full pass", "zoo-gpt2", "float32"] == "unjudged"
    assert words["key-value cache against a full pass", "zoo-bloom", "float32"] == "right"


def test_a_part_that_nobody_measured_is_named_and_the_answer_is_not_a_plain_no(store):
    values = {name: cells for name, cells in right_values().items() if not name.startswith("gradients")}
    store(values)
    done = status("1.0.0")
    assert done.returncode == 3
    assert done.stdout.splitlines()[0].endswith(": not measured in reading and gradients.")


def test_failed_not_applicable_and_not_measured_never_look_alike(store):
    values = right_values()
    broken = ("zoo-gpt2", "float32", "unprocessed", "TransformerBridge")
    for cells in values.values():
        cells[broken] = None
    store(values, failed=" ".join(broken))
    done = status("1.0.0")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == "Yes, in TransformerLens v1.0.0: failed in logits."
    assert done.stdout.count("failed  ") == 1 + 1  # the finding, which explains the other parts' too, and the column
    assert "logits: it raised SomeError" in done.stdout
    lines = {line.split("  ")[0]: line.split() for line in done.stdout.splitlines()}
    # wrong, failed, unjudged, right, n/a (the other wrapper, at every machine) and not measured (gpt2)
    assert lines["logits"][-6:] == lines["hooks"][-6:] == ["0", "1", "0", "3", "6", "2"]


def words_of_hooks(output):
    (line,) = (line.split() for line in output.splitlines() if line.startswith("hooks  "))
    return dict(zip(("wrong", "failed", "unjudged", "right", "n/a", "not measured"), map(int, line[-6:]), strict=True))


def test_what_the_shared_arithmetic_found_not_applicable_holds_for_every_machine_and_the_page_says_where_from(store):
    store(right_values())
    done = status("1.0.0")
    assert (words_of_hooks(done.stdout)["n/a"], words_of_hooks(done.stdout)["not measured"]) == (6, 2)
    said = " ".join(done.stdout.split())
    assert f"context length and noise floor: noticed on {SHARED_MACHINE}." in said.replace("depth, ", "")
    assert f"it was removed (noticed on {SHARED_MACHINE})" in status("1.0.0", "--format", "csv").stdout


def test_what_is_not_applicable_on_one_machine_was_not_measured_on_another(store):
    store(right_values(), noticed_on="another machine")
    found = words_of_hooks(status("1.0.0").stdout)
    assert (found["n/a"], found["not measured"]) == (0, 8)


def test_a_failure_inside_a_measured_cell_is_a_finding_of_its_own(store):
    values = right_values()
    values["hooks.Hooks.track_start_at_layer"]["zoo-gpt2", "float32", "unprocessed", "TransformerBridge"] = None
    values["hooks.Hooks.track_stop_at_layer"]["zoo-bloom", "float32", "unprocessed", "TransformerBridge"] = math.nan
    store(values)
    done = status("1.0.0")
    assert done.returncode == 1
    assert "hooks: start_at_layer: it raised, and no reason was kept" in " ".join(done.stdout.split())
    words = {key: one["word"] for key, one in checked().items()}
    assert words["start_at_layer", "zoo-gpt2", "float32"] == "failed"
    assert words["stop_at_layer", "zoo-bloom", "float32"] == "n/a"  # the cell was measured, and has no such figure
    assert words["stop_at_layer", "gpt2", "float32"] == "not measured"


def test_each_part_says_from_which_machine_and_when_it_comes(store):
    store(right_values())
    shown = " ".join(status("1.0.0").stdout.split())
    assert "logits: shared-x86-64 (the arithmetic that all machines share), 2026-05-02." in shown
    assert "noise floor: xeon (its own arithmetic), 2026-05-03." in shown
    assert "Not measured at all: gpt2." in shown
    line = checked()["start_at_layer", "zoo-gpt2", "float32"]
    assert (line["machine"], line["measured_at"][:10]) == ("xeon", "2026-05-03")


def test_wrong_logits_are_told_with_their_verdict(store):
    values = right_values()
    values[VERDICT]["zoo-gpt2", "float32", "unprocessed", "TransformerBridge"] = Verdict.BROKEN.severity
    values[f"{TRUTH}.track_error_ratio"] = {cell: 400.0 if is_measured(cell) else math.nan for cell in CELLS}
    store({name: cells for name, cells in values.items() if not name.startswith(TRUTH)} | {VERDICT: values[VERDICT]})
    done = status("1.0.0", "--model", "zoo-gpt2")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == "Yes, in TransformerLens v1.0.0: wrong in logits."


def test_a_track_without_a_check_is_told_and_not_passed_over(store):
    values = right_values()
    values["hooks.Hooks.track_new_promise"] = dict(values["hooks.Hooks.track_start_at_layer"])
    values["causality.Causality.track_leak"] = dict(values["hooks.Hooks.track_start_at_layer"])
    store(values)
    sentence = "no check knows the largest right figure: causality.Causality, hooks.Hooks.track_new_promise."
    assert sentence in " ".join(status("1.0.0").stdout.split())


def test_what_was_not_measured_at_all_is_one_sentence_and_exit_status_2(store):
    store(right_values())
    for words, told in (
        (("1.0.0", "--model", "gpt2"), "nothing that matches was measured at v1.0.0 (n/a, not measured)"),
        (("2.0.0",), "2.0.0 was not measured: choose one of v1.0.0"),
        (("1.0.0", "--model", "gpt3"), "unknown model 'gpt3'"),
        (("1.0.0", "--machine", "yours"), "no results of machine 'yours': choose one of shared-x86-64, xeon"),
    ):
        done = status(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert told in done.stderr


def test_every_track_has_a_check_or_is_known_to_have_none():
    stored = json.loads((ROOT / "releases" / "results" / "benchmarks.json").read_text())
    parts = {name: part for part, name in CLASSES.items() if part is not Part.LOGITS}
    tracks = {(parts[cls], track) for cls, _, track in (name.partition(".track_") for name in stored) if cls in parts}
    known = {(check.part, check.track) for check in CHECKS}
    unchecked = {(part, track) for part, names in UNCHECKED.items() for track in names}
    assert tracks
    assert tracks == known | unchecked
    assert not known & unchecked


def test_a_part_s_question_is_one_that_can_be_asked():
    assert set(QUESTIONS.values()) <= set(ASKABLE)
    assert set(QUESTIONS) == set(Part) > set(CLASSES)


# The committed results ------------------------------------------------------------------------------------------------

NEWEST = "281d0a89"  # 4.3.0; a clone without `tlbench history` knows no tags
CONFIG = ROOT / "releases" / "asv.conf.json"


@pytest.mark.slow
def test_what_the_findings_say_is_wrong_in_the_newest_release_is_found_from_stored_results():
    done = status(NEWEST, "--config", CONFIG)
    shown = " ".join(done.stdout.split())
    assert done.returncode == 1
    assert "start_at_layer: 16.4 nats (must be 0) zoo-bloom (6 of 114 cells" in shown
    assert "logit_attrs of heads: 8.03 nats" in shown
    assert "hooks that never fire: 26 hook points (must be 0)" in shown
    assert "xeon-2-cores (its own arithmetic), 2026-11-24" in shown
    assert max(map(len, done.stdout.splitlines()[1:])) <= 80


@pytest.mark.slow
def test_what_is_healthy_in_the_newest_release_is_not_accused():
    lines = [*csv.DictReader(io.StringIO(status(NEWEST, "--config", CONFIG, "--format", "csv").stdout))]
    wrong = {one["check"] for one in lines if one["word"] == "wrong"}
    assert wrong == {"logits", "start_at_layer", "hooks that never fire", "hooks that fire twice", "logit_attrs of heads"}
    of_findings = " ".join(path.read_text() for path in (ROOT / "docs" / "findings").glob("*.md"))
    models = {one["model"] for one in lines if one["check"] == "logits" and one["word"] == "wrong"}
    assert models
    assert not [model for model in models if model not in of_findings]


# Outcomes -------------------------------------------------------------------------------------------------------------


def outcomes(*words):
    return command_line.run("outcomes", *words)


def test_outcomes_know_every_question_even_where_no_reason_was_kept(store):
    values, broken = right_values(), ("zoo-gpt2", "float32", "unprocessed", "TransformerBridge")
    values[VERDICT][broken] = None
    values["gradients.Gradients.track_error_ratio"][broken] = None
    store(values, failed=" ".join(broken))
    lines = list(csv.DictReader(io.StringIO(outcomes("--failed", "--format", "csv").stdout)))
    assert [(one["question"], one["models"], one["reason"], one["machine"]) for one in lines] == [
        ("", "zoo-gpt2", "it raised SomeError", SHARED_MACHINE),
        ("gradients", "zoo-gpt2", "no reason was kept", "xeon"),
    ]


def test_that_nothing_failed_is_not_said_of_what_nobody_measured(store):
    store({name: cells for name, cells in right_values().items() if name == VERDICT or name.startswith("hooks.Hooks")})
    done = outcomes("--failed", "--commit", "1.0.0")
    assert done.returncode == 0
    assert done.stdout == (
        "v1.0.0: cells failed: 0 of 4 in logits, 0 of 4 in hooks. Not measured: generation, reading, gradients, depth, "
        "context length, noise floor.\n"
    )


# Since another commit -------------------------------------------------------------------------------------------------

CELL = ("zoo-gpt2", "float32", "unprocessed", "TransformerBridge")
ADDITIVITY = "hooks.Hooks.track_additivity"


def since(*words):
    return status("2.0.0", "--since", "1.0.0", *words)


def with_value(track, value, cell=CELL):
    values = right_values()
    values[track][cell] = value
    return values


@pytest.mark.parametrize(
    ("before", "after", "change", "code"),
    [
        (0.0, 1.0, "now wrong", 1),
        (0.0, None, "now fails", 1),
        (1.0, None, "still", 0),
        (math.nan, 1.0, "first seen", 3),
        (1.0, 0.0, "mended", 0),
        (None, 0.0, "mended", 0),
        (0.0, 0.0, "right in both", 0),
        (1.0, math.nan, "gone", 0),
    ],
)
def test_each_check_changes_in_one_of_the_ways(store, before, after, change, code):
    store(with_value(ADDITIVITY, before))
    store(with_value(ADDITIVITY, after), release="v2.0.0")
    done = since()
    assert done.returncode == code
    assert done.stdout.startswith("Yes" if code == 1 else "No")
    lines = csv.DictReader(io.StringIO(since("--format", "csv").stdout))
    words = {(one["check"], one["model"], one["dtype"]): one["change"] for one in lines}
    key = ("input + attention + MLP is the output", "zoo-gpt2", "float32")
    assert words.pop(key) == change
    assert set(words.values()) == {"right in both"}
    found = [line for line in done.stdout.splitlines() if line.startswith(change) and "hooks:" in line]
    assert len(found) == (change not in ("right in both", "gone"))


def test_a_wrapper_is_compared_with_the_one_that_it_follows(store):
    values = right_values()
    other = {"HookedTransformer": "TransformerBridge", "TransformerBridge": "HookedTransformer"}
    store({track: {cell: cells[(*cell[:3], other[cell[3]])] for cell in CELLS} for track, cells in values.items()})
    store(with_value(ADDITIVITY, 1.0), release="v2.0.0")
    done = since()
    assert done.returncode == 1
    assert done.stdout.startswith("Yes, TransformerLens v2.0.0 is worse than v1.0.0 in hooks (input + attention + MLP is")
    line = next(one for one in csv.DictReader(io.StringIO(since("--format", "csv").stdout)) if one["change"] == "now wrong")
    assert (line["earlier_wrapper"], line["wrapper"]) == ("HookedTransformer", "TransformerBridge")


def test_two_machines_are_not_compared_and_it_is_said(store):
    store(right_values())
    store(with_value(ADDITIVITY, 1.0), release="v2.0.0", of_inside="epyc")
    done = since()
    assert done.returncode == 3
    shown = " ".join(done.stdout.split())
    assert "measured on two machines, which are not compared: hooks, generation" in shown
    assert "logits: both measured on shared-x86-64." in shown


def test_what_was_not_measured_then_is_not_called_no_worse(store):
    store({name: cells for name, cells in right_values().items() if name == VERDICT})
    store(right_values(), release="v2.0.0")
    done = since()
    assert done.returncode == 3
    assert "not measured at v1.0.0: hooks, generation, reading, gradients, depth and context length." in done.stdout


def test_what_a_filter_leaves_without_results_is_not_called_no_worse(store):
    for release in ("v1.0.0", "v2.0.0"):
        values = right_values()
        for track, cells in values.items():
            if track.startswith("gradients.Gradients"):
                cells[CELL] = math.nan
        store(values, release=release)
    done = since("--model", "zoo-gpt2", "--dtype", "float32")
    assert done.returncode == 3
    assert "not measured at both: gradients." in done.stdout.splitlines()[0]
    assert since("--model", "zoo-gpt2", "--dtype", "bfloat16").returncode == 0


@pytest.mark.slow
def test_a_fresh_clone_knows_the_releases_by_name_before_it_has_their_history(tmp_path):
    shutil.copytree(CONFIG.parent / "results", tmp_path / "results")
    shutil.copy(CONFIG, tmp_path)
    done = status("4.3.0", "--config", tmp_path / CONFIG.name)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("Yes, in TransformerLens v4.3.0: wrong in logits, hooks")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("costs", "--commit", NEWEST),
        ("costs", "--commit", NEWEST, "--what", "growth"),
        ("costs", "--commit", NEWEST, "--what", "memory"),
        ("slower", "40e193f9", NEWEST, "--all"),
        ("env", NEWEST),
        ("outcomes", "--commit", "3df9a4b4"),
        ("table", "--commit", "40e193f9", "--commit", "dcde650f", "--commit", NEWEST, "--dtype", "float32"),
        ("verdicts", "--commit", NEWEST),
        ("status", NEWEST, "--since", "dcde650f"),
    ],
    ids=" ".join,
)
def test_the_tables_of_real_results_fit_80_columns(words):
    done = command_line.run(*words, "--config", CONFIG, COLUMNS="80")
    assert done.returncode in (0, 1, 3), done.stderr
    sentences = ("No,", "Yes,", f"{words[-1]}:", "TransformerLens ", "v", "281d0a89", "3df9a4b4")  # a terminal wraps these
    lines = [line for line in done.stdout.splitlines() if not line.startswith(sentences)]
    assert len(lines) > 3
    assert max(map(len, lines)) <= 80
    assert "…" not in done.stdout


def test_logits_that_were_compared_with_huggingface_alone_are_unjudged_and_neither_right_nor_not_measured(store):
    values = {cell: 1e-6 if is_measured(cell) else math.nan for cell in CELLS}
    values["zoo-bloom", "float32", "unprocessed", "TransformerBridge"] = None
    store({f"accuracy.Logit.track_{statistic}": values for statistic in Statistic})
    assert {one["word"] for one in checked().values()} == {"unjudged", "failed", "not measured"}
    done = status("1.0.0", "--model", "zoo-gpt2")
    assert done.returncode == 3
    assert "partly unjudged in logits" in done.stdout.splitlines()[0]
