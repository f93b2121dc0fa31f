"""The watch tells every step once, with the right commit, whatever breaks on the way. Nothing is installed or run."""

import email
import email.policy
import hashlib
import hmac
import json
import os
import random
import re
import shutil
import signal
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from tests.command import run
from tests.conftest import ROOT
from tests.test_watch_words import HOSTILE
from tests.watched import CELLS, GPT2, LLAMA, OPT, RIGHT, ROUNDED, WRONG, Receivers, Upstream, mailbox, measure_by_reading
from tlbench.exceptions import BadInput
from tlbench.history.listing import Listing, Release
from tlbench.records import news
from tlbench.steps.measuring import Laboratory
from tlbench.watch import github, watching
from tlbench.watch.configuration import Configuration, GitHub, Mail, Publish, Webhook
from tlbench.watch.messages import Event, Ledger, Level
from tlbench.watch.rendering import ATOM
from tlbench.watch.watching import Watch, only_one, tell_age

pytestmark = pytest.mark.slow

SECRET = "known to both"


class World:
    """An upstream, its receivers, and passes of the watch over it."""

    def __init__(self, folder, receivers):
        self.upstream = Upstream(folder / "upstream")
        self.receivers, self.home = receivers, folder / "home"
        program, self.mails = mailbox(folder)
        self.clock = datetime(2026, 1, 1, tzinfo=UTC)
        self.configuration = Configuration(
            upstream=str(self.upstream.folder),
            branches=("dev",),
            releases=False,
            webhook=Webhook(f"{receivers.url}/hook"),
            github=GitHub("owner/name", api=receivers.url),
            mail=Mail(("maintainer@example.org",), "watch@example.org", str(program)),
        )

    def now(self):
        self.clock += timedelta(seconds=1)
        return self.clock

    def watch(self, cells=CELLS):
        return Watch(self.configuration, self.home, cells, now=self.now).run()

    def messages(self):
        return Ledger(self.home / "watch").messages()


@pytest.fixture
def world(tmp_path, own_cache, monkeypatch):
    measure_by_reading(monkeypatch)
    monkeypatch.setenv("GITHUB_TOKEN", "token")
    monkeypatch.setenv("TLBENCH_WEBHOOK_SECRET", SECRET)
    monkeypatch.setattr(github, "PAUSE_S", 0.0)
    monkeypatch.setattr("tlbench.watch.channels.PAUSE_S", 0.0)
    receivers = Receivers()
    yield World(tmp_path, receivers)
    receivers.close()


def test_the_first_pass_says_nothing_and_the_second_only_what_is_new(world):
    world.upstream.commit("Old fault", {OPT: WRONG})
    assert world.watch().problems == ()
    world.upstream.commit("Rounds differently", {LLAMA: ROUNDED})
    world.upstream.commit("A fault (#7)", {GPT2: WRONG})
    world.upstream.commit("Words")
    found = world.watch()
    (issue,) = world.receivers.issues
    assert "zoo-gpt2: broken since" in issue["title"]
    assert "A fault (#7)" in issue["title"]
    assert [one.commit for one in found.open] == [world.upstream.git("rev-parse", "HEAD~1")]
    assert found.open[0].url == issue["html_url"]
    world.watch()
    assert len(world.receivers.issues) == len(world.receivers.deliveries) == len(world.mails()) == 1


def test_the_first_four_lines_answer_a_maintainer_s_questions(world):
    world.watch()
    before, bad = world.upstream.git("rev-parse", "HEAD"), world.upstream.commit("A fault (#7)", {GPT2: WRONG, LLAMA: WRONG})
    world.watch()
    (what, since, how_bad, what_to_do) = (answer for _, answer in world.messages()[0].text.answers)
    assert "2 cells of zoo-gpt2, zoo-llama on dev" in what
    assert since.startswith(bad[:8])
    assert "pull request 7" in since
    assert "benign (1e-06 nats) → broken (4.5 nats), +22.10 bits" in how_bad
    assert "block 1, attention output" in how_bad
    assert "Mend or revert" in what_to_do
    commands = world.messages()[0].text.commands
    assert [command.split()[-1] for command in commands] == [before, bad]
    body = world.receivers.issues[0]["body"]
    assert [line.split(":**")[0] for line in body.splitlines()[:4]] == [
        "**What",
        "**Since when",
        "**How bad",
        "**What to do",
    ]


