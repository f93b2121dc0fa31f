"""Commands that prepare: checkpoints, exact answers, the history of releases."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from tlbench import catalogue as catalogues
from tlbench.cli.common import app, fail, progress_bar
from tlbench.exceptions import CheckpointUnavailable
from tlbench.paths import cache_dir, package_dir

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
    with progress_bar(console) as progress:
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
        fail("; ".join(skipped))


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
    with progress_bar(console) as progress:
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
        fail("; ".join(without))


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
    with progress_bar(console) as progress:
        task = progress.add_task("listing releases", total=None)

        def say(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        made = build_history(target, downloads=cache_dir() / "downloads", progress=say)
        progress.update(task, description="done", completed=1, total=1)
    console.print(str(made), soft_wrap=True, highlight=False)


def _show(progress: Progress, task: TaskID, name: str, what: str) -> None:
    progress.update(task, description=f"{name}: {what}")
