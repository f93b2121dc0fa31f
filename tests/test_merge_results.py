"""Taking in another machine's results files of asv: what is added, what is refused, and that nothing here is lost."""

import json
import shutil

import pytest

from tests.command import run
from tests.stored import GPT2, GPT2_16, LLAMA, MACHINE, MAX, MEAN, Stored
from tlbench.arithmetic import SHARED_PROBES
from tlbench.report.merging import merge_results
from tlbench.report.stored import is_nan

RELEASE, PROBE = next(iter(SHARED_PROBES.items()))
MADE_IN = {"arithmetic": "shared", "probe": PROBE, "torch": RELEASE, "transformers": "5.23.0"}


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """A folder with asv's configuration and a history of three commits, without results."""
    return Stored.make(tmp_path_factory.mktemp("merge"))


@pytest.fixture
def machines(history, tmp_path):
    """Make another machine's folder of results, or ours, of the same history."""

    def make(name, figures, tag="v1", made_in=MADE_IN, benchmark=MEAN):
        folder = tmp_path / name
        if not folder.exists():
            shutil.copytree(history.folder, folder)
        stored = Stored(folder, history.commits)
        stored.store(tag, figures, benchmark)
        (path,) = (folder / "results" / MACHINE).glob(f"{history.commits[tag][:8]}-*.json")
        if made_in:
            path.with_suffix(".environments.jsonl").write_text(json.dumps(made_in) + "\n")
        return folder / "results"

    return make


def values(results, history, tag="v1", name=MEAN):
    """The stored figures of a benchmark."""
    (path,) = (results / MACHINE).glob(f"{history.commits[tag][:8]}-*.json")
    stored = json.loads(path.read_text())
    return [value for value in stored["results"][name][0] if value is not None and not is_nan(value)]


def test_other_cells_other_benchmarks_and_other_commits_are_added(machines, history):
    ours = machines("ours", {GPT2: 1.0})
    theirs = machines("theirs", {GPT2: 1.0, LLAMA: 2.0})
    machines("theirs", {GPT2: 3.0}, benchmark=MAX)
    machines("theirs", {GPT2: 4.0}, tag="v2")
    merged = merge_results(theirs, ours)
    assert (merged.added, merged.same, merged.refused) == (3, 1, [])
    assert sorted(values(ours, history)) == [1.0, 2.0]
    assert values(ours, history, name=MAX) == [3.0]
    assert values(ours, history, tag="v2") == [4.0]
    again = merge_results(theirs, ours)
    assert (again.added, again.same, again.refused) == (0, 4, [])


def test_a_conflict_keeps_ours_and_is_told_and_the_rest_is_added(machines, history):
    ours, theirs = machines("ours", {GPT2: 1.0}), machines("theirs", {GPT2: 1.5, GPT2_16: 2.0})
    merged = merge_results(theirs, ours)
    assert (merged.added, len(merged.refused)) == (1, 1)
    assert "is 1.5 there and 1.0 here: ours is kept" in merged.refused[0]
    assert sorted(values(ours, history)) == [1.0, 2.0]


def test_a_failure_here_is_replaced_by_a_figure_and_a_figure_by_no_failure(machines, history):
    ours, theirs = machines("ours", {GPT2: None, LLAMA: 1.0}), machines("theirs", {GPT2: 2.0, LLAMA: None, GPT2_16: None})
    merged = merge_results(theirs, ours)
    assert (merged.added, merged.refused) == (1, [])
    assert sorted(values(ours, history)) == [1.0, 2.0]
    (path,) = (ours / MACHINE).glob(f"{history.commits['v1'][:8]}-*.json")
    assert json.loads(path.read_text())["results"][MEAN][0].count(None) == 1


@pytest.mark.parametrize(
    ("made_in", "reason"),
    [
        (MADE_IN | {"probe": "another"}, "its probe another is not the shared arithmetic's"),
        (MADE_IN | {"transformers": "5.9.0"}, "it was measured with transformers 5.9.0, and here with 5.23.0"),
        (None, "nothing beside it says what it was measured in"),
    ],
)
def test_another_probe_other_libraries_or_no_provenance_are_refused(machines, history, made_in, reason):
    ours, theirs = machines("ours", {GPT2: 1.0}), machines("theirs", {LLAMA: 2.0}, made_in=made_in)
    merged = merge_results(theirs, ours)
    assert merged.added == 0
    assert len(merged.refused) == 1
    assert reason in merged.refused[0]
    assert values(ours, history) == [1.0]


def test_a_damaged_file_is_refused_and_the_others_are_taken(machines, history):
    ours = machines("ours", {GPT2: 1.0})
    theirs = machines("theirs", {LLAMA: 2.0})
    machines("theirs", {GPT2: 4.0}, tag="v2")
    (path,) = (theirs / MACHINE).glob(f"{history.commits['v1'][:8]}-*.json")
    path.write_text(path.read_text()[:-30])
    merged = merge_results(theirs, ours)
    assert merged.added == 1
    assert len(merged.refused) == 1
    assert f"{path} is damaged" in merged.refused[0]
    assert values(ours, history) == [1.0]


def test_a_machine_of_the_same_name_that_is_another_is_refused(machines):
    ours, theirs = machines("ours", {GPT2: 1.0}), machines("theirs", {LLAMA: 2.0})
    description = theirs / MACHINE / "machine.json"
    description.write_text(description.read_text().replace("x86_64", "aarch64"))
    merged = merge_results(theirs, ours)
    assert merged.added == 0
    assert "another machine: rename one of the two" in merged.refused[0]


def test_the_command_merges_results_and_a_machine_that_is_new_here(machines, history):
    theirs = machines("theirs", {LLAMA: 2.0})
    done = run("merge", theirs, "--config", history.folder / "asv.conf.json")
    assert (done.returncode, done.stdout) == (0, f"{theirs}: 1 figures added, 0 the same, 0 refusals\n")
    shutil.rmtree(history.folder / "results" / MACHINE)