def test_a_mended_fault_is_closed_with_the_commit_that_mended_it_and_a_half_mended_one_is_brought_up_to_date(world):
    world.watch()
    world.upstream.commit("A fault", {GPT2: WRONG, LLAMA: WRONG})
    world.watch()
    world.upstream.commit("Half of it", {GPT2: RIGHT})
    world.watch()
    (issue,) = world.receivers.issues
    assert issue["state"] == "open"
    assert "1 of 2 cells are still wrong" in issue["body"].replace("\\", "")
    mended = world.upstream.commit("All of it", {LLAMA: RIGHT})
    assert world.watch().open == ()
    (issue,), (comment,) = world.receivers.issues, world.receivers.comments
    assert issue["state"] == "closed"
    assert f"Mended by {mended[:8]}" in comment["body"].replace("\\", "")
    events = [one["event"] for one in world.receivers.delivered()]
    assert events == [Event.OPENED, Event.CHANGED, Event.CLOSED]
    mails = [email.message_from_bytes(one, policy=email.policy.default) for one in world.mails()]
    assert {mail["In-Reply-To"] for mail in mails[1:]} == {mails[0]["Message-ID"]}


def test_a_fault_that_comes_back_is_told_again_with_its_own_commit(world):
    world.watch()
    for subject, state in (("A fault", WRONG), ("Mended", RIGHT), ("Again", WRONG)):
        world.upstream.commit(subject, {GPT2: state})
        world.watch()
    assert [issue["state"] for issue in world.receivers.issues] == ["closed", "open"]
    assert "Again" in world.receivers.issues[1]["title"]


def test_what_comes_and_goes_in_one_night_is_told_and_closed(world):
    world.watch()
    world.upstream.commit("A fault", {GPT2: WRONG})
    world.upstream.commit("Mended", {GPT2: RIGHT})
    world.watch()
    assert [issue["state"] for issue in world.receivers.issues] == ["closed"]


def test_a_step_that_reaches_another_branch_is_not_told_again(world):
    world.configuration = Configuration(**{**_fields(world.configuration), "branches": ("dev", "main")})
    world.upstream.git("branch", "main")
    world.watch()
    world.upstream.commit("A fault", {GPT2: WRONG})
    world.watch()
    world.upstream.git("switch", "--quiet", "main")
    world.upstream.git("merge", "--quiet", "--squash", "dev")
    world.upstream.git("commit", "--quiet", "--message=All of dev")
    found = world.watch()
    assert found.heads["main"] == world.upstream.git("rev-parse", "main")
    assert len(world.receivers.issues) == 1


def _fields(configuration):
    return {name: getattr(configuration, name) for name in configuration.__struct_fields__}


# Upstream ------------------------------------------------------------------------------------------------------------


def test_an_upstream_that_cannot_be_reached_is_a_problem_and_the_news_grows_old(world):
    first = world.watch()
    world.upstream.folder.rename(world.upstream.folder.with_name("away"))
    found = world.watch()
    assert f"cannot fetch {world.upstream.folder} ('{world.upstream.folder}' does not appear to be" in found.problems[0]
    assert found.looked_at == first.looked_at
    assert not world.messages()


def test_a_rewritten_branch_is_told_and_its_open_fault_is_not_told_twice(world):
    world.watch()
    world.upstream.commit("A fault", {GPT2: WRONG})
    world.watch()
    world.upstream.git("commit", "--quiet", "--amend", "--message=A fault, in better words")
    found = world.watch()
    assert found.problems == ()
    assert len(world.receivers.issues) == 1
    assert [one["title"] for one in world.receivers.delivered()][1].startswith("dev was rewritten: ")


def test_a_branch_from_which_the_fault_was_taken_out_closes_it(world):
    world.watch()
    world.upstream.commit("A fault", {GPT2: WRONG})
    world.watch()
    world.upstream.git("reset", "--quiet", "--hard", "HEAD^")
    world.watch()
    assert [issue["state"] for issue in world.receivers.issues] == ["closed"]
    assert "which one is not known" in world.receivers.comments[0]["body"]


