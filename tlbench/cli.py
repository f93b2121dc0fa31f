"""The command line: what asv has no word for."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from tlbench import catalogue as catalogues
from tlbench.cells import Dtype, Option, Space, Wrapper, parse
from tlbench.exceptions import CheckpointUnavailable, TlbenchError
from tlbench.paths import cache_dir, package_dir

app = typer.Typer(
    help="Measure how wrong TransformerLens's numbers are. The measuring itself is asv's: see README.md.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Config = Annotated[Path | None, typer.Option("--config", help="asv's configuration; by default the current folder's.")]
Words = Annotated[list[str] | None, typer.Argument(help="Names in the catalogue; by default all.")]


@app.command()
def checkpoints(names: Words = None) -> None:
    """Make or fetch the checkpoints, verify and pin them. Safe to interrupt, and to run twice at once."""
    from tlbench.checkpoints import ensure

    # One progress bar is ours; transformers and gguf would draw theirs across it.
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    catalogue = catalogues.load()
    models = [catalogue.get(name) for name in names] if names else list(catalogue.models)
    console = Console()
    skipped = []
    with _progress(console) as progress:
        task = progress.add_task("", total=len(models))
        for model in models:
            progress.update(task, description=model.name)
            try:
                found = ensure(model, catalogue, partial(_show, progress, task, model.name))
                console.print(f"{model.name:<16} {found.sha256[:12]}  {found.folder}", soft_wrap=True, highlight=False)
            except CheckpointUnavailable as reason:
                skipped.append(str(reason))
                console.print(f"{model.name:<16} skipped: {reason}", soft_wrap=True, highlight=False)
            progress.advance(task)
        progress.update(task, description="done")
    if skipped and names:
        _fail("; ".join(skipped))


@app.command()
def golden(names: Words = None) -> None:
    """Compute the exact answers of the checkpoints that are on this machine. Safe to interrupt, and to run twice at once."""
    from tlbench.checkpoints import locate
    from tlbench.exceptions import BadInput, NoGolden
    from tlbench.reference.golden import Weights
    from tlbench.reference.golden import golden as golden_of

    catalogue = catalogues.load()
    models = [catalogue.get(name) for name in names] if names else list(catalogue.models)
    console = Console()
    without = []
    with _progress(console) as progress:
        task = progress.add_task("", total=len(models))
        for model in models:
            progress.update(task, description=f"{model.name}: computing")
            try:
                found = golden_of(locate(model, catalogue), Weights.ORIGINAL)
                console.print(f"{model.name:<16} {found.precision}", highlight=False)
            except (NoGolden, CheckpointUnavailable, BadInput) as reason:
                without.append(str(reason))
                console.print(f"{model.name:<16} none: {reason}", soft_wrap=True, highlight=False)
            progress.advance(task)
        progress.update(task, description="done")
    if without and names:
        _fail("; ".join(without))


@app.command()
def history(
    repository: Annotated[
        Path | None, typer.Option(help="Where the bare git repository is made; by default under releases/.")
    ] = None,
) -> None:
    """Make a git repository of TransformerLens's releases from PyPI: one commit a release, the same on every machine."""
    from tlbench.history import build_history

    target = repository or package_dir().parent / "releases" / "TransformerLens.git"
    console = Console()
    with _progress(console) as progress:
        task = progress.add_task("listing releases", total=None)

        def say(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        made = build_history(target, downloads=cache_dir() / "downloads", progress=say)
        progress.update(task, description="done", completed=1, total=1)
    console.print(str(made), soft_wrap=True, highlight=False)


@app.command()
def table(
    commit: Annotated[
        list[str] | None, typer.Option(help="A tag or hash with results; twice for two side by side; default: newest.")
    ] = None,
    model: Annotated[str, typer.Option(help="Only this model.")] = "",
    dtype: Annotated[str, typer.Option(help="Only this dtype.")] = "",
    option: Annotated[str, typer.Option(help="Only this processing option.")] = "",
    wrapper: Annotated[str, typer.Option(help="Only this wrapper.")] = "",
    space: Annotated[str, typer.Option(help="origin, probability or logit; default: origin, and in CSV all.")] = "",
    machine: Annotated[str, typer.Option(help="Whose results; default: the machine that measured last here.")] = "",
    format: Annotated[str, typer.Option("--format", help="rich, markdown or csv.")] = "rich",
    config: Config = None,
) -> None:
    """Print TransformerLens issue 496's table from asv's results."""
    from tlbench.report import table as tables
    from tlbench.report.stored import State, StoredResults

    style = parse(tables.Format, format)
    wanted = tables.Filter(
        catalogues.load().get(model).name if model else "",
        parse(Dtype, dtype) if dtype else "",
        parse(Option, option) if option else "",
        parse(Wrapper, wrapper) if wrapper else "",
    )
    spaces = [parse(Space, space)] if space else list(Space) if style is tables.Format.CSV else [Space.ORIGIN]
    stored = StoredResults(config, machine)
    if commit and len(commit) > 2:
        _fail(f"--commit was given {len(commit)} times: once or twice makes a table")
    commits = [stored.commit(name) for name in commit] if commit else [stored.commit(None)]
    for one_space in spaces:
        rows = [
            [row for row in stored.rows(one, one_space) if wanted.wants(row.cell) and row.state is not State.SKIPPED]
            for one in commits
        ]
        if not any(rows):
            _fail(f"no cell in the {one_space} space matches: loosen the filters, or see `asv show {commits[0]}`")
        if style is tables.Format.RICH:
            tables.print_rich(_wide_console(), one_space, commits, rows)
        elif style is tables.Format.MARKDOWN:
            print(tables.write_markdown(one_space, commits, rows))
        else:
            text = tables.write_csv([row for of_one in rows for row in of_one])
            print(text if one_space is spaces[0] else text.split("\n", 1)[1], end="")


@app.command()
def outcomes(
    commit: Annotated[list[str] | None, typer.Option(help="A tag or hash with results; by default all.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Failures only, without the n/a cells.")] = False,
    config: Config = None,
) -> None:
    """Print, as Markdown, why cells failed or could not exist, from the runs made on this machine."""
    from tlbench.memo import Kind
    from tlbench.report import outcomes as logs
    from tlbench.report.stored import StoredResults

    stored = StoredResults(config)
    commits = [stored.commit(name) for name in commit] if commit else stored.commits
    kinds = [Kind.FAILED] if failed else [Kind.FAILED, Kind.NOT_APPLICABLE]
    folder = (config.resolve().parent if config else Path.cwd()).resolve()
    print(logs.write_markdown(logs.reasons(folder, commits, kinds), commits))


def _show(progress: Progress, task: TaskID, name: str, what: str) -> None:
    progress.update(task, description=f"{name}: {what}")


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _wide_console() -> Console:
    """A terminal's own width, and as wide as it takes where there is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=400)


def _fail(sentence: str) -> NoReturn:
    raise TlbenchError(sentence)


def main() -> None:
    """Run the command line; what goes wrong is one sentence on standard error and exit status 2."""
    try:
        app()
    except TlbenchError as error:
        print(f"tlbench: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("tlbench: interrupted; what was done is kept, run the command again to go on", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
