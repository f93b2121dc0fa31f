"""The watch over upstream, for cron and systemd."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tlbench.cli.common import app, progress_bar
from tlbench.cli.steps import grid
from tlbench.records.news import News, utc_now
from tlbench.watch.configuration import read
from tlbench.watch.watching import Watch, tell_age


@app.command()
def watch(
    config: Annotated[Path, typer.Option(help="What to watch and whom to tell.")] = Path("watch.toml"),
    age: Annotated[bool, typer.Option("--age", help="Only say how old the news is; tell all if it is too old.")] = False,
) -> None:
    """Look upstream once, measure what is new, publish, and tell what changed.

    Exit status 0: all is measured and told; 2: bad usage, or another watch is at work; 3: something could not be measured,
    published or told; 4: with --age, the news is too old.
    """
    configuration, home = read(config), config.resolve().parent
    if age:
        sentence, is_old = tell_age(configuration, home, utc_now(), lambda _: None)
        print(sentence)
        raise typer.Exit(4 if is_old else 0)
    cells = grid(configuration.model, configuration.dtype, configuration.option, configuration.wrapper)
    with progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task("looking upstream", total=None)
        found = Watch(configuration, home, cells, lambda words: progress.update(task, description=words)).run()
    print(summary(found))
    raise typer.Exit(3 if found.problems else 0)


def summary(found: News) -> str:
    """What a pass ended with, a line for each thing."""
    heads = ", ".join(f"{branch} {commit[:8]}" for branch, commit in found.heads.items()) or "nothing"
    lines = [f"Measured up to: {heads}"]
    lines += [f"Open: {one.title} {one.url}".rstrip() for one in found.open]
    lines += [f"Not done: {problem}" for problem in found.problems]
    if found.waiting:
        lines.append(f"{found.waiting} messages wait to be told")
    return "\n".join(lines)