def test_a_moved_tag_is_told_once(world):
    world.upstream.git("tag", "v1")
    world.watch()
    world.upstream.commit("Words")
    world.upstream.git("tag", "--force", "v1")
    for _ in range(2):
        world.watch()
    assert [one["title"] for one in world.receivers.delivered()] == ["tag v1 moved"]


def test_a_commit_that_cannot_be_measured_is_told_and_the_step_behind_it_is_named_as_a_set(world):
    world.watch()
    first = world.upstream.commit("Does not build", {GPT2: WRONG}, builds=False)
    found = world.watch()
    assert "1 commits at its end cannot be measured (it does not build)" in found.problems[0]
    second = world.upstream.commit("Builds")
    found = world.watch()
    assert found.problems == ()
    titles = [one["title"] for one in world.receivers.delivered()]
    assert titles[0].startswith("dev cannot be measured since")
    assert titles[1].startswith("dev can be measured again")
    (issue,) = world.receivers.issues
    assert "one of these 2 commits" in issue["body"]
    assert first[:8] in issue["body"]
    assert second[:8] in issue["body"]


def test_a_branch_that_is_gone_is_a_problem_and_the_others_are_measured(world):
    world.configuration = Configuration(**{**_fields(world.configuration), "branches": ("main", "dev")})
    found = world.watch()
    assert found.problems == ("main: upstream has no such branch: correct `branches`, or wait if it was removed",)
    assert list(found.heads) == ["dev"]


# Steps of every kind, and releases -----------------------------------------------------------------------------------


def test_a_step_that_is_not_there_when_it_is_measured_again_is_no_alarm_and_opens_no_issue(world, monkeypatch):
    world.watch()
    world.upstream.commit("Flickers", {GPT2: WRONG})
    measure = Laboratory._measure

    def flickering(self, commit, where, cells):
        found = measure(self, commit, where, cells)
        return {cell: replace(state, fingerprint="right") for cell, state in found.items()} if self.is_fresh else found

    monkeypatch.setattr(Laboratory, "_measure", flickering)
    world.watch()
    (told,) = world.receivers.delivered()
    assert (told["level"], told["event"]) == (Level.NEWS, Event.SAID)
    assert told["title"].startswith("not confirmed: ")
    assert (world.receivers.issues, world.mails()) == ([], [])


def test_an_accepted_step_is_news_and_no_alarm(world):
    world.watch()
    commit = world.upstream.commit("Wanted", {GPT2: WRONG})
    entry = f'[[allow]]\ncommit = "{commit[:10]}"\nwho = "maintainer"\nwhy = "wanted"\nuntil = 2999-01-01\n'
    (world.home / "allow.toml").write_text(entry)
    world.configuration = Configuration(**{**_fields(world.configuration), "allow": "allow.toml"})
    world.watch()
    assert [one["level"] for one in world.receivers.delivered()] == [Level.NEWS]
    assert world.receivers.issues == []


def test_an_improvement_is_news(world):
    world.upstream.commit("Old fault", {OPT: WRONG})
    world.watch()
    world.upstream.commit("Mend it", {OPT: RIGHT})
    world.watch()
    (told,) = world.receivers.delivered()
    assert (told["level"], told["what_to_do"][:8]) == (Level.NEWS, "nothing.")
    assert "TransformerLens is right again in 1 cell of zoo-opt" in told["what"]


@pytest.fixture
def index(world, monkeypatch):
    """A package index that lists the releases which are added to it."""
    releases = []
    world.configuration = Configuration(**{**_fields(world.configuration), "releases": True})

    def listed(*_):
        return Listing(
            tuple(Release(version, "", "", datetime(2026, 1, 1, tzinfo=UTC)) for version in releases), {}, not releases
        )

    monkeypatch.setattr(watching, "list_releases", listed)
    return releases


