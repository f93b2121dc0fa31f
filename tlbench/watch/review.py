"""A pull request against its base: two commits, measured on one machine, and one comment.

The job that runs the pull request's code has no rights. It leaves a file, which another job with the right to comment reads.
So nothing in the file is trusted: it is decoded strictly, its words are escaped, and the pull request's head is compared.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tlbench.environments.commits import Clone
from tlbench.exceptions import BadInput
from tlbench.files import write_json
from tlbench.grid import Cell
from tlbench.metrics.change import Change
from tlbench.paths import cache_dir
from tlbench.records.serial import plain, restored
from tlbench.report.steps import in_words, state_in_words
from tlbench.steps.findings import Finder, Finding, Moved
from tlbench.steps.search import Step
from tlbench.watch import wording
from tlbench.watch.escaping import code, one_line, prose
from tlbench.watch.github import GitHub
from tlbench.watch.messages import Event, Level, Message, Text
from tlbench.watch.rendering import as_markdown

MARK = "pull request"
WORSE_LABEL, ACCEPTED_LABEL = "numerics-regression", "numerics-accepted"
WANTED = (
    "run the second command below: it reproduces the worst cell. If the change is wanted, say why in a comment, and a "
    f"maintainer adds the label {ACCEPTED_LABEL}."
)
ROWS = 40
SIZE_LIMIT = 1_000_000


@dataclass(frozen=True)
class Row:
    """One cell that changed, in words."""

    cell: str
    change: str
    before: str
    after: str


@dataclass(frozen=True)
class Review:
    """What a pull request does.

    Attributes:
        number: the pull request's number; 0 if there is none.
        is_worse: whether a cell raises an alarm, by the pull request's code or by the packages that it asks for.
        is_measured: whether every cell was measured, and came out the same when it was measured anew.
        rows: the cells that changed by more than rounding, the worst first.
    """

    number: int
    head: str
    verdict: str
    is_worse: bool
    is_measured: bool
    text: Text
    rows: tuple[Row, ...] = ()

    @property
    def exit_status(self) -> int:
        """0: not worse; 1: worse; 3: not known."""
        return 1 if self.is_worse else 0 if self.is_measured else 3

    def markdown(self) -> str:
        """The comment: the verdict, four lines, the cells that changed, and how to reproduce the worst."""
        message = Message(MARK, Event.SAID, Level.NEWS, self.text, wording.EPOCH)
        body = as_markdown(message)
        if self.rows:
            lines = ["| | cell | before | after |", "|:--|:--|:--|:--|"]
            lines += [
                f"| {prose(r.change)} | {code_in_table(r.cell)} | {prose(r.before)} | {prose(r.after)} |" for r in self.rows
            ]
            answers, _, rest = body.partition("\n\n")
            body = "\n\n".join([answers, "\n".join(lines), rest])
        return f"**{prose(self.verdict)}**\n\n{body}"


def code_in_table(text: str) -> str:
    """A code span in a table, where a bar would end the column even within the span."""
    return code(text.replace("|", "¦"))


def review(finder: Finder, base: str, head: str, cells: Sequence[Cell], number: int) -> Review:
    """Measure a pull request's head against its base: the last commit that both histories share."""
    clone = finder.clone
    try:
        ends = finder.ends(base, head, cells)
    except BadInput as error:
        reason = one_line(str(error), 1000)
        text = Text(
            title="not measured",
            what="not measured: whether any model got worse is not known.",
            since=wording.named([clone.details(head, head)]),
            how_bad=f"the reason: {reason}",
            what_to_do="if it builds, installs and imports for you, tell the maintainers of tlbench.",
        )
        return Review(number, head, f"NOT MEASURED: {head[:8]}", False, False, text)
    unknown = [one for one in ends if one.change is Change.NOT_MEASURED]
    differ = frozenset(one.cell for one in ends if one not in unknown and one.before.identity != one.after.identity)
    finding = finder.finding(Step((head,), base, head, differ)) if differ else None
    return _worded(clone, number, base, head, ends, unknown, finding)


