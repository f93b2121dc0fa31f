"""What is said of a step: whose it is, which cells moved, and whether it came out the same again. No commit is measured."""

import json
import shlex
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from tests.command import run
from tests.test_clone import clone, commit  # noqa: F401
from tests.test_environments import git
from tlbench.cli.steps import app
from tlbench.environments.workshop import Environment
from tlbench.exceptions import BadInput, CellFailed, DoesNotImport
from tlbench.grid import Cell
from tlbench.metrics.change import Change, State
from tlbench.metrics.distribution import Fingerprint
from tlbench.metrics.verdict import Verdict
from tlbench.paths import package_dir
from tlbench.questions.stations import Station
from tlbench.records.measurement import Measurement
from tlbench.records.outcome import Kind, Outcome
from tlbench.records.serial import restored
from tlbench.report import steps as report
from tlbench.report.steps import Searched
from tlbench.steps import measuring
from tlbench.steps.findings import Finder, differing_packages
from tlbench.steps.measuring import Laboratory
from tlbench.steps.search import Effort
from tlbench.steps.states import state_of

CELLS = [Cell("zoo-gpt2", dtype, "unprocessed", "HookedTransformer") for dtype in ("float32", "bfloat16")]
DTYPES = ("float32", "bfloat16", "float32", "bfloat16")
OLD = Environment(Path("old"), "era4", "o" * 12, ("torch==2.13.0", "transformers==4.57.6", "wandb==1"))
NEW = Environment(Path("new"), "era5", "n" * 12, ("numpy==2", "torch==2.13.0", "transformers==5.23.0", "wandb==1"))


def right(bits="a", error=1e-6, verdict=Verdict.BENIGN):
    return State(verdict, bits, error)


@pytest.fixture
def planted(clone, own_cache, monkeypatch):  # noqa: F811
    """Plant what four commits are: their environments, and their states in an environment, now or anew."""

    class Planted:
        commits = [commit(clone, f"commit {i}", transformer_lens__a_py=f"x = {i}\n") for i in range(4)]
        finder = Finder(clone)
        environments: dict = {}
        states: dict = {}
        anew: dict = {}

        def plant(self, number, state, environment=OLD, **crossed):
            self.environments[self.commits[number]] = environment
            self.states[self.commits[number], environment.era] = state
            for era, other in crossed.items():
                self.states[self.commits[number], era] = other

        def steps(self, effort=Effort.SEARCH):
            return self.finder.steps(self.commits[0], self.commits[-1], CELLS, effort)

    made = Planted()
    made.environments, made.states, made.anew = {}, {}, {}

    def environment(self, one):
        return made.environments[one]

    def measure(self, one, where, cells):
        state = (made.anew if self.is_fresh else {}).get((one, where.era), made.states.get((one, where.era)))
        if state is None:
            raise CellFailed("it does not import")
        return {cell: State(state.verdict, state.fingerprint, state.error, environment=str(where)) for cell in cells}

    monkeypatch.setattr("tlbench.environments.workshop.Workshop.environment", environment)
    monkeypatch.setattr(Laboratory, "_measure", measure)
    monkeypatch.setattr(Laboratory, "first_wrong", lambda *_: "block 1, pattern")
    return made


def test_a_step_has_its_commit_class_cells_and_place(planted):
    for number, state in enumerate([right(), right(), right("b", 1e-2, Verdict.BROKEN), right("b", 1e-2, Verdict.BROKEN)]):
        planted.plant(number, state)
    (found,) = planted.steps().findings
    assert (found.commits, found.before) == ((planted.commits[2],), planted.commits[1])
    assert (found.change, found.place, found.doubt) == (Change.ALARM, "block 1, pattern", "")
    assert {one.cell for one in found.moved} == set(CELLS)


def parsed(line):
    """The last command of a line, as tlbench understands it. Raises click's error if it does not."""
    name, *words = shlex.split(line.split(" && ")[-1])[1:]
    return typer.main.get_command(app).commands[name].make_context(name, words)