def test_a_new_release_is_compared_with_the_one_before_it_once(world, index):
    world.upstream.git("tag", "v1.0.0")
    index.append("1.0.0")
    world.watch()
    world.upstream.commit("A fault", {GPT2: WRONG})
    world.upstream.git("tag", "v1.1.0")
    index.append("1.1.0")
    for _ in range(2):
        assert world.watch().problems == ()
    step, release = world.receivers.delivered()
    assert "zoo-gpt2: broken since" in step["title"]
    assert (release["title"], release["level"]) == ("TransformerLens 1.1.0: Worse", Level.ALARM)
    assert "do not recommend it" in release["what_to_do"]
    assert len(world.receivers.issues) == 1


def test_a_release_that_cannot_be_measured_is_told_as_that(world, index):
    index.append("1.0.0")
    world.watch()
    world.upstream.git("tag", "v1.0.0")
    world.upstream.commit("Does not build", builds=False)
    world.upstream.git("tag", "v1.1.0")
    index.append("1.1.0")
    world.watch()
    titles = [one["title"] for one in world.receivers.delivered()]
    assert "TransformerLens 1.1.0 could not be measured" in titles


def test_an_index_that_cannot_be_reached_is_a_problem(world, index):
    assert world.watch().problems == ("releases: the package index cannot be reached: the next pass tries again",)


def test_asv_publishes_the_site_and_the_feed_lies_in_it(world):
    world.home.mkdir()
    text = (ROOT / "releases" / "asv.conf.json").read_text()
    configuration = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    configuration |= {"plugins": [".asv_plugins.site"], "repo": "absent.git"}
    world.configuration = Configuration(**{**_fields(world.configuration), "publish": Publish()})
    assert "asv publish ended with status" in world.watch().problems[0]
    (world.home / "asv.conf.json").write_text(json.dumps(configuration))
    (world.home / "results").mkdir()
    shutil.copy(ROOT / "releases" / "results" / "benchmarks.json", world.home / "results")
    assert world.watch().problems == ()
    assert (world.home / "html" / "index.html").is_file()
    assert ElementTree.parse(world.home / "html" / watching.FEED).getroot().tag == f"{{{ATOM}}}feed"


# Receivers -----------------------------------------------------------------------------------------------------------


def with_a_fault(world):
    world.watch()
    world.upstream.commit("A fault", {GPT2: WRONG})


def only_github(world):
    world.configuration = Configuration(**{**_fields(world.configuration), "webhook": None, "mail": None})


@pytest.mark.parametrize("status", [401, 403, 404, 410, 422, 429])
def test_a_refusal_is_a_sentence_and_the_issue_is_opened_by_a_later_pass(world, status):
    only_github(world)
    with_a_fault(world)
    world.receivers.faults = [None, status]
    found = world.watch()
    assert f"({status} planted {status}): {github.ADVICE[status]}" in found.problems[0]
    assert (found.waiting, len(world.receivers.issues)) == (1, 0)
    assert world.watch().problems == ()
    assert len(world.receivers.issues) == 1


@pytest.mark.parametrize("fault", [502, ("lost", 502), ("lost", 500)])
def test_an_issue_is_opened_once_when_the_answer_is_lost(world, fault):
    only_github(world)
    with_a_fault(world)
    world.receivers.faults = [None, fault, None]
    assert world.watch().problems == ()
    assert len(world.receivers.issues) == 1


def test_an_issue_is_opened_once_when_github_answers_too_late(world, monkeypatch):
    monkeypatch.setattr(github, "TIMEOUT_S", (1.0, 0.2))
    only_github(world)
    with_a_fault(world)
    world.receivers.faults = [None, ("slow", 0.6)]
    assert world.watch().problems == ()
    assert len(world.receivers.issues) == 1


def test_three_failures_in_a_row_leave_it_to_the_next_pass_and_other_channels_are_told(world):
    with_a_fault(world)
    world.receivers.faults = [502, 502, 502]  # the webhook is first
    found = world.watch()
    assert "the webhook did not take it (502)" in found.problems[0]
    assert len(world.receivers.issues) == len(world.mails()) == 1
    assert found.waiting == 1
    assert world.watch().waiting == 0
    assert len(world.receivers.delivered()) == 1