def _worded(
    clone: Clone,
    number: int,
    base: str,
    head: str,
    ends: Sequence[Moved],
    unknown: Sequence[Moved],
    finding: Finding | None,
) -> Review:
    moved = finding.moved if finding else ()
    news = [one for one in moved if one.change.is_news]
    is_doubtful = bool(finding and finding.doubt)
    is_worse = not is_doubtful and any(one.regardless_of_environment.change.is_alarm for one in news)
    counts = {"same bits": len(ends) - len(moved) - len(unknown), "not measured": len(unknown)}
    summary = ", ".join([in_words(one.change for one in moved), *(f"{n} {word}" for word, n in counts.items() if n)]).strip(
        ", "
    )
    word = "WORSE" if is_worse else "NOT CONFIRMED" if is_doubtful else "NOT KNOWN" if unknown else "NOT WORSE"
    text = Text(
        title=word,
        what=f"{head[:8]} against {base[:8]}: {summary}.",
        since="this pull request. What was wrong before it is not listed.",
        how_bad="no cell changed by more than rounding.",
        what_to_do="nothing.",
    )
    if finding and (news or is_doubtful):
        step = wording.step(clone, finding, f"at {head[:8]}", head)
        text = replace(
            text, how_bad=step.how_bad, details=step.details[len(wording.by_change(finding)) :], commands=step.commands
        )
        text = replace(text, what=f"{step.what} Against {base[:8]}.", what_to_do=_asked(is_worse, step))
    if unknown:
        reasons = dict.fromkeys(one.before.reason or one.after.reason for one in unknown)
        text = replace(text, how_bad=f"{text.how_bad} {len(unknown)} cells were not measured: {'; '.join(reasons)}")
    rows = (Row(str(one.cell), one.change, state_in_words(one.before), state_in_words(one.after)) for one in news[:ROWS])
    return Review(number, head, f"{word}: {summary}", is_worse, not (unknown or is_doubtful), text, tuple(rows))


def _asked(is_worse: bool, step: Text) -> str:
    """What to do. A package that made cells worse is looked at first, and may be wanted like a change of code."""
    if step.what_to_do == wording.PACKAGES and is_worse:
        return f"{step.what_to_do} Then {WANTED}"
    return WANTED if is_worse else step.what_to_do


def take_published(folder: Path) -> int:
    """Put published states into the cache, and return how many are new there.

    A state's name hashes all that decides it: code, packages, checkpoint, and the probe of this machine's arithmetic. So one
    that was measured elsewhere is read only where this machine would give the same bits.
    """
    taken = 0
    for path in folder.glob("??/*.json"):
        target = cache_dir() / "states" / path.parent.name / path.name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            taken += 1
    return taken


def write(path: Path, one: Review) -> None:
    """Keep a review for the job that comments."""
    write_json(path, plain(one))


def read(path: Path) -> Review:
    """Read a review that another job left. Raises BadInput if it is none."""
    try:
        if path.stat().st_size > SIZE_LIMIT:
            raise ValueError(f"it is larger than {SIZE_LIMIT} bytes")
        return restored(Review, json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is no review ({error}): see the log of the job that measured the pull request") from error


def comment(github: GitHub, one: Review, head: str) -> None:
    """Write the comment, or bring it up to date, and set the label.

    Raises NotDelivered, and BadInput if the pull request has another head by now, or the review is not of it.
    """
    pull = github.pull(one.number)
    if one.head != head or pull["head"]["sha"] != head:
        raise BadInput(
            f"the review is of {one.head[:8]}, pull request {one.number} ends at {pull['head']['sha'][:8]}, and the run "
            f"measured {head[:8]}: nothing is said until they agree"
        )
    github.comment(one.number, MARK, one.markdown(), by_bot=True)
    github.label(one.number, WORSE_LABEL, one.is_worse)