def test_what_reproduces_a_step_is_understood(planted):
    for number in range(4):
        planted.plant(number, right() if number < 2 else right("b", 1e-2, Verdict.BROKEN))
    (found,) = planted.steps().findings
    commands = [parsed(line) for line in report.commands(planted.finder.clone, found)]
    assert [command.params["tl"] for command in commands] == [f"/tmp/{commit[:8]}" for commit in planted.commits[1:3]]
    assert {command.params["model"] for command in commands} == {"zoo-gpt2"}


def test_the_commands_of_the_stored_steps_are_understood():
    for path in (package_dir().parent / "docs" / "steps").glob("*.json"):
        for step in restored(Searched, json.loads(path.read_text())).steps:
            assert [parsed(line).params["tl"] for line in step.reproduce] == [step.before, step.after]


def test_where_the_same_commit_differs_in_both_environments_the_environment_did_it(planted):
    planted.plant(0, right())
    planted.plant(1, right())
    planted.plant(2, right("b", 1e-3, Verdict.WORSE), NEW, era4=right())
    planted.plant(3, right("b", 1e-3, Verdict.WORSE), NEW)
    (found,) = planted.steps().findings
    assert found.change is Change.ENVIRONMENT
    assert found.commits == (planted.commits[2],)
    assert found.environments == ("transformers 4.57.6 → 5.23.0", "numpy none → 2")


def test_what_transformer_lens_did_is_not_blamed_on_an_environment_that_changed_too(planted):
    planted.plant(0, right())
    planted.plant(1, right())
    planted.plant(2, right("b", 1e-3, Verdict.WORSE), NEW, era4=right("b", 1e-3, Verdict.WORSE))
    planted.plant(3, right("b", 1e-3, Verdict.WORSE), NEW)
    (found,) = planted.steps().findings
    assert found.change is Change.ALARM
    assert found.environments


def test_a_commit_that_does_not_import_in_the_older_environment_is_compared_in_its_own(planted):
    planted.plant(0, right())
    planted.plant(1, right(), era5=right("b"))
    planted.plant(2, right("b"), NEW)
    planted.plant(3, right("b"), NEW)
    assert planted.steps().findings[0].change is Change.ENVIRONMENT


def test_if_neither_imports_in_the_other_environment_the_step_is_judged_as_it_stands(planted):
    planted.plant(0, right())
    planted.plant(1, right())
    planted.plant(2, right("b", 1e-3, Verdict.WORSE), NEW)
    planted.plant(3, right("b", 1e-3, Verdict.WORSE), NEW)
    (found,) = planted.steps().findings
    assert found.change is Change.ALARM
    assert found.environments


def test_a_step_that_is_not_there_the_second_time_is_not_confirmed_and_not_kept(planted):
    for number in range(4):
        planted.plant(number, right("a" if number < 2 else "b", 1e-6 if number < 2 else 1.0))
    planted.anew[planted.commits[2], "era4"] = right("a")
    first = planted.steps().findings[0]
    assert "was not the same when it was measured anew" in first.doubt
    planted.anew.clear()
    assert planted.steps().findings[0].doubt == ""


def test_a_finding_is_read_the_second_time(planted, monkeypatch):
    for number in range(4):
        planted.plant(number, right("a" if number < 1 else "b"))
    first = planted.steps()
    monkeypatch.setattr(Finder, "_examined", lambda *_: pytest.fail("measured again"))
    assert planted.steps().findings == first.findings


def test_what_healed_is_seen_only_by_measuring_every_commit(planted):
    for number, bits in enumerate("abaa"):
        planted.plant(number, right(bits))
    assert planted.steps().findings == ()
    assert [one.commits for one in planted.steps(Effort.EXHAUSTIVE).findings] == [(c,) for c in planted.commits[1:3]]


