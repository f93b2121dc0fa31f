"""Commands that search TransformerLens's history."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tlbench import catalogue as catalogues
from tlbench.catalogue import Source
from tlbench.checkpoints import ensure
from tlbench.cli.common import app, progress_bar
from tlbench.environments import repositories
from tlbench.environments.commits import Clone
from tlbench.exceptions import BadInput, choices
from tlbench.grid import Cell, Dtype, Option, Wrapper, parse
from tlbench.paths import cache_dir
from tlbench.report import check as checking
from tlbench.report import steps as report
from tlbench.report.check import CheckFormat
from tlbench.report.steps import StepFormat
from tlbench.steps.findings import Finder, alone
from tlbench.steps.search import Effort

Range = Annotated[str, typer.Argument(help="GOOD..BAD: two commits, tags or releases, of which GOOD is the older.")]
Models = Annotated[list[str] | None, typer.Option("--model", help="A catalogue name; default: the whole zoo.")]
Dtypes = Annotated[list[str] | None, typer.Option("--dtype", help="Default: float32 and bfloat16.")]
Options = Annotated[list[str] | None, typer.Option("--option", help="Default: unprocessed and all_options.")]
Wrappers = Annotated[list[str] | None, typer.Option("--wrapper", help="A TransformerLens class; default: both.")]
Repository = Annotated[Path | None, typer.Option(help="A clone of TransformerLens; default: the one that asv or we made.")]
Style = Annotated[
    str, typer.Option("--format", help="rich, markdown, json or compatibility, as TransformerLens's issue template.")
]
LAST_RELEASE = "release"
BEST = re.compile(r"best:([1-9]\d{0,2})")
SEARCH_GRID = ((Dtype.FLOAT32, Dtype.BFLOAT16), (Option.UNPROCESSED, Option.ALL_OPTIONS))


@app.command()
def steps(
    range: Range,
    model: Models = None,
    dtype: Dtypes = None,
    option: Options = None,
    wrapper: Wrappers = None,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Measure all cells at each step too: sees most of what healed.")
    ] = False,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Measure every commit that changes code: sees all that healed.")
    ] = False,
    repository: Repository = None,
    format: Style = "rich",
) -> None:
    """Name every commit of a range that changed a cell's bits, and say whether it matters.

    Exit status 0: done; 2: bad usage, or an end of the range cannot be measured.
    """
    style = parse(StepFormat, format)
    cells = grid(model, dtype, option, wrapper)
    effort = Effort.EXHAUSTIVE if exhaustive else Effort.THOROUGH if thorough else Effort.SEARCH
    with finder(repository, range) as (one, good, bad):
        report.show(output(), style, one.clone, one.steps(good, bad, cells, effort))


@app.command()
def find(
    range: Annotated[
        str,
        typer.Argument(metavar="RANGE|MODEL", help="GOOD..BAD, or a model: from the last release that was better, to main."),
    ],
    model: Models = None,
    dtype: Dtypes = None,
    option: Options = None,
    wrapper: Wrappers = None,
    repository: Repository = None,
    format: Style = "rich",
) -> None:
    """Name the commit that made cells worse.

    Only cells that are worse at BAD than at GOOD are searched.

    Exit status 0: it is named; 1: it is not confirmed, or one of several that cannot be measured; 2: bad usage.
    """
    style = parse(StepFormat, format)
    is_model = ".." not in range
    if is_model and range not in (known := catalogues.load().known_names()):
        raise BadInput(f"{range!r} is neither a range, GOOD..BAD, nor a model: {choices(range, known)}")
    cells = grid([range, *(model or ())] if is_model else model, dtype, option, wrapper)
    with finder(repository, f"{LAST_RELEASE}..main" if is_model else range) as (one, last, bad):
        if is_model:
            cells = one.applicable(bad, cells)
        good = one.last_better(bad, cells) if is_model else last
        ends = one.ends(good, bad, cells)
        worse = [end.cell for end in ends if end.is_worse]
        if not worse:
            words = report.in_words(end.change for end in ends)
            raise BadInput(
                f"{bad[:8]} is not worse than {good[:8]} in these {len(cells)} cells ({words}): choose a GOOD that is "
                f"better than BAD, or `tlbench steps {range}` to see every step"
            )
        found = one.steps(good, bad, worse)
        report.show(output(), style, one.clone, found)
        raise typer.Exit(1 if any(finding.doubt or len(finding.commits) > 1 for finding in found.findings) else 0)


def grid(
    models: Sequence[str] | None, dtypes: Sequence[str] | None, options: Sequence[str] | None, wrappers: Sequence[str] | None
) -> list[Cell]:
    """The cells to search, whose models' checkpoints are there."""
    catalogue = catalogues.load()
    entries = [catalogue.get(name) for name in models or ()]
    entries = entries or [model for model in catalogue.models if model.source is Source.ZOO]
    cells = [
        Cell(model.name, parse(Dtype, dtype), parse(Option, option), parse(Wrapper, wrapper))
        for model in entries
        for dtype in dtypes or SEARCH_GRID[0]
        for option in options or SEARCH_GRID[1]
        for wrapper in wrappers or Wrapper
    ]
    for model in entries:
        ensure(model, catalogue)
    return cells


