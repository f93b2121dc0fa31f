"""The scripts that the workflows run: what they push, restore, and pass on to tlbench."""

import os
import shlex
import subprocess

import pytest
from typer.main import get_command

from tests.conftest import ROOT
from tests.test_environments import git
from tlbench.cli import app

pytestmark = pytest.mark.slow

SCRIPTS = ROOT / ".github" / "scripts"
SHA = "a" * 40


@pytest.fixture
def place(tmp_path):
    """A remote repository, and a folder and a cache for each of two runners."""

    class Place:
        remote = tmp_path / "remote.git"
        folder = tmp_path

        def runner(self, name):
            for part in ("home", "cache/states/ab"):
                (tmp_path / name / part).mkdir(parents=True, exist_ok=True)
            return tmp_path / name

        def run(self, script, runner="first", **environment):
            folder = self.runner(runner)
            own = {
                "WATCH_HOME": str(folder / "home"),
                "TLBENCH_CACHE": str(folder / "cache"),
                "RESULTS_REMOTE": str(self.remote),
                "PAUSE_S": "0",
                "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
            }
            return subprocess.run(
                [SCRIPTS / script], env={**os.environ, **own, **environment}, capture_output=True, text=True, check=False
            )

        def tlbench(self, status=0):
            """A program that notes the words it is given, prints a line, and ends with a status."""
            program = tmp_path / "tlbench"
            program.write_text(
                f'#!/bin/sh\nfor word in "$@"; do printf "%s\\0" "$word"; done >> {shlex.quote(str(tmp_path / "words"))}\n'
                f'printf "\\n" >> {shlex.quote(str(tmp_path / "words"))}\necho done\n'
                f'case " $* " in *" --age "*) exit 0;; esac\nexit {status}\n'
            )
            program.chmod(0o755)
            return {"TLBENCH": str(program)}

        def calls(self):
            """The words of each call, each of which tlbench's command line accepts."""
            lines = (tmp_path / "words").read_bytes().split(b"\0\n")
            calls = [[word.decode() for word in line.split(b"\0")] for line in lines if line]
            for name, *words in calls:
                get_command(app).commands[name].make_context(name, list(words))
            return calls

    git(tmp_path, "init", "--quiet", "--bare", str(Place.remote))
    return Place()


def write(folder, text):
    (folder / "home" / "watch").mkdir(exist_ok=True)
    (folder / "home" / "watch" / "memory.json").write_text(text)
    (folder / "home" / "watch" / "lock").touch()
    (folder / "cache" / "states" / "ab" / f"{text}.json").write_text(text)


def test_what_one_runner_pushed_the_next_restores(place):
    assert "first pass" in place.run("restore-results").stdout
    write(place.runner("first"), "one")
    assert "pushed" in place.run("push-results").stdout
    assert "nothing new" in place.run("push-results").stdout
    done = place.run("restore-results", "second")
    assert done.returncode == 0, done.stderr
    second = place.runner("second")
    assert (second / "home/watch/memory.json").read_text() == "one"
    assert (second / "cache/states/ab/one.json").read_text() == "one"
    assert not (second / "home/watch/lock").exists()


def test_states_of_two_runners_add_up_and_the_watch_s_files_are_the_last_one_s(place):
    for name in ("one", "two"):
        write(place.runner(name), name)
        assert place.run("push-results", name).returncode == 0
    place.run("restore-results", "third")
    third = place.runner("third")
    assert (third / "home/watch/memory.json").read_text() == "two"
    assert {path.stem for path in (third / "cache/states").glob("*/*.json")} == {"one", "two"}


@pytest.mark.parametrize(("rejections", "status"), [(1, 0), (3, 1)])
def test_a_rejected_push_is_tried_again_and_then_is_a_sentence(place, rejections, status):
    hook = place.remote / "hooks" / "pre-receive"
    hook.write_text(f"#!/bin/sh\necho x >> rejected\n[ $(wc -l < rejected) -gt {rejections} ]\n")
    hook.chmod(0o755)
    write(place.runner("first"), "one")
    done = place.run("push-results")
    assert done.returncode == status
    assert ("was rejected 3 times: see that the token may write" in done.stderr) is bool(status)


def test_a_remote_that_cannot_be_read_stops_before_the_watch_forgets_what_it_told(place):
    done = place.run("restore-results", RESULTS_REMOTE=str(place.folder / "nowhere"))
    assert done.returncode == 1
    assert "the watch would begin anew, so it stops here" in done.stderr


@pytest.mark.parametrize(("status", "expected", "calls"), [(0, 0, 1), (3, 0, 2), (2, 2, 1)])
def test_a_pass_that_could_not_do_everything_fails_only_once_the_news_is_old(place, status, expected, calls):
    done = place.run("watch", **place.tlbench(status))
    assert done.returncode == expected, done.stderr
    assert [call[0] for call in place.calls()] == ["watch"] * calls
    assert ("::warning::" in done.stdout) is (status == 3)


@pytest.mark.parametrize(
    ("gate", "accepted", "gates"), [("true", "false", True), ("true", "true", False), ("false", "false", False)]
)
def test_a_review_gates_only_if_asked_to_and_not_accepted(place, gate, accepted, gates):
    (place.folder / "published").mkdir()
    words = {
        "BASE_SHA": "b" * 40,
        "HEAD_SHA": SHA,
        "REPOSITORY": "a repository; with words",
        "NUMBER": "7",
        "OUTPUT": "review.json",
        "PUBLISHED": str(place.folder / "published"),
    }
    done = place.run("review", **place.tlbench(1), GATE=gate, ACCEPTED=accepted, **words)
    assert done.returncode == 1
    ((name, base, head, *rest),) = place.calls()
    assert (name, base, head) == ("review", "b" * 40, SHA)
    assert ("--gate" in rest) is gates
    assert rest[rest.index("--repository") + 1] == "a repository; with words"
    assert "done" in (place.folder / "summary").read_text()


def test_the_comment_is_of_the_head_that_github_names(place):
    done = place.run("comment", **place.tlbench(), OUTPUT="review.json", GITHUB_REPOSITORY="owner/name", HEAD_SHA=SHA)
    assert done.returncode == 0, done.stderr
    assert place.calls() == [["comment", "review.json", "--repository", "owner/name", "--head", SHA]]


@pytest.mark.parametrize("model", ["gpt2", "--tl", "$(touch x); `y`"])
def test_a_model_s_name_is_one_word_however_it_is_spelled(place, model):
    done = place.run("verify", **place.tlbench(1), MODEL=model, TL="4.3.0")
    assert done.returncode == 1
    ((*_, last),) = place.calls()
    assert last == model


def test_an_installed_tlbench_is_taken_as_it_is(place):
    assert place.run("install", TLBENCH="/somewhere/tlbench").stdout == "/somewhere/tlbench\n"
