"""The answer of `tlbench check`: what fails it, what is accepted, what was expected, and what is not known."""

import json
import math
from datetime import date

import pytest

from tests.test_clone import clone, commit  # noqa: F401
from tlbench.exceptions import BadInput
from tlbench.grid import Cell
from tlbench.metrics.change import Change, State
from tlbench.metrics.verdict import Verdict
from tlbench.report import check
from tlbench.steps.findings import Finding, Found, Moved, moved

TODAY = date(2026, 11, 27)
CELL = Cell("zoo-gpt2", "float32", "unprocessed", "HookedTransformer")
RIGHT, BROKEN = State(Verdict.BENIGN, "a", 1e-6), State(Verdict.BROKEN, "b", 1e-2)


@pytest.fixture
def one(clone):  # noqa: F811
    """Two commits, and a check of them with steps of these changes."""
    good, bad = commit(clone, "good"), commit(clone, "bad (#7)")

    def checked(*changes, ends=(), allowed=(), others=(), not_measured=(), bits=0.1):
        states = {Change.ALARM: (RIGHT, BROKEN), Change.MENDED: (BROKEN, RIGHT)}
        found = [
            Finding(
                (bad,), good, bad, (Moved(CELL, word, *states.get(word, (RIGHT, State(Verdict.BENIGN, "c", 1e-6))), bits),)
            )
            for word in changes
        ]
        scope = Found(good, bad, (CELL,), tuple(found), 1, 2, {}, dict.fromkeys(map(str, not_measured), "no model"))
        return check.checked(scope, ends, allowed, others, "tlbench check --take-in", TODAY)

    checked.clone, checked.bad = clone, bad
    return checked


def allowance(commit, until=TODAY):
    return check.Allowance(commit[:9], "maintainer", "wanted", until)


@pytest.mark.parametrize("word", [change for change in Change if change.is_alarm])
def test_an_alarm_is_worse_and_exits_1(one, word):
    result = one(word, Change.OTHER_ROUNDING)
    assert result.exit_status == 1
    assert result.verdict.startswith("WORSE  ")
    assert f"1 {word}" in result.verdict


@pytest.mark.parametrize("word", [change for change in Change if not change.is_alarm])
def test_nothing_else_fails_a_check_and_news_is_in_the_first_line(one, word):
    result = one(word)
    assert result.exit_status == 0
    assert result.verdict.startswith("NOT WORSE  ")
    assert (str(word) in result.verdict) == word.is_news


def test_what_was_not_measured_never_passes(one):
    result = one(not_measured=[CELL])
    assert result.exit_status == 2
    assert result.verdict.startswith("NOT KNOWN  ")
    assert any("no model" in line for line in check.lines(one.clone, result))


def test_an_alarm_is_accepted_by_its_commit_until_the_last_day(one):
    accepted = one(Change.ALARM, allowed=[allowance(one.bad)])
    assert accepted.exit_status == 0
    assert "[allowed by maintainer until 2026-11-27: wanted]" in check.lines(one.clone, accepted)[0]
    assert one(Change.ALARM, allowed=[allowance("f" * 40)]).exit_status == 1
    late = one(Change.ALARM, allowed=[allowance(one.bad, date(2026, 11, 26))])
    assert late.exit_status == 1
    assert any("ended on 2026-11-26" in line for line in check.lines(one.clone, late))


def test_a_line_names_the_commit_the_pull_request_and_the_figures(one):
    (line,) = check.lines(one.clone, one(Change.ALARM))
    for words in (one.bad[:8], "(pull request 7)", "benign (1e-06 nats) → broken (0.01 nats)", str(CELL)):
        assert words in line


