"""What `tlbench steps`, `find` and `check` print: each step once, with what it moved and the commands that reproduce it."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from tlbench.environments import repositories
from tlbench.environments.commits import Clone, Commit
from tlbench.grid import Cell
from tlbench.metrics.change import Change, State
from tlbench.records.serial import plain
from tlbench.report.render import without_lists
from tlbench.steps.findings import Finding, Found, Moved

STYLES = {change: "bold red" for change in Change if change.is_alarm} | {
    Change.NOTICE: "yellow",
    Change.ENVIRONMENT: "magenta",
    Change.MENDED: "green",
    Change.BETTER: "green",
}
PACKAGES_SHOWN = 4
INDENT = "    "


@dataclass(frozen=True)
class SearchedStep:
    """One step. Its fields are those of :class:`~tlbench.steps.findings.Finding`, and ``reproduce``: the commands."""

    change: Change
    commits: tuple[Commit, ...]
    before: str
    after: str
    cells: tuple[Moved, ...]
    first_wrong: str
    environment: tuple[str, ...]
    doubt: str
    reproduce: tuple[str, ...]


@dataclass(frozen=True)
class Searched:
    """All steps of a range, as ``tlbench steps --format json`` prints them and the site reads them."""

    good: str
    bad: str
    headline: str
    commits: int
    cells: int
    probes: int
    skipped: dict[str, str]
    not_measured: dict[str, str]
    steps: tuple[SearchedStep, ...]


class StepFormat(StrEnum):
    """The format of a list of steps."""

    RICH = "rich"
    MARKDOWN = "markdown"
    JSON = "json"
    COMPATIBILITY = "compatibility"
    """What TransformerLens's issue template for compatibility asks for."""


def show(console: Console, style: StepFormat, clone: Clone, found: Found) -> None:
    """Print all steps of a range."""
    if style is StepFormat.JSON:
        print_json(plain(record(clone, found)))
        return
    if style is StepFormat.COMPATIBILITY:
        for model in dict.fromkeys(one.cell.model for finding in found.findings for one in finding.moved):
            print(compatibility(clone, found, model))
        return
    print_line(console, style, headline(found))
    for finding in found.findings:
        console.print()
        show_finding(console, style, clone, found, finding)
    for note in notes(found):
        console.print(note, highlight=False, markup=False)


def compatibility(clone: Clone, found: Found, model: str) -> str:
    """What TransformerLens's issue template for compatibility asks of one model, in its words."""
    lines = ["## Model", "", model, "", "- [ ] This model was incompatible when it was introduced to TransformerLens", ""]
    own = [one for one in found.findings if any(moved.cell.model == model and moved.is_worse for moved in one.moved)]
    for finding in own:
        works, fails = clone.release_behind(finding.before), clone.release_with(finding.after)
        lines += [
            f"The model seems to have worked as of {works or finding.before[:8]}. It first started",
            f"showing signs of incompatibility in {fails or f'{finding.after[:8]}, which no release has yet'}.",
            "",
            *(f"- {line}" for line in _lines(clone, found, finding)),
            "",
        ]
    return "\n".join(lines if own else [*lines, "No commit of the range made it worse.", ""])


def headline(found: Found) -> str:
    """The result in one sentence."""
    counted = in_words(finding.change for finding in found.findings)
    what = f"{len(found.findings)} steps ({counted})" if len(found.findings) > 1 else f"1 step ({counted})"
    if not found.findings:
        what = "no step between the two ends: every measured cell has the same bits"
    return (
        f"{found.good[:8]}..{found.bad[:8]}: {what}; {found.commits} commits, {len(found.cells)} cells, "
        f"{found.probes} commits measured or read"
    )


def show_finding(console: Console, style: StepFormat, clone: Clone, found: Found, finding: Finding) -> None:
    """Print one step."""
    first, *lines = _lines(clone, found, finding)
    if style is StepFormat.MARKDOWN:
        print(f"- **{finding.change}** {first}")
        for line in lines:
            print(f"  - {line}")
        return
    console.print(Text.assemble((str(finding.change), STYLES.get(finding.change, "bold")), f"  {first}"))
    for line in lines:
        console.print(Text(f"{INDENT}{line}"))


