"""`tlbench check`: is a commit worse than another? The answer first, then a line for each cause."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.console import Console
from rich.text import Text

from tlbench.environments.commits import Clone
from tlbench.exceptions import BadInput
from tlbench.files import write_json
from tlbench.metrics.change import Change, State, change
from tlbench.metrics.verdict import Verdict
from tlbench.records.serial import plain, restored
from tlbench.report import steps
from tlbench.steps.findings import Finding, Found, Moved

FIELDS = ("commit", "who", "why", "until")


class CheckFormat(StrEnum):
    """The format of a check."""

    RICH = "rich"
    MARKDOWN = "markdown"
    JSON = "json"
    JUNIT = "junit"


@dataclass(frozen=True)
class Allowance:
    """A step that somebody has accepted.

    Attributes:
        commit: the beginning of its hash.
        until: the last day on which it is accepted.
    """

    commit: str
    who: str
    why: str
    until: date

    def covers(self, finding: Finding, today: date) -> bool:
        """Whether it accepts a step. One that may be any of several commits is accepted only if each is."""
        return today <= self.until and all(commit.startswith(self.commit) for commit in finding.commits)


def allowances(path: Path | None) -> list[Allowance]:
    """Read a file of accepted steps. Raises BadInput if it is no such file."""
    if path is None:
        return []
    try:
        entries = tomllib.loads(path.read_text()).get("allow", [])
        return [Allowance(**entry) for entry in entries if _is_allowance(entry)]
    except (OSError, ValueError, TypeError) as error:
        wanted = "[[allow]] entries with commit, who, why and until (a date, e.g. 2026-12-31)"
        raise BadInput(f"--allow {path}: {error}: write {wanted}") from error


def _is_allowance(entry: Any) -> bool:
    if set(entry) != set(FIELDS) or not isinstance(entry["until"], date) or not all(map(str, map(entry.get, FIELDS[:3]))):
        raise ValueError(f"an entry has {', '.join(f'{key} = {value}' for key, value in entry.items()) or 'nothing'}")
    return True


@dataclass(frozen=True)
class Unexpected:
    """A cell that is not as the file of expected states says; ``change`` is from there to what was found."""

    moved: Moved

    @property
    def is_improvement(self) -> bool:
        """Whether it is better than expected, so that the file should take it in."""
        return not self.moved.change.is_for_the_worse


def unexpected(path: Path | None, ends: Sequence[Moved]) -> list[Unexpected]:
    """The cells that differ from a file of expected states by more than rounding. Raises BadInput if it cannot be read."""
    if path is None:
        return []
    try:
        expected = restored(dict[str, State], json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise BadInput(f"--expected {path}: {error}: add --take-in to write it") from error
    found = []
    for one in ends:
        before = expected.get(str(one.cell), State(Verdict.NOT_MEASURED))
        word, bits = change(before, _expectation(one.after))
        if word.is_news or (word is Change.NOT_MEASURED and one.after.verdict is not Verdict.NOT_MEASURED):
            found.append(Unexpected(Moved(one.cell, word, before, one.after, bits)))
    return found


def take_in(path: Path, ends: Sequence[Moved]) -> None:
    """Write what was found as what is expected."""
    states = {str(one.cell): plain(_expectation(one.after)) for one in ends if one.after.verdict is not Verdict.NOT_MEASURED}
    write_json(path, states)


def _expectation(state: State) -> State:
    """What of a state holds on every machine and in every environment."""
    return replace(state, fingerprint="", environment="", reason="")


@dataclass(frozen=True)
class Checked:
    """A commit checked against another.

    Attributes:
        found: the steps between the two.
        accepted: the allowance of each step that has one.
        ended: allowances whose day is past, of steps that were found.
        drifted: cells that are worse by several steps, of which none is more than rounding.
        unexpected: the cells that are not as expected; ``take_in``, the command that takes them in.
    """

    found: Found
    accepted: Mapping[Finding, Allowance]
    ended: Sequence[Allowance] = ()
    drifted: Sequence[Moved] = ()
    unexpected: Sequence[Unexpected] = ()
    take_in: str = ""

    @property
    def news(self) -> list[Finding]:
        """The steps that are more than rounding, the worst first."""
        order = list(Change)
        return sorted((one for one in self.found.findings if one.change.is_news), key=lambda one: order.index(one.change))

    @property
    def alarms(self) -> list[Finding]:
        """The steps that somebody has to look at, and nobody has accepted."""
        return [one for one in self.news if one.change.is_alarm and one not in self.accepted]

    @property
    def exit_status(self) -> int:
        """0: not worse; 1: worse, or not as expected; 2: not known, as cells were not measured."""
        if self.alarms or self.unexpected or any(one.change.is_alarm for one in self.drifted):
            return 1
        return 2 if self.found.not_measured else 0

    @property
    def verdict(self) -> str:
        """The answer in one line."""
        good, bad = self.found.good[:8], self.found.bad[:8]
        cells = f"{len(self.found.cells) - len(self.found.not_measured)} cells"
        rest = f"; {len(self.found.not_measured)} cells were not measured" if self.found.not_measured else ""
        if drifted := [one.change for one in self.drifted if one.change.is_alarm]:
            return f"WORSE  {bad} is worse than {good} by many small steps: {steps.in_words(drifted)} in {cells}{rest}"
        if self.alarms:
            return f"WORSE  {bad} is worse than {good}: {steps.in_words(one.change for one in self.alarms)} in {cells}{rest}"
        if self.unexpected:
            return f"NOT AS EXPECTED  {len(self.unexpected)} of {cells} of {bad} are not as the file says{rest}"
        if self.found.not_measured:
            return f"NOT KNOWN  {bad} is not worse than {good} in {cells}{rest}"
        news = steps.in_words(one.change for one in self.news)
        return f"NOT WORSE  {bad} is not worse than {good} in {cells}{f' ({news})' if news else ''}"


def checked(
    found: Found,
    ends: Sequence[Moved],
    allowed: Sequence[Allowance],
    others: Sequence[Unexpected],
    command: str,
    today: date,
) -> Checked:
    """Put together what was found, what is accepted and what was expected."""
    explained = {one.cell for finding in found.findings if finding.change.is_news for one in finding.moved}
    drifted = [one.regardless_of_environment for one in ends if one.is_worse and one.cell not in explained]
    accepted = {
        finding: one
        for finding in found.findings
        for one in allowed
        if finding.change.is_alarm and one.covers(finding, today)
    }
    ended = [
        one
        for one in allowed
        if one.until < today and any(replace(one, until=today).covers(finding, today) for finding in found.findings)
    ]
    return Checked(found, accepted, ended, drifted, others, command)


def show(console: Console, style: CheckFormat, clone: Clone, one: Checked) -> None:
    """Print a check."""
    if style is CheckFormat.JSON:
        steps.print_json(to_json(clone, one))
    elif style is CheckFormat.JUNIT:
        print(ElementTree.tostring(junit(clone, one), encoding="unicode"))
    else:
        bullet = "- " if style is CheckFormat.MARKDOWN else ""
        steps.print_line(console, steps.StepFormat(style.value), one.verdict)
        for line in lines(clone, one):
            console.print(Text(f"{bullet}{line}"))


def lines(clone: Clone, one: Checked) -> list[str]:
    """A line for each cause, and what else to know."""
    found = [line(clone, one, finding) for finding in one.news]
    if rounded := len(one.found.findings) - len(one.news):
        found.append(f"{Change.OTHER_ROUNDING}: {rounded} {'step' if rounded == 1 else 'steps'}")
    for drift in one.drifted:
        numbers = f"{steps.state_in_words(drift.before)} → {steps.state_in_words(drift.after)}"
        found.append(f"{drift.change}: by many small steps: {drift.cell}: {numbers}")
    for other in one.unexpected:
        word = "improvement not taken in" if other.is_improvement else "worse than expected"
        moved = other.moved
        expected, now = steps.state_in_words(moved.before), steps.state_in_words(moved.after)
        found.append(f"{word}: {moved.cell}: expected {expected}, found {now}")
    if any(other.is_improvement for other in one.unexpected):
        found.append(f"to take it in: {one.take_in}")
    found += [f"the allowance of {gone.commit} by {gone.who} ended on {gone.until}: {gone.why}" for gone in one.ended]
    return [*found, *steps.notes(one.found)]


def line(clone: Clone, one: Checked, finding: Finding) -> str:
    """One cause in a line."""
    details = [clone.details(commit, one.found.bad) for commit in finding.commits]
    worst = finding.worst
    numbers = f"{steps.state_in_words(worst.before)} → {steps.state_in_words(worst.after)}"
    place = f", first wrong: {finding.place}" if finding.place else ""
    doubt = f" (not confirmed: {finding.doubt})" if finding.doubt else ""
    allowance = one.accepted.get(finding)
    allowed = f" [allowed by {allowance.who} until {allowance.until}: {allowance.why}]" if allowance else ""
    return (
        f"{finding.change}: {steps.named(details)}: {len(finding.moved)} cells, worst {worst.cell}: {numbers}{place}"
        f"{doubt}{allowed}"
    )


def to_json(clone: Clone, one: Checked) -> dict[str, Any]:
    """Everything, as JSON."""
    accepted = {finding.after: f"{by.who}: {by.why}" for finding, by in one.accepted.items()}
    return {
        "verdict": one.verdict,
        "exit_status": one.exit_status,
        "lines": lines(clone, one),
        "allowed": accepted,
        "unexpected": [plain(other.moved) for other in one.unexpected],
        **plain(steps.record(clone, one.found)),
    }


def junit(clone: Clone, one: Checked) -> ElementTree.Element:
    """A test suite with a case a cause, a case a cell that is not as expected, and one if cells were not measured."""
    suite = ElementTree.Element("testsuite", name=f"tlbench check {one.found.good[:8]}..{one.found.bad[:8]}")
    cases = 0

    def case(name: str, outcome: str = "", message: str = "") -> None:
        nonlocal cases
        cases += 1
        element = ElementTree.SubElement(suite, "testcase", classname="tlbench", name=name)
        if outcome:
            ElementTree.SubElement(element, outcome, message=message)

    for finding in one.found.findings:
        outcome = "failure" if finding in one.alarms else "skipped" if finding in one.accepted else ""
        case(f"{finding.change} {finding.after[:8]}", outcome, line(clone, one, finding))
    for drift in one.drifted:
        case(f"drift {drift.cell}", "failure" if drift.change.is_alarm else "", str(drift.change))
    for other in one.unexpected:
        case(f"expected {other.moved.cell}", "failure", str(other.moved.change))
    for cell, reason in one.found.not_measured.items():
        case(cell, "error", f"not measured: {reason}")
    if not cases:
        case(one.verdict)
    for outcome, name in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(name, str(len(suite.findall(f"testcase/{outcome}"))))
    suite.set("tests", str(cases))
    return suite