def test_later_messages_about_a_finding_wait_behind_an_earlier_one(world):
    only_github(world)
    with_a_fault(world)
    world.receivers.faults = [403]
    world.watch()
    world.upstream.commit("Mended", {GPT2: RIGHT})
    world.receivers.faults = [403]
    found = world.watch()
    assert (found.waiting, world.receivers.issues) == (2, [])
    world.watch()
    assert [issue["state"] for issue in world.receivers.issues] == ["closed"]


def test_the_webhook_s_signature_is_of_its_very_bytes(world):
    with_a_fault(world)
    world.watch()
    ((headers, body),) = world.receivers.deliveries
    assert headers["X-Tlbench-Signature-256"] == "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()


def test_a_missing_secret_or_sendmail_is_a_problem_in_words(world, monkeypatch):
    monkeypatch.delenv("TLBENCH_WEBHOOK_SECRET")
    Path(world.configuration.mail.sendmail).unlink()
    with_a_fault(world)
    problems = " ".join(world.watch().problems)
    assert "$TLBENCH_WEBHOOK_SECRET is empty" in problems
    assert "install an MTA" in problems


def test_an_issue_that_a_person_closed_stays_closed_and_is_not_opened_again(world):
    only_github(world)
    with_a_fault(world)
    world.watch()
    world.receivers.issues[0]["state"] = "closed"
    world.upstream.commit("More words")
    world.watch()
    world.upstream.commit("Mended", {GPT2: RIGHT})
    world.watch()
    assert len(world.receivers.issues) == 1
    assert world.receivers.issues[0]["state"] == "closed"


def test_an_issue_that_somebody_deleted_is_let_go(world):
    only_github(world)
    with_a_fault(world)
    world.watch()
    world.receivers.issues[0]["state"] = "deleted"
    world.upstream.commit("Mended", {GPT2: RIGHT})
    found = world.watch()
    assert (found.problems, found.waiting, len(world.receivers.issues)) == ((), 0, 1)


def test_a_channel_that_is_new_is_told_nothing_of_old_findings(world):
    both = world.configuration
    world.configuration = Configuration(**{**_fields(both), "github": None})
    with_a_fault(world)
    world.watch()
    world.configuration = both
    world.upstream.commit("Mended", {GPT2: RIGHT})
    found = world.watch()
    assert (found.problems, found.waiting, world.receivers.issues) == ((), 0, [])


# One at a time, killed, old ------------------------------------------------------------------------------------------


def test_two_watches_at_once_are_told(world):
    with only_one(world.home / "watch"), pytest.raises(BadInput, match="another watch is at work"):
        world.watch()


KILLS = 20


def test_killed_at_twenty_random_moments_nothing_is_lost_or_told_twice(world):
    chance, kills, took, planted, mended = random.Random(1), 0, 0.5, [], 0
    world.watch()
    for number in range(100):
        cell, is_fault = CELLS[number % len(CELLS)], number // len(CELLS) % 2 == 0
        commit = world.upstream.commit(f"Commit {number}", {cell: WRONG if is_fault else RIGHT})
        if is_fault:
            planted.append(commit)
        else:
            mended += 1
        while kills < KILLS and killed(world, chance.uniform(0, took)):
            kills += 1
        started = time.monotonic()
        problems = [found for _ in range(3) if (found := world.watch().problems)]
        assert len(problems) < 3, problems  # the git of a killed pass may still be at work in the first
        took = (time.monotonic() - started) / 3 + 0.1
        if kills == KILLS and number >= 2 * len(CELLS):
            break
    assert kills == KILLS
    titles = [issue["title"] for issue in world.receivers.issues]
    assert len(titles) == len(planted)
    assert all(any(commit[:8] in title for title in titles) for commit in planted)
    assert [issue["state"] for issue in world.receivers.issues].count("closed") == mended == len(world.receivers.comments)
    told = [(one["event"], one["title"]) for one in world.receivers.delivered()]
    assert len(told) == len(set(told)) == len(world.messages()) == len(planted) + mended
    mails = {email.message_from_bytes(one)["Message-ID"] for one in world.mails()}
    assert len(mails) == len(told)


