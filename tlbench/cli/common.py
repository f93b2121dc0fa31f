"""What the commands share."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tlbench.paths import package_dir

HELP = """Measure how wrong TransformerLens's numbers are.

\b
Is anything wrong in a release?      tlbench status 4.3.0
Is my effect larger than the error?  tlbench advise MODEL --effect 0.01nats
Is my model right?                   tlbench verify FOLDER --tl 4.3.0
Where is it wrong?                   tlbench where FOLDER --tl 4.3.0
Is my change to TransformerLens?     tlbench verify MODEL --tl SOURCE_TREE

Stored results are read in the current folder: `cd releases` has twelve releases. To measure over history, use asv.
"""
app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Config = Annotated[Path | None, typer.Option(help="asv's configuration file; default: the one in the current folder.")]
FormatName = Annotated[str, typer.Option(help="rich, markdown or csv.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")]


def version() -> str:
    """The installed version of tlbench; in a checkout that is not installed, the one in pyproject.toml."""
    try:
        return installed_version("tlbench")
    except PackageNotFoundError:
        project = tomllib.loads((package_dir().parent / "pyproject.toml").read_text())["project"]
        return str(project["version"])


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"tlbench {version()}")
        raise typer.Exit


VERSION = typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")


@app.callback()
def options(version: Annotated[bool, VERSION] = False) -> None:
    """Options before a command."""


def progress_bar(console: Console) -> Progress:
    """A progress bar with a description, a count and the elapsed time."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console)


def terminal() -> Console:
    """A console as wide as the terminal, or 80 columns where there is none; tables fit it."""
    return Console(highlight=False)
