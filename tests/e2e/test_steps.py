"""`tlbench steps`, `find` and `check` name each planted step, its class and its commit, and nothing else."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from subprocess import PIPE
from xml.etree import ElementTree

import pytest

from tests.command import run
from tests.e2e.planted_history import HEALED, MODELS, STEPS, UNBUILT, planted_history
from tlbench.paths import cache_dir

CELLS = ("--dtype", "float32", "--option", "unprocessed", "--wrapper", "HookedTransformer")
OWN = ("cells", "states", "wheels")
"""What the tests keep to themselves, so that everything is measured."""
WATCHED = ("zoo-gpt2", "zoo-qwen2", "zoo-gpt-neox")
"""The models that are measured at every commit: the first fault, one that heals, and one behind what does not build."""
LAST_WATCHED = "Builds, and is wrong"
"""The last of these faults. Later commits are measured by the search alone."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache with the machine's models, goldens and environments, and no measured cell."""
    folder = tmp_path_factory.mktemp("cache")
    for path in cache_dir().iterdir():
        if path.name not in OWN:
            (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    return planted_history(tmp_path_factory.mktemp("history"))


@pytest.fixture(scope="module")
def command(cache, history):
    """A command on the planted history, with words about its range."""

    def command(name, *words, models=MODELS, **environment):
        chosen = [word for model in models for word in ("--model", model)]
        where = ("--repository", history.repository)
        return run(name, *words, *chosen, *CELLS, *where, TLBENCH_CACHE=str(cache), **environment)

    return command


def steps_of(command, *words, end="main", models=MODELS):
    done = command("steps", f"v0.1.0..{end}", "--format", "json", *words, models=models)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def searched(command):
    """The steps of the whole history, by a search."""
    return steps_of(command)


@pytest.fixture(scope="module")
def exhaustive(searched, command, history):
    """The steps of the watched models, by measuring every commit until their last step."""
    return steps_of(command, "--exhaustive", end=history.commits[LAST_WATCHED], models=WATCHED)


def named(found):
    """The class and the models of each step, by the subject of its last commit."""
    return {
        step["commits"][-1]["subject"]: (step["change"], {moved["cell"]["model"] for moved in step["cells"]})
        for step in found["steps"]
    }


def test_measuring_every_commit_names_each_planted_step_and_nothing_else(exhaustive, history):
    order = [*history.commits]
    until_the_last = order[: order.index(LAST_WATCHED) + 1]
    planted = {subject: (word, models & {*WATCHED}) for subject, (word, models) in (STEPS | HEALED).items()}
    assert named(exhaustive) == {subject: step for subject, step in planted.items() if step[1] and subject in until_the_last}


def test_the_search_names_each_step_that_stayed_and_nothing_that_was_not_planted(searched):
    found = named(searched)
    assert found.items() >= STEPS.items()
    assert found.keys() <= {*STEPS, *HEALED}


def test_each_step_is_one_commit_but_for_the_one_behind_a_commit_that_does_not_build(searched, exhaustive, history):
    for step in searched["steps"] + exhaustive["steps"]:
        hashes = [commit["hash"] for commit in step["commits"]]
        subject = step["commits"][-1]["subject"]
        expected = [UNBUILT, subject] if subject == "Builds, and is wrong" else [subject]
        assert hashes == [history.commits[name] for name in expected]
    assert list(exhaustive["skipped"]) == [history.commits[UNBUILT]]


def test_every_step_came_out_the_same_in_fresh_processes_and_has_its_figures_and_place(searched, exhaustive):
    for step in searched["steps"] + exhaustive["steps"]:
        assert not step["doubt"]
        if step["change"] == "alarm":
            assert step["cells"][0]["bits"] > 0.5
            assert step["first_wrong"].startswith("block ")


def test_pull_requests_are_named_from_the_subject_or_the_merge(searched):
    numbers = {step["commits"][-1]["subject"]: step["commits"][-1]["pull_request"] for step in searched["steps"]}
    assert numbers["Ten times the epsilon (#101)"] == "101"
    assert numbers["On a branch"] == "103"
    assert numbers["Softmax in float16"] == ""


def test_a_second_search_measures_nothing(searched, command, monkeypatch):
    from tlbench.questions.stations import Station

    monkeypatch.setattr(Station, "serving", lambda *_: pytest.fail("measured again"))
    again = json.loads(command("steps", "v0.1.0..main", "--format", "json").stdout)
    assert again["steps"] == searched["steps"]
    assert again["skipped"] == searched["skipped"]


def test_the_search_measures_fewer_commits_than_there_are(searched, history):
    assert searched["probes"] < len(history.commits)


def test_check_answers_in_its_first_line_and_names_each_cause_in_one(searched, command):
    done = command("check", "v0.1.0")
    assert done.returncode == 1, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first.startswith("WORSE  ")
    for subject, (word, models) in STEPS.items():
        if word != "other rounding":
            (line,) = [line for line in lines if subject in line]
            assert line.startswith(f"{word}: ")
            assert any(model in line for model in models)
    assert any(line.startswith("other rounding: 1 step") for line in lines)


def test_check_of_a_range_that_only_rounds_differently_passes(searched, command, history):
    before = f"{history.commits['Multiply by the reciprocal']}^"
    done = command("check", before, history.commits["Multiply by the reciprocal"])
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.startswith("NOT WORSE  ")


def test_an_accepted_step_does_not_fail_until_its_last_day(searched, command, history, tmp_path):
    words = (history.commits["Release"], history.commits["Ten times the epsilon (#101)"])
    entry = f'[[allow]]\ncommit = "{words[1][:10]}"\nwho = "maintainer"\nwhy = "wanted"\nuntil = {{}}\n'
    for until, expected in (("2999-01-01", 0), ("2000-01-01", 1)):
        (tmp_path / "allow.toml").write_text(entry.format(until))
        done = command("check", *words, "--allow", tmp_path / "allow.toml", models=("zoo-gpt2",))
        assert done.returncode == expected, done.stdout
        assert ("allowed by maintainer" if expected == 0 else "ended on 2000-01-01") in done.stdout


def test_an_improvement_not_taken_in_is_told_with_the_command_that_takes_it_in(searched, command, history, tmp_path):
    wrong, mended = history.commits["Scale the keys"], history.commits["Take it back"]
    path = tmp_path / "expected.json"
    taken = command("check", f"{wrong}^", wrong, "--expected", path, "--take-in", models=("zoo-qwen2",))
    assert taken.returncode == 1  # it is worse than its parent
    assert "not as" not in taken.stdout.lower()
    words = ("check", wrong, mended, "--expected", path)
    told = command(*words, models=("zoo-qwen2",))
    assert told.returncode == 1
    assert told.stdout.startswith("NOT AS EXPECTED  ")
    (line,) = [line for line in told.stdout.splitlines() if line.startswith("to take it in: ")]
    assert shlex.split(line.removeprefix("to take it in: "))[-1] == "--take-in"
    assert command(*words, "--take-in", models=("zoo-qwen2",)).returncode == 0
    assert command(*words, models=("zoo-qwen2",)).returncode == 0


def test_junit_has_a_failure_for_each_alarm(searched, command):
    suite = ElementTree.fromstring(command("check", "v0.1.0", "--format", "junit").stdout)
    alarms = [subject for subject, (word, _) in STEPS.items() if word != "other rounding"]
    assert int(suite.get("failures")) == len(suite.findall("testcase/failure")) == len(alarms)


def test_find_names_the_commit_that_made_one_cell_worse(searched, command, history):
    done = command("find", "v0.1.0..main", models=("zoo-phi",))
    assert done.returncode == 0, done.stderr
    assert history.commits["On a branch"][:8] in done.stdout
    assert f"worktree add --detach /tmp/{history.commits['On a branch'][:8]}" in done.stdout


def test_find_of_a_model_alone_begins_at_the_last_release_that_was_better(searched, command, history):
    done = command("find", "zoo-phi", models=())
    assert done.returncode == 0, done.stderr
    assert history.commits["On a branch"][:8] in done.stdout


def test_find_refuses_a_good_commit_that_is_not_better(searched, command, history):
    done = command("find", f"{history.commits['On a branch']}..main", models=("zoo-phi",))
    assert done.returncode == 2
    assert "is not worse than" in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["steps", "main"], "expected GOOD..BAD"),
        (["steps", "main..v0.1.0"], "turn the range round"),
        (["steps", "v0.1.0..v0.1.0"], "both ends of the range"),
        (["steps", "v0.1.0..nothing"], "no commit 'nothing'"),
        (["steps", "deadbeef..main"], "no commit 'deadbeef'"),
        (["steps", "v0.1.0..main", "--dtype", "float8"], "unknown dtype"),
        (["check", "v0.1.0", "--take-in"], "--expected FILE"),
        (["check", "v0.1.0", "--expected", "/nowhere.json"], "add --take-in"),
        (["check", "v0.1.0", "--allow", "pyproject.toml", "--format", "svg"], "unknown checkformat"),
    ],
)
def test_bad_use_is_one_sentence(command, words, sentence):
    done = command(*words, models=("zoo-gpt2",))
    assert done.returncode == 2, done.stdout
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_an_end_that_does_not_build_is_named_with_the_reason(command, history):
    done = command("steps", f"v0.1.0..{history.commits[UNBUILT]}", models=("zoo-gpt2",))
    assert done.returncode == 2
    assert "cannot be measured" in done.stderr
    assert "choose another end" in done.stderr