def killed(world, after_s):
    """Whether a pass in a process of its own was still at work when it was killed."""
    if (child := os.fork()) == 0:
        try:
            world.watch()
        finally:
            os._exit(0)
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_old_news_is_told_once_a_silence_by_every_channel_and_by_the_feed(world):
    found = world.watch()
    later = found.looked_at + timedelta(hours=40)
    for _ in range(2):
        sentence, is_old = tell_age(world.configuration, world.home, later, lambda _: None)
        assert is_old
        assert "40 hours ago, more than the 36 allowed: its silence means nothing." in sentence
    (told,) = world.receivers.delivered()
    assert told["level"] == Level.ALARM
    assert len(world.mails()) == 1
    assert "silent" in feed(world).findtext(f"{{{ATOM}}}entry/{{{ATOM}}}title")
    fresh, is_old = tell_age(world.configuration, world.home, found.looked_at + timedelta(hours=3), lambda _: None)
    assert (is_old, fresh) == (False, "The watch last read upstream and measured what was new 3 hours ago.")


def test_where_no_watch_ever_finished_nothing_is_fresh(tmp_path):
    assert tell_age(Configuration(), tmp_path, news.utc_now(), lambda _: None)[1]


def feed(world):
    return ElementTree.parse(world.home / "watch" / watching.FEED).getroot()


# What is shown -------------------------------------------------------------------------------------------------------


def test_a_hostile_subject_is_harmless_on_github_in_mail_and_in_the_feed(world):
    world.watch()
    world.upstream.commit(HOSTILE, {GPT2: WRONG})
    world.watch()
    (issue,) = world.receivers.issues
    shown = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(issue["body"])
    assert "<img" not in shown
    assert "<a " not in shown
    assert "@everyone" not in issue["body"]
    assert shown.count("<!--") == shown.count("-->") == 1
    assert "onerror=alert(1)" in shown  # it is there to read
    (raw,) = world.mails()
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    assert mail["To"] == "maintainer@example.org"
    assert "\u202e" not in mail["Subject"] + issue["title"] + mail.get_content()
    entry = feed(world).find(f"{{{ATOM}}}entry")
    assert "<img src=x" in entry.findtext(f"{{{ATOM}}}title")  # text, not markup
    assert [command for command in world.messages()[0].text.commands if "touch" in command] == []


def test_a_branch_with_a_hostile_name_is_an_argument_and_not_an_option(world):
    world.upstream.git("branch", "a;$(id)&&")
    world.configuration = Configuration(**{**_fields(world.configuration), "branches": ("a;$(id)&&", "--upload-pack=x")})
    found = world.watch()
    assert list(found.heads) == ["a;$(id)&&"]
    assert found.problems[0].startswith("--upload-pack=x: upstream has no such branch")


def test_the_feed_has_what_rfc_4287_asks_for_and_one_entry_a_message(world):
    world.watch()
    world.upstream.commit("A fault", {GPT2: WRONG})
    world.watch()
    world.upstream.commit("Mended", {GPT2: RIGHT})
    world.watch()
    root = feed(world)
    assert root.tag == f"{{{ATOM}}}feed"
    for element, names in (
        (root, ("id", "title", "updated", "author")),
        *((e, ("id", "title", "updated")) for e in entries(root)),
    ):
        assert all(len(element.findall(f"{{{ATOM}}}{name}")) == 1 for name in names)
        stamp = datetime.fromisoformat(element.findtext(f"{{{ATOM}}}updated"))
        assert stamp.tzinfo is not None
    assert {link.get("rel") for link in root.findall(f"{{{ATOM}}}link")} == {"self", "alternate"}
    ids = [entry.findtext(f"{{{ATOM}}}id") for entry in entries(root)]
    assert len(ids) == len(set(ids)) == 2
    assert all(re.match(r"https://", one) for one in ids)
    assert "mended" in entries(root)[0].findtext(f"{{{ATOM}}}title")


def entries(root):
    return root.findall(f"{{{ATOM}}}entry")


# Pull requests -------------------------------------------------------------------------------------------------------


