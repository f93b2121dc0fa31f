"""The steps that `tlbench steps` found commit by commit, kept as its JSON under docs/steps/.

A file of the same name that ends in ``.toml`` explains them: the first eight digits of a step's last commit, and why it did
what it did, in Markdown.
"""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tlbench.environments import UPSTREAM
from tlbench.environments.commits import Commit
from tlbench.exceptions import BadInput
from tlbench.metrics.change import Change
from tlbench.records.serial import restored
from tlbench.report import steps as report
from tlbench.report.steps import Searched, SearchedStep

PAGE = UPSTREAM.removesuffix(".git")
MOST = 160
"""The most characters of a cell's state."""
EXAMPLE = '1234abcd = "`file.py`, line 5: ..."'
QUIET = (Change.ENVIRONMENT, Change.OTHER_ROUNDING)
"""What is listed last: no change of TransformerLens, or none that matters."""


@dataclass(frozen=True)
class Range:
    """One searched range: ``loud`` are its steps that matter, ``quiet`` the others; the newest first.

    Attributes:
        name: its file's name.
        why: the explanation of a step, by the first eight digits of its last commit.
    """

    name: str
    found: Searched
    why: Mapping[str, str]

    def explained(self, step: SearchedStep) -> str:
        """Why a step is one; "" if nobody has explained it."""
        return self.why.get(step.commits[-1].short, "")

    @property
    def loud(self) -> list[SearchedStep]:
        """The steps that changed more than the rounding."""
        return [step for step in reversed(self.found.steps) if step.change not in QUIET]

    @property
    def quiet(self) -> list[SearchedStep]:
        """The other steps."""
        return [step for step in reversed(self.found.steps) if step.change in QUIET]

    @property
    def skipped(self) -> Iterator[tuple[str, list[str]]]:
        """The commits that cannot be measured, by reason."""
        for reason in dict.fromkeys(self.found.skipped.values()):
            yield reason, [commit for commit, why in self.found.skipped.items() if why == reason]


def read(folder: Path) -> list[Range]:
    """Every searched range of a folder. Raises BadInput if a file is malformed."""
    return [_read(path) for path in sorted(folder.glob("*.json"))]


def _read(path: Path) -> Range:
    try:
        found = restored(Searched, msgspec.json.decode(path.read_bytes()))
    except ValueError as error:  # msgspec's errors are of this kind
        raise BadInput(f"{path.name}: expected the output of `tlbench steps GOOD..BAD --format json` ({error})") from error
    notes = path.with_suffix(".toml")
    try:
        why = restored(dict[str, str], tomllib.loads(notes.read_text(encoding="utf-8")) if notes.exists() else {})
    except ValueError as error:
        raise BadInput(f"{notes.name}: expected lines like {EXAMPLE} ({error})") from error
    if foreign := why.keys() - {step.commits[-1].short for step in found.steps}:
        raise BadInput(f"{notes.name}: {', '.join(sorted(foreign))}: no step of {path.name} has this last commit")
    return Range(path.stem, found, why)


def commit_page(commit: str) -> str:
    """Where a commit can be read."""
    return f"{PAGE}/commit/{commit}"


def pull_page(number: str | int) -> str:
    """Where a pull request can be read."""
    return f"{PAGE}/pull/{number}"


def own_subject(commit: Commit) -> str:
    """A commit's subject without its pull request's number, which stands beside it."""
    return commit.subject.replace(f"(#{commit.pull_request})", "").strip()


def change_in_words(step: SearchedStep) -> str:
    """The worst cell, before and after; a long reason is cut short."""
    worst = step.cells[0]
    before, after = (
        textwrap.shorten(report.state_in_words(state), MOST, placeholder=" …") for state in (worst.before, worst.after)
    )
    return f"{before} → {after}"


def cells_in_words(step: SearchedStep) -> list[tuple[Change, str]]:
    """How many cells of which models and wrappers took each change."""
    changes = dict.fromkeys(one.change for one in step.cells)
    return [(change, report.cells_in_words([one.cell for one in step.cells if one.change is change])) for change in changes]