def test_an_end_that_does_not_import_is_refused_and_one_in_the_middle_makes_a_set(planted):
    planted.plant(0, right())
    planted.plant(1, None)
    planted.plant(2, right("b"))
    planted.plant(3, right("b"))
    found = planted.steps()
    assert found.findings[0].commits == tuple(planted.commits[1:3])
    assert found.skipped == {planted.commits[1]: "it does not import"}
    planted.plant(0, None)
    with pytest.raises(BadInput, match="cannot be measured"):
        planted.steps()


def test_cells_that_were_not_measured_are_said_and_are_no_step(planted):
    planted.plant(0, State(Verdict.NOT_MEASURED))
    for number in range(1, 4):
        planted.plant(number, right())
    found = planted.steps()
    assert found.findings == ()
    assert found.not_measured.keys() == set(map(str, CELLS))


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.NOT_APPLICABLE])
def test_what_ceases_to_work_is_an_alarm_with_the_first_commit_where_it_does(planted, verdict):
    for number in range(4):
        planted.plant(number, right() if number < 3 else State(verdict))
    (found,) = planted.steps().findings
    assert found.change.is_alarm
    assert found.commits == (planted.commits[3],)


def test_packages_that_differ_are_named_torch_and_transformers_first():
    assert differing_packages(OLD, OLD) == ()
    assert differing_packages(NEW, OLD)[0] == "transformers 5.23.0 → 4.57.6"


def test_cells_are_written_once_for_all_that_share_them():
    words = report.cells_in_words([*CELLS, Cell("zoo-opt", "float32", "unprocessed", "HookedTransformer")])
    number, *groups = words.replace(": ", "; ", 1).split("; ")
    assert number == "3 cells"
    assert groups == [
        "HookedTransformer zoo-gpt2 (bfloat16 unprocessed)",
        "HookedTransformer zoo-gpt2, zoo-opt (float32 unprocessed)",
    ]


def test_the_logits_alone_decide_if_there_is_a_step():
    record = Measurement(CELLS[0], 0, 0, 0, (8, 8), fingerprint=Fingerprint("ours", "theirs"))
    other_reference = replace(record, reference_nonfinite=1, fingerprint=Fingerprint("ours", "others"))
    states = [state_of(Outcome(Kind.MEASURED, one), "") for one in (record, other_reference)]
    assert states[0].identity == states[1].identity == "ours"
    with pytest.raises(CellFailed, match="no hash of its logits"):
        state_of(Outcome(Kind.MEASURED, replace(record, fingerprint=None)), "")


@pytest.mark.parametrize(("kind", "verdict"), [(Kind.FAILED, Verdict.FAILED), (Kind.NOT_APPLICABLE, Verdict.NOT_APPLICABLE)])
def test_a_cell_without_figures_is_its_verdict(kind, verdict):
    state = state_of(Outcome(kind, reason="why"), "here")
    assert (state.verdict, state.identity, state.reason, state.environment) == (verdict, str(verdict), "why", "here")


def test_a_package_that_does_not_import_is_tried_once_and_where_all_is_measured_anew_again(clone, own_cache, monkeypatch):  # noqa: F811
    one, tried = commit(clone, "no import", transformer_lens__a_py="import nothing\n"), []

    @contextmanager
    def serving(self, package):
        tried.append(package)
        raise DoesNotImport("no module named nothing")
        yield

    monkeypatch.setattr(Station, "serving", serving)
    monkeypatch.setattr("tlbench.environments.workshop.Workshop.environment", lambda *_: OLD)
    monkeypatch.setattr("tlbench.environments.workshop.Workshop.write_package", lambda *_: None)
    for times, is_fresh in ((1, False), (1, False), (2, True)):
        laboratory = Laboratory(clone, is_fresh=is_fresh)
        with pytest.raises(CellFailed, match="no module named nothing"):
            laboratory.states(one, CELLS)
        assert len(tried) == times
        assert laboratory.unmeasurable == {one: "no module named nothing"}