@pytest.fixture
def pull(world, tmp_path, monkeypatch):
    """A pull request's branch, and how to review and comment on it."""
    base = world.upstream.git("rev-parse", "HEAD")
    world.upstream.git("switch", "--quiet", "--create", "pull")
    monkeypatch.setattr("tlbench.cli.watch.grid", lambda *_: list(CELLS))

    class Pull:
        file = tmp_path / "review.json"
        commit = staticmethod(world.upstream.commit)

        def head(self):
            return world.upstream.git("rev-parse", "pull")

        def review(self, *words):
            repository = ("--repository", world.upstream.folder)
            return run("review", base, self.head(), *repository, "--output", self.file, "--number", 7, *words)

        def comment(self, head=None):
            world.receivers.pull = {"head": {"sha": self.head()}}
            where = ("--repository", "owner/name", "--api", world.receivers.url)
            return run("comment", self.file, *where, "--head", head or self.head())

    return Pull()


def test_a_worse_pull_request_gets_one_comment_with_the_verdict_first_and_a_label(world, pull):
    pull.commit("A fault", {GPT2: WRONG, LLAMA: ROUNDED})
    done = pull.review()
    assert done.returncode == 0
    assert done.stdout.startswith("**WORSE: 1 alarm, 1 other rounding, 1 same bits**")
    assert pull.comment().returncode == 0
    (comment,) = world.receivers.comments
    assert comment["body"] == done.stdout
    assert "| alarm | `zoo-gpt2 float32 unprocessed TransformerBridge` |" in comment["body"]
    assert world.receivers.labels == ["numerics-regression"]
    pull.commit("Mended", {GPT2: RIGHT})
    assert pull.review().stdout.startswith("**NOT WORSE")
    assert pull.comment().returncode == 0
    (comment,) = world.receivers.comments
    assert comment["body"].startswith("**NOT WORSE")
    assert world.receivers.labels == []


@pytest.mark.parametrize(("moved", "verdict"), [(ROUNDED, "NOT WORSE"), (WRONG, "WORSE")])
def test_a_pull_request_whose_new_dependency_moves_a_cell_is_told_so_and_its_code_is_not_blamed(world, pull, moved, verdict):
    world.upstream.transformers = "5.24.0"
    world.upstream.with_transformers = {"5.24.0": {str(GPT2): moved}}
    pull.commit("Newer transformers")
    said = pull.review().stdout
    assert said.startswith(f"**{verdict}: 1 environment, 2 same bits**")
    assert "transformers 5.23.0 → 5.24.0" in said
    assert "TransformerLens's own code gives the same bits in both environments" in said
    pull.commit("And a fault", {LLAMA: WRONG})
    assert pull.review().stdout.startswith("**WORSE: 1 alarm, 1 environment, 1 same bits**")


def test_a_gate_fails_what_is_worse_or_not_known(pull):
    assert pull.review("--gate").returncode == 2  # the branch has no commit of its own
    pull.commit("Words")
    assert pull.review("--gate").returncode == 0
    pull.commit("A fault", {GPT2: WRONG})
    assert pull.review("--gate").returncode == 1
    pull.commit("Does not build", builds=False)
    done = pull.review("--gate")
    assert done.returncode == 3
    assert done.stdout.startswith("**NOT MEASURED")
    assert "it does not build" in done.stdout


def test_a_review_of_another_head_is_not_said(world, pull):
    pull.commit("A fault", {GPT2: WRONG})
    pull.review()
    pull.commit("Pushed meanwhile")
    done = pull.comment()
    assert done.returncode == 2
    assert "nothing is said until they agree" in done.stderr
    assert world.receivers.comments == []


def test_a_person_s_comment_with_our_mark_is_left_alone(world, pull):
    pull.commit("Words")
    pull.review()
    world.receivers.comments.append(
        {"id": 1, "issue": 7, "body": "<!-- tlbench: pull request -->", "user": {"type": "User"}}
    )
    assert pull.comment().returncode == 0
    assert world.receivers.comments[0]["body"] == "<!-- tlbench: pull request -->"
    assert len(world.receivers.comments) == 2


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"number": "7"}', "x" * 1_100_000])
def test_what_a_pull_request_s_own_code_may_have_left_is_refused_if_it_is_no_review(pull, content):
    pull.file.write_text(content)
    done = pull.comment("a" * 40)
    assert done.returncode == 2
    assert "is no review" in done.stderr
