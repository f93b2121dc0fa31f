"""`asv find` says what its answer rests on, and neither a commit that fails nor another cell misleads it."""

from types import SimpleNamespace

import pytest
from asv.commands import find as command
from asv.util import ProcessError, UserError

from asv_plugins import find
from asv_plugins.find import Search, about_range, grounds

NAN = float("nan")
UNBUILT = "does not build"
COMMITS = [f"{i:08d}" for i in range(12)]


def said(figures, named, invert=False, commits=COMMITS):
    by_commit = {commits[i]: values for i, values in figures.items()}
    return grounds(commits, Search(by_commit, commits[named]), lambda commit: f"c{int(commit)}", invert)


def test_a_step_between_neighbours_is_verified():
    assert said({4: [1e-6], 5: [4e-6]}, 5) == [
        "Verified: the figure is 1e-06 at c4 and 4e-06 at c5, and no commit lies in between"
    ]
    assert said({4: [4e-6], 5: [1e-6]}, 5, invert=True)[0].startswith("Verified")


def test_commits_without_a_figure_are_named_and_share_the_suspicion():
    moved, open_ = said({3: [1e-6], 4: [None], 5: [None], 6: [4e-6]}, 6)
    assert moved == "No figure at c4, c5: it failed there or is not applicable, and the search moved past"
    assert open_.endswith("2 commits in between have none, so the cause is c6 or one of them: c4, c5")


def test_a_range_whose_figure_does_not_change_has_no_cause():
    (sentence,) = said({0: [5e-4], 5: [5e-4], 6: [5.1e-4], 11: [5e-4]}, 6)
    assert "No cause found" in sentence
    assert sentence.endswith("does it begin before the cause?")
    (sentence,) = said({5: [5e-4], 6: [1e-6]}, 6)
    assert "No cause found" in sentence, "it fell, and a rise was looked for"


@pytest.mark.parametrize("figures", [{}, {5: [1e-6]}, {4: [1e-6]}, {4: [1e-6], 5: [None]}])
def test_what_was_not_measured_is_not_verified(figures):
    assert "Not verified" in said(figures, 5)[-1]


@pytest.mark.parametrize(("text", "advice"), [("v1..v2", "v1^..v2"), ("v1^..v2", ""), ("v1~2..v2", ""), ("main", "")])
def test_a_range_that_leaves_its_first_commit_out_is_pointed_out(text, advice):
    note = about_range(text)
    assert bool(note) is bool(advice)
    assert advice in note


class Repository:
    """Twelve commits in a row."""

    def pull(self):
        pass

    def get_hashes_from_range(self, _):
        return COMMITS[::-1]

    def get_decorated_hash(self, commit, length=8):
        return commit

    def get_date(self, _):
        return 0


@pytest.fixture
def search(monkeypatch, caplog):
    """Run asv's own search over a history of these figures, one a commit, of one of three cells. Returns what is logged."""
    benchmark = {"name": "track", "params": [["'a'", "'b'", "'c'"]], "type": "track", "timeout": 1}

    class Benchmarks(dict):
        benchmark_selection = {"track": [1]}

    environment = SimpleNamespace(
        python="3.11",
        requirements={},
        name="env",
        env_vars={},
        _default_benchmark_timeout=1,
    )

    caplog.set_level("INFO")

    def searching(history, text, stored=(NAN,) * 12, **options):
        def install(conf, repo, commit):
            if history[COMMITS.index(commit)] == UNBUILT:
                raise ProcessError(["build"], 1, "", "")

        def run_benchmarks(benchmarks, env, results, **_):
            at = COMMITS.index(results.commit_hash)
            return SimpleNamespace(
                commit_hash=results.commit_hash,
                get_result_value=lambda *_: [NAN, history[at], stored[at]],
                errcode={"track": 0},
            )

        environment.install_project = install
        monkeypatch.setattr(find, "_run_benchmarks", run_benchmarks)
        monkeypatch.setattr(command, "get_repo", lambda _: Repository())
        monkeypatch.setattr(command.Setup, "run", lambda **_: [environment])
        monkeypatch.setattr(command.Benchmarks, "discover", lambda *_, **__: Benchmarks(track=benchmark))
        machine = SimpleNamespace(machine="mine", save=lambda _: None)
        monkeypatch.setattr(command.Machine, "load", lambda **_: machine)
        conf = SimpleNamespace(project="tl", results_dir="results")
        assert command.Find.run(conf, text, "track", skip_save=True, **options) == 0
        return caplog.messages

    return searching


def test_a_commit_that_fails_in_the_middle_does_not_send_the_search_to_the_wrong_side(search):
    history = [1e-6] * 9 + [4e-6] * 3
    history[5] = None
    lines = search(history, "a^..b")
    assert "Greatest regression found: 00000009" in lines
    assert "No figure at 00000005: it failed there or is not applicable, and the search moved past" in lines
    assert "Verified: the figure is 1e-06 at 00000008 and 4e-06 at 00000009, and no commit lies in between" in lines


@pytest.mark.parametrize("unbuilt", [0, 5, 11])
def test_a_commit_that_does_not_build_is_skipped_and_named(search, unbuilt):
    history = [1e-6] * 9 + [4e-6] * 3
    history[unbuilt] = UNBUILT
    lines = search(history, "a^..b")
    assert "Greatest regression found: 00000009" in lines
    assert f"No figure at 000000{unbuilt:02d}: it does not build, and the search moved past" in lines
    assert lines[-1].startswith("Verified")


def test_figures_that_are_stored_of_other_cells_do_not_decide(search):
    lines = search([1e-6] * 9 + [2e-6] * 3, "a^..b", stored=[0.0] * 3 + [9.0] * 9)
    assert "Greatest regression found: 00000009" in lines
    assert lines[-1].startswith("Verified: the figure is 1e-06 at 00000008 and 2e-06 at 00000009")


def test_a_cause_among_commits_that_fail_is_one_of_several(search, caplog):
    history = [1e-6] * 4 + [None] * 3 + [4e-6] * 5
    with pytest.raises(UserError, match="Too many commits failed"):
        search(history, "a^..b")
    assert caplog.messages[-1].endswith("so the cause is 00000007 or one of them: 00000004, 00000005, 00000006")


def test_a_range_after_the_cause_has_none_and_says_why(search):
    lines = search([4e-6] * 12, "a..b")
    assert lines[0].startswith("a..b leaves out a itself")
    assert "No cause found" in lines[-1]
