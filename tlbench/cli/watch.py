"""The watch over upstream, for cron and systemd."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tlbench.cli.common import app, progress_bar
from tlbench.cli.steps import Dtypes, Models, Options, Repository, Wrappers, finder, grid
from tlbench.records.news import News, utc_now
from tlbench.watch import review as reviewing
from tlbench.watch.configuration import read, secret
from tlbench.watch.github import GitHub
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


@app.command()
def review(
    base: Annotated[str, typer.Argument(help="The commit that the pull request is to be merged into.")],
    head: Annotated[str, typer.Argument(help="The pull request's last commit.")],
    model: Models = None,
    dtype: Dtypes = None,
    option: Options = None,
    wrapper: Wrappers = None,
    repository: Repository = None,
    published: Annotated[Path | None, typer.Option(help="A folder of states that the watch has published.")] = None,
    output: Annotated[Path, typer.Option(help="Where to leave the result for `tlbench comment`.")] = Path("review.json"),
    number: Annotated[int, typer.Option(help="The pull request's number.")] = 0,
    gate: Annotated[
        bool, typer.Option("--gate", help="End with status 1 if it is worse, and with 3 if that is not known.")
    ] = False,
) -> None:
    """Measure a pull request against its base, both here, and print the comment.

    Exit status 0: done; 2: bad usage; with --gate, 1: it is worse; 3: it could not be measured.
    """
    cells = grid(model, dtype, option, wrapper)
    if published:
        reviewing.take_published(published)
    with finder(repository, f"{base}..{head}", from_common=True) as (one, good, bad):
        found = reviewing.review(one, good, bad, cells, number)
    reviewing.write(output, found)
    print(found.markdown(), end="")
    raise typer.Exit(found.exit_status if gate else 0)


@app.command()
def comment(
    file: Annotated[Path, typer.Argument(help="What `tlbench review` left.")],
    repository: Annotated[str, typer.Option(help="OWNER/NAME on GitHub.")],
    head: Annotated[str, typer.Option(help="The commit that the run measured, as GitHub says.")],
    api: Annotated[str, typer.Option(help="GitHub's API.", envvar="GITHUB_API_URL")] = "https://api.github.com",
) -> None:
    """Write a review as a comment on its pull request, or bring the comment up to date, and set its label.

    Exit status 0: done; 2: GitHub refused, or the review is of another commit.
    """
    github = GitHub(repository, secret("GITHUB_TOKEN", "a token that may write pull requests"), api)
    reviewing.comment(github, reviewing.read(file), head)
