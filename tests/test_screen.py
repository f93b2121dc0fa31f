"""What a person sees of `make bench`: a line that moves, one line per commit, and nothing that cannot exist."""

import io
import logging
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from asv_plugins import screen as plugin
from asv_plugins.screen import Screen
from tests.stored import GPT2, GPT2_16, LLAMA, MACHINE, MEAN, ROOT, Stored, described
from tlbench.grid import Cell, RuntimeCell
from tlbench.metrics.verdict import Verdict
from tlbench.report import headline
from tlbench.report.slowdowns import CostRow
from tlbench.report.stored import Figure, TruthRow

NAN = float("nan")


def row(model, verdict, ratio=None, off=None, dtype="float32"):
    figures = {figure: value for figure, value in ((Figure.RATIO, ratio), (Figure.TOTAL_RMS, off)) if value is not None}
    return TruthRow("c0ffee", "v1", Cell(model, dtype, "fold_ln", "HookedTransformer"), figures, None, verdict)


def test_a_commit_without_a_fault_names_its_largest_ratio_and_counts_no_cell_that_cannot_exist():
    rows = [
        row("a", Verdict.BENIGN, 1.1, 1e-6),
        row("b", Verdict.SAME_ROUNDING, 1.55, 1e-6),
        row("c", Verdict.NOT_APPLICABLE),
        row("d", Verdict.NOT_MEASURED),
    ]
    assert headline.of_errors(rows) == "2 measured · none worse than benign · largest R 1.55 (b, float32, fold_ln)"
    assert headline.of_errors(rows[2:]) == "no verdict: --bench leaves out truth, or nothing is applicable"


def test_what_is_wrong_failed_or_unjudged_is_named_and_the_distance_is_the_largest():
    rows = [
        row("a", Verdict.BENIGN, 1.1, 1e-6),
        *(row("mixtral", Verdict.BROKEN, 1e6, off) for off in (3.0, 12.9)),
        *(row(model, Verdict.FAILED) for model in "bcdee"),
        row("f", Verdict.UNJUDGED),
    ]
    assert headline.of_errors(rows) == (
        "4 measured · 2 broken (mixtral, off 13 nats) · 5 failed (b, c, d and 1 more) · 1 unjudged (f)"
        " · largest R of the right ones 1.1 (a, float32, fold_ln)"
    )


def test_costs_are_the_forward_pass_s_of_each_model():
    def cost(model, operation, ratio):
        return CostRow(
            RuntimeCell(model, "float32", "unprocessed", "TransformerBridge", "1x64", "cpu", operation), ratio, 0.01
        )

    rows = [cost("zoo-gpt2", "forward", 1.961), cost("zoo-gpt2", "cache", 3.0), cost("smollm2-135m", "forward", 1.13)]
    assert headline.of_costs([*rows[:1], cost("zoo-gpt2", "forward", 2.5)]) == (
        "forward pass: 1.96 to 2.50 x HuggingFace's (zoo-gpt2)"
    )
    assert headline.of_costs(rows) == "forward pass: 1.96 x HuggingFace's (zoo-gpt2), 1.13 x HuggingFace's (smollm2-135m)"
    assert headline.of_costs([]) == "no cost was measured"


class Selected(dict):
    """asv's benchmarks, of which some cells are selected."""

    benchmark_selection = {MEAN: [0, 1, 4]}


def shown(screen, figures):
    """Run the selected cells of a benchmark, of which those without a figure are NaN."""
    benchmarks = Selected({MEAN: described(MEAN)})
    screen.begin(benchmarks)
    for index in Selected.benchmark_selection[MEAN]:
        point = screen.run(benchmarks[MEAN], index)
        screen.finish(point, SimpleNamespace(result=[figures[index]]))
    (task,) = screen._progress.tasks
    return task