def test_many_small_steps_that_add_up_are_said_and_fail_where_the_cell_is_wrong_now(one):
    risen = moved({CELL: RIGHT}, {CELL: State(Verdict.BENIGN, "d", 2e-6)}, [CELL])
    result = one(Change.OTHER_ROUNDING, Change.OTHER_ROUNDING, ends=risen)
    assert result.exit_status == 0
    assert any(line.startswith("notice: by many small steps") for line in check.lines(one.clone, result))
    wrong = one(Change.OTHER_ROUNDING, ends=moved({CELL: RIGHT}, {CELL: BROKEN}, [CELL]))
    assert wrong.exit_status == 1
    assert "by many small steps" in wrong.verdict
    explained = one(Change.ALARM, ends=moved({CELL: RIGHT}, {CELL: BROKEN}, [CELL]))
    assert not explained.drifted


@pytest.mark.parametrize(
    "text",
    [
        '[[allow]]\ncommit = "abc"\n',
        '[[allow]]\ncommit = "abc"\nwho = "me"\nwhy = ""\nuntil = 2026-01-01\n',
        '[[allow]]\ncommit = ""\nwho = "me"\nwhy = "so"\nuntil = 2026-01-01\n',
        '[[allow]]\ncommit = "abc"\nwho = "me"\nwhy = "so"\nuntil = "soon"\n',
        '[[allow]]\ncommit = "abc"\nwho = "me"\nwhy = "so"\nuntil = 2026-01-01\nfor = "ever"\n',
        "allow = 3\n",
        "not TOML",
    ],
)
def test_a_file_of_accepted_steps_without_who_why_and_until_is_refused(tmp_path, text):
    (tmp_path / "allow.toml").write_text(text)
    with pytest.raises(BadInput, match="commit, who, why and until"):
        check.allowances(tmp_path / "allow.toml")


def test_expected_states_are_compared_by_the_rule_and_not_by_bits(tmp_path):
    path = tmp_path / "expected.json"
    check.take_in(path, moved({CELL: RIGHT}, {CELL: RIGHT}, [CELL]))
    for after, expected in (
        (State(Verdict.BENIGN, "other", 1.1e-6, environment="another"), []),
        (BROKEN, [(Change.ALARM, False)]),
        (State(Verdict.BENIGN, "c", 4e-7), [(Change.BETTER, True)]),
    ):
        found = check.unexpected(path, moved({CELL: RIGHT}, {CELL: after}, [CELL]))
        assert [(one.moved.change, one.is_improvement) for one in found] == expected


def test_a_cell_that_the_file_does_not_have_is_to_be_taken_in(tmp_path, one):
    path = tmp_path / "expected.json"
    path.write_text("{}")
    others = check.unexpected(path, moved({CELL: RIGHT}, {CELL: RIGHT}, [CELL]))
    result = one(others=others)
    assert result.exit_status == 1
    assert "to take it in: tlbench check --take-in" in check.lines(one.clone, result)


@pytest.mark.parametrize("text", ["[1]", "no JSON", '{"zoo-gpt2": {"verdict": "fine"}}'])
def test_a_file_of_expected_states_that_is_damaged_is_refused(tmp_path, text):
    (tmp_path / "expected.json").write_text(text)
    with pytest.raises(BadInput, match="add --take-in"):
        check.unexpected(tmp_path / "expected.json", [])


def test_junit_tells_failed_accepted_and_unmeasured_apart(one):
    suite = check.junit(one.clone, one(Change.ALARM, Change.MENDED, not_measured=[CELL]))
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "3",
        "failures": "1",
        "errors": "1",
        "skipped": "0",
    }
    assert check.junit(one.clone, one(Change.ALARM, allowed=[allowance(one.bad)])).get("skipped") == "1"
    assert check.junit(one.clone, one()).get("tests") == "1"


def test_json_has_the_verdict_and_the_steps_and_null_for_a_figure_that_is_not_finite(one, capsys):
    check.show(None, check.CheckFormat.JSON, one.clone, one(Change.ALARM, bits=math.inf))
    written = capsys.readouterr().out
    assert "Infinity" not in written
    (step,) = json.loads(written)["steps"]
    assert step["commits"][0]["pull_request"] == "7"
    assert step["cells"][0]["bits"] is None