@contextmanager
def finder(repository: Path | None, range: str, from_common: bool = False) -> Iterator[tuple[Finder, str, str]]:
    """A finder in the clone that has both ends of a range, and the ends."""
    with progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task("reading the history", total=None)
        clone, good, bad = located(repository, range, from_common)
        one = Finder(clone, lambda words: progress.update(task, description=words))
        with alone(f"tlbench {' '.join(sys.argv[1:])}"):
            try:
                yield one, good, bad
            finally:
                one.close()


def located(repository: Path | None, range: str, from_common: bool = False) -> tuple[Clone, str, str]:
    """The clone that has both ends of a range, and their hashes. Raises BadInput if none has, or they are no range.

    With ``from_common`` the range begins at the last commit in both histories.
    """
    earlier, dots, later = range.partition("..")
    if not (earlier and dots and later) or later.startswith("."):
        raise BadInput(f"invalid range {range!r}: expected GOOD..BAD, e.g. v2.1.0..v2.2.1")
    if repository is not None and not repository.is_dir():
        raise BadInput(f"--repository {repository} is no folder: name a clone of TransformerLens")
    clones = [repository] if repository else repositories()
    if not clones:
        raise BadInput("no clone of TransformerLens on this machine: name one with --repository, or run `tlbench history`")
    errors: list[BadInput] = []
    for path in clones:
        clone = Clone(path, cache_dir() / "states" / "code.txt")
        try:
            bad = clone.resolve(later)
            good = _start(clone, earlier, bad)
            good = clone.common(good, bad) if from_common else good
            clone.require_range(good, bad)
        except BadInput as error:
            errors.append(error)
            continue
        return clone, good, bad
    raise errors[-1]


def _start(clone: Clone, word: str, bad: str) -> str:
    """The commit at which a range begins. That of ``best:5`` is the oldest of the last five releases."""
    if best := BEST.fullmatch(word):
        return clone.last_releases(bad, int(best[1]))[-1]
    return clone.last_release(bad) if word == LAST_RELEASE else clone.resolve(word)


def output() -> Console:
    """The console of results. It breaks no line, so that commands can be pasted."""
    return Console(soft_wrap=True, highlight=False)


@app.command()
def check(
    base: Annotated[
        str,
        typer.Argument(
            help="A commit, tag or release; `release`: the last one behind HEAD; `best:5`: the best of the last five."
        ),
    ],
    head: Annotated[str, typer.Argument(help="Default: the newest commit of main.")] = "main",
    model: Models = None,
    dtype: Dtypes = None,
    option: Options = None,
    wrapper: Wrappers = None,
    allow: Annotated[Path | None, typer.Option(help="A TOML file of accepted steps: commit, who, why, until.")] = None,
    expected: Annotated[Path | None, typer.Option(help="A file of the states that HEAD's cells should have.")] = None,
    take_in: Annotated[bool, typer.Option("--take-in", help="Write what was found to the file of --expected.")] = False,
    repository: Repository = None,
    format: Annotated[str, typer.Option("--format", help="rich, markdown, json or junit.")] = "rich",
) -> None:
    """Is HEAD worse than BASE? The answer, and a line for each commit that did something.

    Exit status 0: it is not worse; 1: it is, or it is not as expected; 2: bad usage, or cells were not measured.
    """
    style = parse(CheckFormat, format)
    allowed = checking.allowances(allow)
    if take_in and expected is None:
        raise BadInput("--take-in writes the file that --expected names: add --expected FILE")
    cells = grid(model, dtype, option, wrapper)
    with finder(repository, f"{base}..{head}") as (one, start, bad):
        best = BEST.fullmatch(base)
        good = one.best(one.clone.last_releases(bad, int(best[1])), cells) if best else start
        ends = one.ends(good, bad, cells)
        if take_in and expected:
            checking.take_in(expected, ends)
        others = checking.unexpected(expected, ends)
        found = one.steps(good, bad, cells)
        command = shlex.join(["tlbench", *sys.argv[1:], "--take-in"])
        result = checking.checked(found, ends, allowed, others, command, date.today())
        checking.show(output(), style, one.clone, result)
        raise typer.Exit(result.exit_status)
