"""Commands that prepare: checkpoints, goldens, the history of releases, the arithmetic."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tlbench import catalogue as catalogues
from tlbench.catalogue import Catalogue, Model, Source
from tlbench.cli.common import app, progress_bar
from tlbench.exceptions import BadInput, CheckpointUnavailable, NoGolden, TlbenchError
from tlbench.paths import cache_dir, checkout_dir

Say = Callable[[str], None]
Names = Annotated[list[str] | None, typer.Argument(help="Catalogue names; default: all.")]
Further = Annotated[
    bool, typer.Option("--further", help="Without names: the models of architectures.toml too, which no grid takes.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print one line at the end instead of one per model.")]
Repository = Annotated[Path | None, typer.Option(help="Path of the bare git repository; default: under releases/.")]


@app.command()
def checkpoints(
    names: Names = None,
    pin: Annotated[bool, typer.Option("--pin", help="Pin Hub models in the catalogue's lock file, to commit them.")] = False,
    further: Further = False,
    quiet: Quiet = False,
) -> None:
    """Make or fetch the checkpoints, verify and pin them. Safe to interrupt and to run twice at once."""
    from tlbench.checkpoints import ensure

    # Our progress bar is enough: those of transformers and gguf would be drawn across it.
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"

    def make(model: Model, catalogue: Catalogue, say: Say) -> str:
        checkpoint = ensure(model, catalogue, say, in_lock=pin and model.source is Source.HUB)
        return f"{checkpoint.sha256[:12]}  {checkpoint.folder}"

    _for_each("checkpoints", names, make, quiet, further)


@app.command()
def golden(names: Names = None, further: Further = False, quiet: Quiet = False) -> None:
    """Compute the goldens of the checkpoints on this machine. Safe to interrupt and to run twice at once."""
    from tlbench.checkpoints import locate
    from tlbench.reference.golden import Weights
    from tlbench.reference.golden import golden as golden_of

    def compute(model: Model, catalogue: Catalogue, say: Say) -> str:
        say("computing")
        return golden_of(locate(model, catalogue), Weights.ORIGINAL).precision

    _for_each("goldens", names, compute, quiet, further)


def _for_each(
    what: str, names: list[str] | None, do: Callable[[Model, Catalogue, Say], str], quiet: bool, further: bool
) -> None:
    """Print the result for each model, or why it was skipped. Skipping a model that was named is an error, at the end."""
    started = time.monotonic()
    catalogue = catalogues.load()
    models = [catalogue.get(name) for name in names] if names else list(catalogue.every if further else catalogue.models)
    console = Console()
    skipped = []
    with progress_bar(console) as progress:
        task = progress.add_task("", total=len(models))

        def say(name: str, what: str) -> None:
            progress.update(task, description=f"{name}: {what}")

        for model in models:
            progress.update(task, description=model.name)
            try:
                line = do(model, catalogue, partial(say, model.name))
            except (CheckpointUnavailable, NoGolden) as reason:
                skipped.append(str(reason))
                line = f"skipped: {reason}"
            if not quiet:
                console.print(f"{model.name:<16} {line}", soft_wrap=True, highlight=False)
            progress.advance(task)
        progress.update(task, description="done", visible=not quiet)
    if quiet:
        console.print(f"{len(models) - len(skipped)} {what} ready ({time.monotonic() - started:.0f} s)", highlight=False)
    if skipped and names:
        raise TlbenchError("; ".join(skipped))


@app.command()
def arithmetic() -> None:
    """Show the arithmetic in which this machine measures errors. Exit status 2: it cannot compute the requested one."""
    from tlbench.arithmetic import establish

    print(establish().name)


@app.command()
def history(repository: Repository = None) -> None:
    """Build a git repository of TransformerLens's releases from PyPI: one commit per release, the same on every machine."""
    from tlbench.history import build_history

    checkout = checkout_dir()
    target = repository or (checkout and checkout / "releases" / "TransformerLens.git")
    if target is None:
        raise BadInput("there is no releases/ outside a checkout: name the repository to write with --repository PATH")
    console = Console()
    with progress_bar(console) as progress:
        task = progress.add_task("listing releases", total=None)

        def say(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        built = build_history(target, downloads=cache_dir() / "downloads", progress=say)
        progress.update(task, description="done", completed=1, total=1)
    console.print(str(built), soft_wrap=True, highlight=False)
