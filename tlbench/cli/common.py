"""What the commands share."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tlbench.exceptions import TlbenchError
from tlbench.paths import package_dir

app = typer.Typer(
    help="Measure how wrong TransformerLens's numbers are. To measure over its history, use asv: see docs/quick-start.md.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Config = Annotated[Path | None, typer.Option("--config", help="asv's configuration; by default the current folder's.")]

FormatName = Annotated[str, typer.Option("--format", help="rich, markdown or csv.")]


def version() -> str:
    """The version of tlbench: the installed one or, in a checkout that is not installed, the one in its pyproject.toml."""
    try:
        return installed_version("tlbench")
    except PackageNotFoundError:
        project = tomllib.loads((package_dir().parent / "pyproject.toml").read_text())["project"]
        return str(project["version"])


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"tlbench {version()}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that come before a command."""


def progress_bar(console: Console) -> Progress:
    """A bar with a description, a count and the time."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def wide_console() -> Console:
    """As wide as a table takes: a terminal wraps what it cannot show, where a figure cut short would be lost."""
    return Console(width=400)


def fail(sentence: str) -> NoReturn:
    """End with one sentence on standard error and exit status 2."""
    raise TlbenchError(sentence)