def test_the_progress_line_counts_the_cells_that_have_a_figure_and_shows_each():
    terminal = io.StringIO()
    screen = Screen(Console(file=terminal, force_terminal=True, width=120))
    screen.emit(logging.makeLogRecord({"msg": "For transformer-lens commit 281d0a89 <v4.3.0>:", "levelno": logging.INFO}))
    task = shown(screen, {0: 1e-6, 1: NAN, 4: None})
    assert (task.completed, task.total) == (2, 2), "a failure is measured, what cannot exist is not"
    assert task.description == "TransformerLens 4.3.0"
    assert task.fields["cell"] == "zoo-llama HookedTransformer · float32 · unprocessed"
    screen._progress.refresh()
    screen.end()
    assert "2/2" in terminal.getvalue()


def test_into_a_file_a_line_goes_only_so_often(monkeypatch):
    file = io.StringIO()
    screen = Screen(Console(file=file, width=400))
    shown(screen, dict.fromkeys((0, 1, 4), 1e-6))
    assert file.getvalue() == ""
    monkeypatch.setattr(plugin, "PLAIN_EVERY_S", 0)
    shown(screen, dict.fromkeys((0, 1, 4), 1e-6))
    screen.end()
    assert file.getvalue().splitlines()[-1].endswith("2/3 zoo-llama HookedTransformer · float32 · unprocessed")


def test_errors_of_asv_stay_on_the_screen_in_one_line():
    file = io.StringIO()
    screen = Screen(Console(file=file, width=400))
    screen.emit(logging.makeLogRecord({"msg": "Unknown commit\nTraceback", "levelno": logging.ERROR}))
    screen.end()
    assert file.getvalue() == "asv: Unknown commit\n"


RUN = """
import asv_plugins.screen
from asv.commands import run
from asv.results import Results, iter_results_for_machine
for commit in {commits}:
    list(run.iter_results_for_machine_and_hash("results", {machine!r}, commit))
(results,) = [each for each in iter_results_for_machine("results", {machine!r}) if each.commit_hash == {commits}[0]]
results.save("results")
print("asv's grid")
"""


def test_a_commit_s_line_comes_after_its_results_and_those_that_are_stored_already_have_one_too(tmp_path):
    stored = Stored.make(tmp_path)
    verdicts = "truth.TransformerLens.track_verdict"
    for tag, severity in (("v1", 4.0), ("v2", 2.0)):
        stored.store(tag, {GPT2: severity, GPT2_16: 2.0, LLAMA: None}, name=verdicts)
    commits = [stored.commits["v2"], stored.commits["v1"]]
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(commits=commits, machine=MACHINE)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), plugin.VARIABLE: str(tmp_path / "logs" / "bench.log")},
        capture_output=True,
        text=True,
        check=True,
    )
    second, first = done.stdout.splitlines()
    assert re.fullmatch(r"TransformerLens 2 +2 measured · 1 failed \(zoo-llama\) · \d+ s", second)
    assert re.fullmatch(r"TransformerLens 1 +2 measured · 1 broken \(zoo-gpt2\) · 1 failed .* · stored already", first)
    assert (tmp_path / "logs" / "bench.log").read_text() == "asv's grid\n"


@pytest.mark.parametrize("words", [["v4.3.0", "v3.5.1", "v2.18.0", "v1.19.0"]])
def test_make_bench_measures_the_newest_release_first_and_models_that_need_no_hub(words):
    tell = "tell: ; @:$(info $(BENCH_TAGS))$(info $(BENCH_NEWEST) $(BENCH_OLDER))$(info $(BENCH_MODELS))"
    done = subprocess.run(
        ["make", "-s", "-f", "Makefile", "--eval", tell, "tell"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tags, ends, models = done.stdout.splitlines()
    assert tags.split() == words
    assert ends == "v4.3.0 v2.18.0"
    assert {"zoo-gpt2", "zoo-olmo2", "smollm2-135m"} <= set(models.split())
    assert not {"gpt2", "mistral-7b"} & set(models.split())
