"""The words of each message. The first four lines answer: what, since when, how bad, what do I do?"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime

from tlbench.environments.commits import Clone, Commit
from tlbench.grid import Cell
from tlbench.metrics.change import Change
from tlbench.report import check as checking
from tlbench.report import steps as report
from tlbench.report.check import Checked
from tlbench.steps.findings import Finding, Moved
from tlbench.watch.escaping import one_line
from tlbench.watch.messages import Open, Text

EPOCH = datetime.fromtimestamp(0, UTC)
"""The time of a message that shows none."""
PACKAGES = "look at the packages below: TransformerLens's own code gives the same bits in both environments."


def step(clone: Clone, finding: Finding, where: str, head: str) -> Text:
    """A step that is more than rounding; ``where`` it is, such as ``on dev``."""
    details = [clone.details(commit, head) for commit in finding.commits]
    worst, word = finding.worst, finding.change
    cells = [one.cell for one in finding.moved if one.change is word]
    lines = [f"{change}: {report.cells_in_words(of_change)}" for change, of_change in by_change(finding)]
    if finding.environments:
        lines.append(f"The environment changed: {', '.join(finding.environments)}")
    place = f" The first wrong component is {finding.place}." if finding.place else ""
    what = f"{word}: {_verb(word)} in {_counted(len(cells), 'cell')} of {_models(cells)} {where}."
    state = worst.after.verdict if word is Change.ALARM else word
    title = f"{_models(cells)}: {state} since {details[-1].short} ({details[-1].subject})"
    if finding.doubt:
        title = f"not confirmed: {title}"
        what = f"not confirmed: {what} {finding.doubt}."
    return Text(
        title=one_line(title),
        what=one_line(what, 1000),
        since=one_line(named(details), 1000),
        how_bad=one_line(f"worst is {worst.cell}: {_numbers(worst)}.{place}", 1000),
        what_to_do=_what_to_do(finding, details),
        details=tuple(lines),
        commands=tuple(commands(finding)),
    )


def _what_to_do(finding: Finding, details: Sequence[Commit]) -> str:
    if finding.doubt:
        return "nothing yet: it came out differently the second time. Run the second command below to see which is right."
    if finding.change is Change.ENVIRONMENT:
        return PACKAGES
    if not finding.change.is_for_the_worse:
        return "nothing. If you had worked around the old error, see whether you still need to."
    number = details[-1].pull_request
    pull = f" or pull request {number}" if number else ""
    commit = f"{details[-1].short}{pull}"
    return (
        f"run the second command below: it reproduces the worst cell. Mend or revert {commit}, or accept it with a reason."
    )


def mended(one: Open, by: str, head: str) -> Text:
    """A regression that is over; ``by`` is the commit that mended it, in words, or "" if it is not known."""
    mender = by or f"a commit up to {head[:8]}; which one is not known"
    return Text(
        title=f"{one.text.title}: mended",
        what=f"mended: {_counted(len(one.before), 'cell')} as right as before, or better, at {head[:8]} on {one.branch}.",
        since=one_line(f"wrong since {one.text.since} Mended by {mender.removesuffix('.')}.", 1500),
        how_bad=f"it was: {one.text.how_bad}",
        what_to_do="nothing. Releases between the two commits have the fault.",
        details=tuple(f"It was {line}" for line in one.text.details),
        commands=one.text.commands,
    )


def partly_mended(one: Open, wrong: Sequence[str], head: str) -> Text:
    """A regression of which other cells are wrong than before."""
    cells = [cell for cell in one.before if cell in wrong]
    return Text(
        title=one.text.title,
        what=f"{one.text.what} At {head[:8]}, {len(cells)} of {_counted(len(one.before), 'cell')} are still wrong.",
        since=one.text.since,
        how_bad=one.text.how_bad,
        what_to_do=one.text.what_to_do,
        details=(f"Still wrong at {head[:8]}: {', '.join(cells)}", *one.text.details),
        commands=one.text.commands,
    )


def unmeasurable(branch: str, commits: Sequence[Commit], reason: str) -> Text:
    """A branch whose newest commits cannot be measured, the oldest first."""
    return Text(
        title=one_line(f"{branch} cannot be measured since {commits[0].short} ({commits[0].subject})"),
        what=f"not measured: {_counted(len(commits), 'commit')} at the end of {branch}. Whether they are right is open.",
        since=one_line(named([commits[0]]), 1000),
        how_bad=one_line(f"the reason: {reason}", 1000),
        what_to_do="run the command below to see whether it builds, installs and imports for you. It is tried again.",
        commands=(shlex.join(["tlbench", "verify", "zoo-gpt2", "--tl", commits[-1].hash]),),
    )


def measurable_again(branch: str, head: str) -> Text:
    """The end of that."""
    return Text(
        title=f"{branch} can be measured again at {head[:8]}",
        what=f"measured: {branch} builds, installs and imports again at {head[:8]}.",
        since="the newest commit.",
        how_bad="what changed since the last measured commit has messages of its own.",
        what_to_do="nothing.",
    )


def rewritten(branch: str, old: str, new: str, base: str) -> Text:
    """A branch whose old commits are gone from it."""
    return Text(
        title=f"{branch} was rewritten: {old[:8]} is not behind {new[:8]}",
        what=f"rewritten: {branch} of upstream does not hold {old[:8]} any more, up to which it was measured.",
        since=f"it now ends at {new[:8]}; both histories share {base[:8]}.",
        how_bad="no figure changed by this. Commits that were told of may have another hash now.",
        what_to_do=f"nothing. The watch measures {base[:8]}..{new[:8]}, and repeats no finding that is still open.",
    )


def moved_tag(tag: str, old: str, new: str) -> Text:
    """A tag that names another commit, or none."""
    now = f"names {new[:8]} and named {old[:8]}" if new else f"named {old[:8]} and is gone"
    return Text(
        title=f"tag {tag} {'moved' if new else 'was deleted'}",
        what=f"{'moved' if new else 'deleted'} tag: {tag} of upstream {now}.",
        since="the last pass of the watch.",
        how_bad="figures that were stored under this tag belong to the old commit.",
        what_to_do="ask upstream whether it was meant. If it was, measure the tag again.",
    )


def release(clone: Clone, one: Checked, version: str, uploaded: str) -> Text:
    """A release against the one before it."""
    worst = one.news[0] if one.news else None
    first = f"{one.found.good[:8]}..{one.found.bad[:8]}"
    alarms = "; ".join(checking.line(clone, one, finding) for finding in one.alarms)
    return Text(
        title=f"TransformerLens {version}: {one.verdict.split('  ')[0].capitalize()}",
        what=one_line(f"release {version}: {one.verdict}", 1000),
        since=f"uploaded on {uploaded}; compared with the release before it, {first}.",
        how_bad=one_line(
            f"worst is {worst.worst.cell}: {_numbers(worst.worst)}." if worst else "no cell changed by more than rounding.",
            1000,
        ),
        what_to_do=one_line(f"do not recommend it for these cells: {alarms}" if alarms else "nothing.", 2000),
        details=tuple(one_line(line, 1000) for line in checking.lines(clone, one)),
        commands=(shlex.join(["tlbench", "check", one.found.good, one.found.bad]),),
    )


def release_not_measured(version: str, uploaded: str, reason: str) -> Text:
    """A release that could not be compared with the one before it."""
    return Text(
        title=f"TransformerLens {version} could not be measured",
        what=f"not measured: release {version}. Whether any model got worse is not known.",
        since=f"uploaded on {uploaded}.",
        how_bad=one_line(f"the reason: {reason}", 1000),
        what_to_do="see whether it installs and imports for you: run the command below.",
        commands=(shlex.join(["tlbench", "verify", "zoo-gpt2", "--tl", version]),),
    )


def silent(sentence: str, problems: Sequence[str]) -> Text:
    """The watch itself has not finished a pass for too long."""
    return Text(
        title="The watch of TransformerLens's numerics is silent",
        what=f"silent: {sentence}",
        since="the time named above.",
        how_bad=one_line("; ".join(problems) or "the last pass named no problem: perhaps it does not run at all.", 1500),
        what_to_do="run `tlbench watch` by hand and read what it says.",
    )


def commands(finding: Finding) -> list[str]:
    """What reproduces the worst cell before and after, on any machine."""
    cell = finding.worst.cell
    words = [cell.model, "--dtype", cell.dtype, "--option", cell.option, "--wrapper", cell.wrapper, "--question", "logits"]
    return [
        shlex.join(["tlbench", "verify", *map(str, words), "--tl", commit]) for commit in (finding.before, finding.after)
    ]


def named(details: Sequence[Commit]) -> str:
    """A commit in words; several as the set that the step is in."""
    return f"{report.named(details)}."


def by_change(finding: Finding) -> list[tuple[Change, list[Cell]]]:
    """The cells of each class, the worst class first."""
    words = [word for word in Change if any(one.change is word for one in finding.moved)]
    return [(word, [one.cell for one in finding.moved if one.change is word]) for word in words]


def _numbers(one: Moved) -> str:
    bits = "" if one.bits is None else f", {one.bits:+.2f} bits"
    return f"{report.state_in_words(one.before)} → {report.state_in_words(one.after)}{bits}"


def _verb(word: Change) -> str:
    return {
        Change.ALARM: "TransformerLens became wrong",
        Change.NEWLY_FAILING: "TransformerLens raises",
        Change.NEWLY_NOT_APPLICABLE: "TransformerLens has no such model any more",
        Change.NOTICE: "the error grew",
        Change.ENVIRONMENT: "a dependency changed the logits",
        Change.MENDED: "TransformerLens is right again",
        Change.BETTER: "the error shrank",
        Change.NEWLY_APPLICABLE: "TransformerLens has a new model",
    }.get(word, "the logits had other bits")


def _models(cells: Sequence[Cell]) -> str:
    names = list(dict.fromkeys(cell.model for cell in cells))
    return ", ".join(names) if len(names) < 4 else f"{', '.join(names[:3])} and {len(names) - 3} more models"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