def print_json(value: Any) -> None:
    """Print JSON, in which a figure that is not finite is null."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=1).decode())


def print_line(console: Console, style: StepFormat, line: str) -> None:
    """Print a line by itself."""
    if style is StepFormat.MARKDOWN:
        print(f"**{line}**\n")
    else:
        console.print(Text(line, "bold"))


def _lines(clone: Clone, found: Found, finding: Finding) -> Iterator[str]:
    details = [clone.details(commit, found.bad) for commit in finding.commits]
    yield named(details)
    for change, of_change in _by_change(finding).items():
        yield f"{change}: {cells_in_words([one.cell for one in of_change])}"
    worst = finding.worst
    yield f"worst: {worst.cell}: {state_in_words(worst.before)} → {state_in_words(worst.after)}{_bits(worst)}"
    if finding.place:
        yield f"first wrong component: {finding.place}"
    if finding.environments:
        more = len(finding.environments) - PACKAGES_SHOWN
        packages = ", ".join(finding.environments[:PACKAGES_SHOWN]) + (f" and {more} more" if more > 0 else "")
        yield f"the environment changed: {packages}"
    if finding.doubt:
        yield f"not confirmed: {finding.doubt}"
    yield "reproduce:"
    yield from (f"  {command}" for command in commands(clone, finding))


def named(details: Sequence[Commit]) -> str:
    """A commit in words; several as the set that the step is in."""
    words = []
    for one in details:
        brought = f" (pull request {one.pull_request})" if one.pull_request else ""
        words.append(f"{one.short} {one.date} {one.author}: {one.subject}{brought}")
    return (
        words[0]
        if len(words) == 1
        else f"one of these {len(words)} commits, as none between can be measured: {'; '.join(words)}"
    )


def commands(clone: Clone, finding: Finding) -> list[str]:
    """The commands that reproduce the worst cell before and after."""
    cell = finding.worst.cell
    words = [cell.model, "--dtype", cell.dtype, "--option", cell.option, "--wrapper", cell.wrapper, "--question", "logits"]
    is_known = clone.path.resolve() in [path.resolve() for path in repositories()]
    lines = []
    for commit in (finding.before, finding.after):
        tree = f"/tmp/{commit[:8]}"
        made = [] if is_known else [shlex.join(["git", "-C", str(clone.path), "worktree", "add", "--detach", tree, commit])]
        tl = commit if is_known else tree
        lines.append(" && ".join([*made, shlex.join(["tlbench", "verify", *map(str, words), "--tl", tl])]))
    return lines


def in_words(changes: Iterable[Change]) -> str:
    """How many there are of each."""
    words = Counter(changes)
    return ", ".join(f"{words[word]} {word}" for word in Change if words[word])


def cells_in_words(cells: Sequence[Cell]) -> str:
    """Cells by wrapper, dtype and option, with their models."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for cell in sorted(cells):
        groups[cell.wrapper, cell.dtype, cell.option].append(cell.model)
    by_models: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for (wrapper, dtype, option), models in groups.items():
        by_models[wrapper, tuple(models)].append(f"{dtype} {option}")
    number = f"{len(cells)} cell{'' if len(cells) == 1 else 's'}"
    parts = (f"{wrapper} {', '.join(models)} ({', '.join(rest)})" for (wrapper, models), rest in by_models.items())
    return f"{number}: {'; '.join(parts)}"


def state_in_words(state: State) -> str:
    """A verdict with its mean error or its reason."""
    if state.error is not None:
        return f"{state.verdict} ({state.error:.3g} nats)"
    return f"{state.verdict} ({without_lists(state.reason)})" if state.reason else str(state.verdict)


def notes(found: Found) -> Iterator[str]:
    """What else there is to know of a search."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for commit, reason in found.skipped.items():
        by_reason[reason].append(commit[:8])
    for reason, commits in by_reason.items():
        yield f"not measured: {_listed(commits)}: {reason}"
    for reason, cells in _by_reason(found).items():
        yield f"not measured, so nothing is known of it: {_listed(cells)}: {reason}"


def record(clone: Clone, found: Found) -> Searched:
    """Everything, as it is printed as JSON."""
    return Searched(
        good=found.good,
        bad=found.bad,
        headline=headline(found),
        commits=found.commits,
        cells=len(found.cells),
        probes=found.probes,
        skipped=found.skipped,
        not_measured=found.not_measured,
        steps=tuple(_step(clone, found, finding) for finding in found.findings),
    )


def _step(clone: Clone, found: Found, finding: Finding) -> SearchedStep:
    return SearchedStep(
        change=finding.change,
        commits=tuple(clone.details(commit, found.bad) for commit in finding.commits),
        before=finding.before,
        after=finding.after,
        cells=finding.moved,
        first_wrong=finding.place,
        environment=finding.environments,
        doubt=finding.doubt,
        reproduce=tuple(commands(clone, finding)),
    )


def _by_change(finding: Finding) -> dict[Change, list[Moved]]:
    groups: dict[Change, list[Moved]] = defaultdict(list)
    for one in finding.moved:
        groups[one.change].append(one)
    return groups


def _by_reason(found: Found) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for cell, reason in found.not_measured.items():
        groups[reason].append(cell)
    return groups


def _bits(one: Moved) -> str:
    return "" if one.bits is None else f" ({one.bits:+.2f} bits)"


def _listed(names: Iterable[str], most: int = 5) -> str:
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