def test_two_searches_at_once_are_told(command, cache):
    from filelock import FileLock

    (cache / "states").mkdir(exist_ok=True)
    with FileLock(cache / "states" / "search.lock"):
        done = command("steps", "v0.1.0..main", models=("zoo-gpt2",))
    assert done.returncode == 2
    assert "wait until it ends" in done.stderr


def test_a_killed_search_goes_on_where_it_was(cache, history, tmp_path):
    own = tmp_path / "cache"
    own.mkdir()
    for path in cache.iterdir():
        if path.name != "states":
            (own / path.name).symlink_to(path.resolve())
    scope = f"v0.1.0..{history.commits['Silent 3']}"
    words = ("steps", scope, "--model", "zoo-gpt2", *CELLS, "--format", "json", "--repository", str(history.repository))
    environment = {**os.environ, "TLBENCH_CACHE": str(own)}
    killed = subprocess.Popen([sys.executable, "-m", "tlbench.cli", *words], env=environment, stdout=PIPE, stderr=PIPE)
    deadline = time.monotonic() + 200
    while not list(own.glob("states/*/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    kept = set(own.glob("states/*/*.json"))
    assert kept
    done = subprocess.run([sys.executable, "-m", "tlbench.cli", *words], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert named(json.loads(done.stdout)) == {name: STEPS[name] for name in ["Ten times the epsilon (#101)"]}
    assert kept < set(own.glob("states/*/*.json"))