def test_the_last_better_release_is_looked_for_further_and_further_back(planted):
    worse = right("b", 1e-2, Verdict.BROKEN)
    for number, state in enumerate([right(), worse, worse, worse]):
        planted.plant(number, state)
    newest = planted.commits[3]
    with pytest.raises(BadInput, match="none could be"):
        planted.finder.last_better(newest, CELLS)
    for number in (0, 1, 2):
        git(planted.finder.clone.path, "tag", f"v{number}", planted.commits[number])
    assert planted.finder.last_better(newest, CELLS) == planted.commits[0]
    assert planted.finder.applicable(newest, CELLS) == CELLS
    planted.plant(0, worse)
    with pytest.raises(BadInput, match="is not worse in any of 2 cells than any release that was measured") as error:
        planted.finder.last_better(newest, CELLS)
    assert [planted.commits[number][:8] in str(error.value) for number in (2, 1, 0)] == [True, True, True]


def test_find_of_what_is_neither_a_range_nor_a_model_is_one_sentence():
    done = run("find", "zoo-gemmma")
    assert done.returncode == 2
    assert "'zoo-gemmma' is neither a range, GOOD..BAD, nor a model: the nearest: zoo-gemma" in " ".join(done.stderr.split())


def test_the_best_commit_has_the_fewest_wrong_cells_and_then_the_smallest_errors(planted):
    for number, state in enumerate(
        [right("a", 2e-6), right("b", 1e-6), right("c", 1e-9, Verdict.BROKEN), State(Verdict.FAILED, reason="why")]
    ):
        planted.plant(number, state)
    first, second, third, fourth = planted.commits
    assert planted.finder.best([first, second, third], CELLS) == second
    assert planted.finder.best([first, third], CELLS) == first
    assert planted.finder.best([third, fourth], CELLS) == third
    planted.plant(2, right("b", 1e-6))
    assert planted.finder.best([third, second], CELLS) == third
    planted.states.clear()
    with pytest.raises(BadInput, match="name a commit instead"):
        planted.finder.best([planted.commits[0]], [Cell("zoo-llama", "float32", "unprocessed", "HookedTransformer")])


def test_small_models_are_measured_together_and_each_large_one_by_itself(monkeypatch):
    monkeypatch.setattr(measuring, "is_small", lambda model: model.startswith("zoo-"))
    names = ("zoo-gpt2", "large", "zoo-opt", "larger", "large")
    cells = [
        Cell(name, dtype, "unprocessed", "HookedTransformer")
        for name, dtype in zip(names, [*DTYPES, "float16"], strict=True)
    ]
    groups = measuring._in_memory_together(cells)
    assert [[cell.model for cell in group] for group in groups] == [["zoo-gpt2", "zoo-opt"], ["large", "large"], ["larger"]]


def test_a_long_list_in_a_reason_is_left_out():
    known = ", ".join(f"'Architecture{number}'" for number in range(20))
    state = State(Verdict.NOT_APPLICABLE, reason=f"available: [{known}], asked: ['Olmo2']")
    assert report.state_in_words(state) == "n/a (available: [...], asked: ['Olmo2'])"


def test_the_compatibility_template_names_the_last_release_that_worked_and_the_first_that_did_not(planted):
    for number, state in enumerate([right(), right(), right("b", 1e-2, Verdict.BROKEN), right("b", 1e-2, Verdict.BROKEN)]):
        planted.plant(number, state)
    for tag, number in (("v1", 0), ("v2", 3)):
        git(planted.finder.clone.path, "tag", tag, planted.commits[number])
    text = report.compatibility(planted.finder.clone, planted.steps(), "zoo-gpt2")
    assert "## Model\n\nzoo-gpt2\n" in text
    assert "The model seems to have worked as of v1. It first started\nshowing signs of incompatibility in v2." in text
    assert "commit 2" in text
    assert "No commit of the range" in report.compatibility(planted.finder.clone, planted.steps(), "zoo-opt")
