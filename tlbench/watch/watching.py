"""One pass of the watch: look upstream, measure what is new, keep what is to be told, publish, tell, and date it all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import filelock

from tlbench.environments.commits import Clone
from tlbench.environments.package_index import client
from tlbench.exceptions import BadInput, CellFailed, TlbenchError
from tlbench.files import write_json, written_whole
from tlbench.grid import Cell
from tlbench.history.listing import Release, list_releases
from tlbench.history.releases import build_history
from tlbench.metrics.change import Change, State, change
from tlbench.paths import cache_dir
from tlbench.records import news
from tlbench.records.news import News, OpenFinding, utc_now
from tlbench.records.serial import plain
from tlbench.report import check as checking
from tlbench.steps.findings import DISTANCE, Finder, Finding, alone
from tlbench.steps.search import Effort
from tlbench.watch import wording
from tlbench.watch.channels import channels, chosen, deliver
from tlbench.watch.configuration import Configuration
from tlbench.watch.messages import Event, Ledger, Level, Memory, Message, Open, Text, key_of
from tlbench.watch.rendering import as_feed
from tlbench.watch.upstream import Mirror, Unreachable

LOCK, FEED = "lock", "news.atom"
PATIENCE_S = 2.0
"""A watch that was killed may leave a process that holds its lock for a moment, until it becomes another program."""
LOOKED_BACK = 20
"""How many commits of a branch that is new to the watch are tried, until one can be measured."""


@dataclass
class Watch:
    """One pass over upstream.

    Attributes:
        configuration: what to watch and whom to tell.
        home: the folder of asv's configuration; the watch's own files are in its folder ``watch``.
        cells: what to measure.
        say: receives a short progress message at each step.
        mirror: the copy of upstream; by default one in the cache.
        problems: what could not be done, in sentences.
        measured: the new commits and releases that were measured.
        is_complete: whether all that is new was looked at.
    """

    configuration: Configuration
    home: Path
    cells: Sequence[Cell]
    say: Callable[[str], None] = lambda _: None
    now: Callable[[], datetime] = utc_now
    mirror: Mirror | None = None
    problems: list[str] = field(default_factory=list)
    measured: list[str] = field(default_factory=list)
    is_complete: bool = True

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.home / news.FOLDER)
        self.memory = Memory()
        self.allowed = checking.allowances(self.home / self.configuration.allow if self.configuration.allow else None)

    def run(self) -> News:
        """Do everything once, and say how it went. Raises BadInput if another watch is at it."""
        with only_one(self.ledger.folder):
            started = self.now()
            self.memory = self.ledger.memory()
            self._look()
            looked = self.is_complete
            self._publish()
            self.problems += deliver(self.ledger, channels(self.configuration), self.say)
            return self._report(started, looked)

    @property
    def _clone(self) -> Path:
        return cache_dir() / "clones" / f"{key_of(self.configuration.upstream)}.git"

    def _look(self) -> None:
        """Measure what is new upstream. Each part is kept as soon as it is known."""
        with self._problem():
            mirror = self.mirror or Mirror.of(self.configuration.upstream, self._clone)
            self.say(f"fetching {self.configuration.upstream}")
            mirror.fetch()
            with alone("tlbench watch"):
                finder = Finder(mirror.clone, self.say)
                try:
                    self._tags(mirror)
                    heads = mirror.heads(self.configuration.branches)
                    for branch in self.configuration.branches:
                        with self._problem(f"{branch}: "):
                            if branch not in heads:
                                raise BadInput("upstream has no such branch: correct `branches`, or wait if it was removed")
                            _Branch(self, mirror, finder, branch).follow(heads[branch])
                    if self.configuration.releases:
                        self._releases(mirror, finder)
                finally:
                    finder.close()

    def _tags(self, mirror: Mirror) -> None:
        """Tell of tags that moved or were deleted."""
        old, new = self.memory.tags, mirror.tags()
        moved = [tag for tag, commit in (old or {}).items() if new.get(tag) != commit]
        for tag in moved:
            was, now = (old or {})[tag], new.get(tag, "")
            self.add(key_of("tag", tag, was, now), Event.SAID, Level.NEWS, wording.moved_tag(tag, was, now))
        self.memory.tags = new
        self.ledger.remember(self.memory)

    def _releases(self, mirror: Mirror, finder: Finder) -> None:
        """Check each new release against the one before it."""
        with self._problem("releases: "):
            self.say("listing releases")
            listing = list_releases(client(), cache_dir() / "downloads")
            if listing.offline:
                raise Unreachable("the package index cannot be reached: the next pass tries again")
            every = tuple(sorted(one.version for one in listing.releases))
            known = self.memory.releases = every if self.memory.releases is None else self.memory.releases
            fresh = [one for one in listing.releases if one.version not in known]
            for one in sorted(fresh, key=lambda one: one.uploaded):
                self._release(mirror, finder, one)
                self.memory.releases = known = (*known, one.version)
                self.ledger.remember(self.memory)
            self.ledger.remember(self.memory)

    def _release(self, mirror: Mirror, finder: Finder, one: Release) -> None:
        uploaded = one.uploaded.date().isoformat()
        key = key_of("release", one.version)
        own = finder
        try:
            if one.tag not in mirror.tags():  # upstream tags some days later; the package index has the source at once
                history = build_history(cache_dir() / "clones" / "releases.git", downloads=cache_dir() / "downloads")
                own = Finder(Clone(history.repository, cache_dir() / "states" / "code.txt"), self.say)
            head = own.clone.resolve(one.tag)
            base = own.clone.last_release(head)
            ends = own.ends(base, head, self.cells)
            found = own.steps(base, head, self.cells)
            checked = checking.checked(found, ends, self.allowed, [], "", self.now().date())
            level = Level.ALARM if checked.exit_status == 1 else Level.NEWS
            self.add(key, Event.SAID, level, wording.release(own.clone, checked, one.version, uploaded))
            self.measured.append(head)
        except (BadInput, CellFailed) as error:
            self.add(key, Event.SAID, Level.NEWS, wording.release_not_measured(one.version, uploaded, str(error)))
        finally:
            if own is not finder:
                own.close()

    def add(self, key: str, event: Event, level: Level, text: Text, part: str = "") -> None:
        """Keep a message for the channels that take its level."""
        to = chosen(self.configuration, level, event)
        self.ledger.add([Message(key, event, level, text, self.now(), part, to)])

    @contextmanager
    def _problem(self, what: str = "") -> Iterator[None]:
        """Within the block an error becomes a problem of this pass."""
        try:
            yield
        except (TlbenchError, OSError) as error:
            self.problems.append(f"{what}{error}")
            self.is_complete = False

    def _publish(self) -> None:
        """Have asv measure new commits and publish, then write the feed."""
        if (publish := self.configuration.publish) is None:
            return
        with self._problem("publishing: "):
            self._write_news(self.now(), self.is_complete)  # the site's first page reads it
            if publish.bench and self.measured:
                self.say("asv run")
                commits = "".join(f"{commit}\n" for commit in self.measured)
                words = ("run", "--machine", publish.machine, "--skip-existing", "--bench", publish.bench, "HASHFILE:-")
                self._asv(*words, feed=commits, right=(0, 2))  # 2: a cell failed, which is a result
            self.say("asv publish")
            self._asv("publish", "--no-pull", "--html-dir", publish.html)

    def _asv(self, *words: str, feed: str = "", right: Sequence[int] = (0,)) -> None:
        command = [str(Path(sys.executable).with_name("asv")), *words]
        done = subprocess.run(command, cwd=self.home, input=feed, capture_output=True, text=True, check=False)
        if done.returncode not in right:
            said = ((done.stderr + done.stdout).strip().splitlines() or ["no message"])[-1]
            raise BadInput(
                f"asv {words[0]} ended with status {done.returncode} ({said}): run it by hand in {self.home.name}"
            )

    def _report(self, started: datetime, looked: bool) -> News:
        """Say how old the news is, in the files that the site and `--age` read, and in the feed."""
        now = self._write_news(started, looked)
        write_feed(self.configuration, self.home, now, self.now())
        return now

    def _write_news(self, started: datetime, looked: bool) -> News:
        before = news.read(self.ledger.folder)
        messages = self.ledger.messages()
        issues = {one.key: one.told.get("github", "") for one in messages if one.event is Event.OPENED}
        now = News(
            looked_at=started if looked else before.looked_at if before else None,
            started_at=started,
            max_age_h=self.configuration.max_age_h,
            heads=self.memory.heads,
            open=tuple(
                OpenFinding(one.text.title, one.commit, issues.get(key, "")) for key, one in self.memory.open.items()
            ),
            problems=tuple(self.problems),
            waiting=sum(bool(one.waiting) for one in messages),
        )
        write_json(self.ledger.folder / news.NAME, plain(now))
        return now


@dataclass
class _Branch:
    """What is new on one branch."""

    watch: Watch
    mirror: Mirror
    finder: Finder
    name: str

    def follow(self, new: str) -> None:
        """Measure from the commit up to which everything was told to the newest that can be measured."""
        memory = self.watch.memory
        old = memory.heads.get(self.name)
        is_rewritten = False
        if old is None:
            head = self._measurable(new, self.mirror.first_parents(new)[:LOOKED_BACK])
        elif old == new:
            return
        else:
            base = self.mirror.base(old, new)
            if is_rewritten := base != old:
                base = base or self.mirror.clone.last_release(new)
                text = wording.rewritten(self.name, old, new, base)
                self.watch.add(key_of("rewritten", self.name, old, base), Event.SAID, Level.NEWS, text)
            head = self._measurable(new, self.mirror.first_parents(new, f"^{base}")) or base
            findings = self._findings(str(base), head) if head and head != base else []
            if head:
                self._tell(findings, head, is_rewritten)
        if head is None:
            raise BadInput(
                f"none of the newest commits, {new[:8]} and before, can be measured: see the messages; it is tried again"
            )
        memory.heads[self.name] = head
        self.watch.measured.append(head)
        self.watch.ledger.remember(memory)

    def _measurable(self, new: str, newest_first: Sequence[str]) -> str | None:
        """The newest commit that can be measured; None if there is none. That later ones cannot is told."""
        memory, left = self.watch.memory, []
        found, reason = None, ""
        for commit in newest_first:
            try:
                self.finder.laboratory.states(commit, self.watch.cells)
                found = commit
                break
            except CellFailed as error:
                left.append(commit)
                reason = reason or str(error)
        if left:
            self.watch.problems.append(f"{self.name}: {len(left)} commits at its end cannot be measured ({reason})")
            details = [self.mirror.clone.details(commit, new) for commit in reversed(left)]
            key = key_of("unmeasurable", self.name, left[-1])
            self.watch.add(key, Event.OPENED, Level.NEWS, wording.unmeasurable(self.name, details, reason))
            self._measurable_again(except_for=key, head=new)
            memory.unmeasurable[self.name] = key
        elif found:
            self._measurable_again(except_for="", head=found)
        return found

    def _measurable_again(self, except_for: str, head: str) -> None:
        key = self.watch.memory.unmeasurable.get(self.name, "")
        if key and key != except_for:
            self.watch.add(key, Event.CLOSED, Level.NEWS, wording.measurable_again(self.name, head))
            del self.watch.memory.unmeasurable[self.name]

    def _findings(self, base: str, head: str) -> list[Finding]:
        """The steps that are more than rounding, each set of commits once."""
        effort = Effort.EXHAUSTIVE if self.watch.configuration.exhaustive else Effort.SEARCH
        found = self.finder.steps(base, head, self.watch.cells, effort)
        reasons = dict.fromkeys(found.not_measured.values())
        if reasons:
            count = f"{len(found.not_measured)} of {len(found.cells)} cells were not measured"
            self.watch.problems.append(f"{self.name}: {count} in {base[:8]}..{head[:8]}: {'; '.join(reasons)}")
        merged: dict[tuple[str, ...], Finding] = {}
        for one in found.findings:
            known = merged.get(one.commits)
            moved = sorted((*known.moved, *one.moved) if known else one.moved, key=lambda each: DISTANCE[each.change])
            merged[one.commits] = replace(one if known is None else known, moved=tuple(moved))
        return [one for one in merged.values() if one.change.is_news or one.doubt]

    def _tell(self, findings: Sequence[Finding], head: str, is_rewritten: bool) -> None:
        """Keep a message for each new step, and for each open one that is not as it was."""
        for finding in findings:
            if finding.doubt:
                key, text = (
                    key_of("step", *finding.commits),
                    wording.step(self.mirror.clone, finding, f"on {self.name}", head),
                )
                self.watch.add(key, Event.SAID, Level.NEWS, text, "unconfirmed")
        findings = [one for one in findings if not one.doubt]
        for finding in findings:
            if finding.change.is_for_the_worse:
                self._open(finding, head, is_rewritten)
        explained = self._reconsider(findings, head)
        for finding in findings:
            news_of = {str(one.cell) for one in finding.moved if one.change.is_news}
            if not finding.change.is_for_the_worse and not news_of <= explained:
                self._said(finding, head, is_rewritten)

    def _open(self, finding: Finding, head: str, is_rewritten: bool) -> None:
        key, text = key_of("step", *finding.commits), wording.step(self.mirror.clone, finding, f"on {self.name}", head)
        if self._is_known(key, finding, is_rewritten):
            return
        is_accepted = any(one.covers(finding, self.watch.now().date()) for one in self.watch.allowed)
        level = Level.ALARM if finding.change.is_alarm and not is_accepted else Level.NEWS
        self.watch.add(key, Event.OPENED, level, text)
        worse = {str(one.cell): one.before for one in finding.moved if one.change.is_for_the_worse}
        self.watch.memory.open[key] = Open(self.name, finding.commits[-1], level, text, worse, tuple(worse))
        self._remember(key, finding)

    def _said(self, finding: Finding, head: str, is_rewritten: bool) -> None:
        key = key_of("step", *finding.commits)
        if not self._is_known(key, finding, is_rewritten):
            text = wording.step(self.mirror.clone, finding, f"on {self.name}", head)
            self.watch.add(key, Event.SAID, Level.NEWS, text)
            self._remember(key, finding)

    def _remember(self, key: str, finding: Finding) -> None:
        self.watch.memory.told.append(key)
        self.watch.memory.signatures[_signature(finding)] = (self.name, key)

    def _is_known(self, key: str, finding: Finding, is_rewritten: bool) -> bool:
        """Whether this step was told: as this commit or, from another branch or before a rewrite, as another one."""
        branch, told = self.watch.memory.signatures.get(_signature(finding), ("", ""))
        again = bool(told) and (told in self.watch.memory.open or branch != self.name or is_rewritten)
        return key in self.watch.memory.told or again

    def _reconsider(self, findings: Sequence[Finding], head: str) -> set[str]:
        """Compare each open regression of this branch with its newest commit. Return the cells that are less wrong now."""
        explained: set[str] = set()
        memory = self.watch.memory
        for key, one in [(key, one) for key, one in memory.open.items() if one.branch == self.name]:
            cells = [cell for cell in self.watch.cells if str(cell) in one.before]
            states = self.finder.laboratory.states(head, cells)
            wrong = tuple(
                str(cell) for cell in cells if _is_still_wrong(one.before[str(cell)], states[cell], str(cell) in one.wrong)
            )
            wrong += tuple(cell for cell in one.wrong if cell not in {str(cell) for cell in cells})  # not watched any more
            explained |= set(one.wrong) - set(wrong)
            if not wrong:
                text = wording.mended(one, self._mender(findings, one, head), head)
                self.watch.add(key, Event.CLOSED, one.level, text)
                del memory.open[key]
            elif set(wrong) != set(one.wrong):
                text = wording.partly_mended(one, wrong, head)
                part = f"{one.changes + 1}-{key_of(*sorted(wrong))}"
                self.watch.add(key, Event.CHANGED, one.level, text, part)
                memory.open[key] = replace(one, wrong=wrong, changes=one.changes + 1)
        return explained

    def _mender(self, findings: Sequence[Finding], one: Open, head: str) -> str:
        """The last step that made its cells better, in words; "" if no single commit is known to have."""
        for finding in reversed(findings):
            for moved in finding.moved:
                if str(moved.cell) in one.wrong and moved.change in (Change.MENDED, Change.BETTER):
                    return wording.named([self.mirror.clone.details(commit, head) for commit in finding.commits])
        return ""


def _is_still_wrong(before: State, now: State, was_wrong: bool) -> bool:
    word, _ = change(replace(before, environment=""), replace(now, environment=""))
    return was_wrong if word is Change.NOT_MEASURED else word.is_for_the_worse


def _signature(finding: Finding) -> str:
    """What a step did, whichever commit did it."""
    return key_of(*sorted(f"{one.cell} {one.before.identity} {one.after.identity}" for one in finding.moved))


def tell_age(configuration: Configuration, home: Path, now: datetime, say: Callable[[str], None]) -> tuple[str, bool]:
    """How old the news is, and whether that is too old. If it is, every channel and the feed are told, once a silence.

    Needs neither upstream nor a measurement, so it can run where the watch has died. Raises BadInput while a watch runs.
    """
    ledger = Ledger(home / news.FOLDER)
    found = news.read(ledger.folder)
    if found is None:
        return "No watch has ever finished here: its silence means nothing.", True
    if not found.is_old(now):
        return found.sentence(now), False
    with only_one(ledger.folder):
        text = wording.silent(found.sentence(now), found.problems)
        to = chosen(configuration, Level.ALARM, Event.SAID)
        ledger.add([Message(key_of("silent", found.looked_at), Event.SAID, Level.ALARM, text, now, "", to)])
        problems = deliver(ledger, channels(configuration), say)
        write_feed(configuration, home, found, now)
    return " ".join([found.sentence(now), *problems]), True


def write_feed(configuration: Configuration, home: Path, found: News, now: datetime) -> None:
    """Write the feed into the published site, or beside the watch's files if there is none."""
    if configuration.feed:
        publish = configuration.publish
        folder = home / publish.html if publish and (home / publish.html).is_dir() else home / news.FOLDER
        feed = as_feed(Ledger(home / news.FOLDER).messages(), configuration.url, now, found.sentence(now))
        with written_whole(folder / FEED) as path:
            path.write_bytes(feed)
            path.chmod(0o644)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Within the block no other watch uses these files. Raises BadInput if one does already."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=PATIENCE_S)
    except filelock.Timeout:
        raise BadInput(
            f"another watch is at work in {folder}: wait until it ends, or give this one a folder of its own"
        ) from None
    try:
        yield
    finally:
        lock.release()
