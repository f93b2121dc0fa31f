"""Commands that read what asv has stored."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Annotated

import typer

from tlbench import catalogue as catalogues
from tlbench.cli.common import Config, FormatName, app, fail, wide_console
from tlbench.environments.metadata import differences
from tlbench.grid import Cell, Dtype, Import, Option, Space, Wrapper, parse
from tlbench.metrics.verdict import Verdict
from tlbench.records.outcome import Kind
from tlbench.report import advice, render, slowdowns
from tlbench.report import outcomes as outcome_report
from tlbench.report import table as table_report
from tlbench.report import verdicts as verdict_report
from tlbench.report.render import Column, Format
from tlbench.report.slowdowns import CostRow, What
from tlbench.report.stored import Commit, State, StoredResults

OneCommit = Annotated[str, typer.Option(help="A tag or hash with results; default: newest.")]
OnlyModel = Annotated[str, typer.Option(help="Only this model.")]
OnlyDtype = Annotated[str, typer.Option(help="Only this dtype.")]
OnlyOption = Annotated[str, typer.Option(help="Only this processing option.")]
OnlyWrapper = Annotated[str, typer.Option(help="Only this wrapper.")]
Machine = Annotated[str, typer.Option(help="Whose results; default: the machine that measured last here.")]


@app.command()
def table(
    commit: Annotated[
        list[str] | None, typer.Option(help="A tag or hash with results; twice for two side by side; default: newest.")
    ] = None,
    model: OnlyModel = "",
    dtype: OnlyDtype = "",
    option: OnlyOption = "",
    wrapper: OnlyWrapper = "",
    space: Annotated[str, typer.Option(help="origin, probability or logit; default: origin, and in CSV all.")] = "",
    machine: Machine = "",
    format: FormatName = "rich",
    config: Config = None,
) -> None:
    """Show TransformerLens issue 496's table from stored results."""
    style = parse(Format, format)
    wanted = _filter(model, dtype, option, wrapper)
    spaces = [parse(Space, space)] if space else list(Space) if style is Format.CSV else [Space.ORIGIN]
    stored = StoredResults(config, machine)
    if commit and len(commit) > 2:
        fail(f"--commit was given {len(commit)} times: once or twice makes a table")
    commits = [stored.commit(name) for name in commit] if commit else [stored.commit(None)]
    found = {}
    for one_space in spaces:
        every = [[row for row in stored.rows(one, one_space) if wanted(row.cell)] for one in commits]
        rows = [[row for row in of_one if row.state in (State.MEASURED, State.FAILED)] for of_one in every]
        left_out = _left_out(commits, [[row.state for row in of_one] for of_one in every])
        if not any(rows):
            fail(f"no cell in the {one_space} space matches that was measured{left_out}: loosen the filters or `asv run`")
        found[one_space] = rows
    table_report.show(wide_console(), style, commits, found)
    if left_out:
        print(f"Left out{left_out}.", file=sys.stderr)


def _left_out(commits: Sequence[Commit], states: Sequence[Sequence[str]]) -> str:
    """How many cells of each commit are not applicable and how many were not measured, in words; "" where there are none."""
    words = []
    for commit, of_one in zip(commits, states, strict=True):
        counts = [f"{of_one.count(state)} {state}" for state in ("unjudged", "n/a", "not measured") if state in of_one]
        if counts:
            words.append(f"{' and '.join(counts)} at {commit}")
    return f" ({'; '.join(words)})" if words else ""


@app.command()
def outcomes(
    commit: Annotated[list[str] | None, typer.Option(help="A tag or hash with results; by default all.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Failures only, without the n/a cells.")] = False,
    config: Config = None,
) -> None:
    """List, as Markdown, why cells failed, are not applicable or were judged without a golden."""
    stored = StoredResults(config)
    commits = [stored.commit(name) for name in commit] if commit else stored.commits
    kinds = [Kind.FAILED] if failed else list(Kind)
    outcome_report.show(wide_console(), Format.MARKDOWN, outcome_report.reasons(stored, commits, kinds), commits)


@app.command()
def verdicts(
    commit: OneCommit = "",
    model: OnlyModel = "",
    dtype: OnlyDtype = "",
    option: OnlyOption = "",
    wrapper: OnlyWrapper = "",
    alarms: Annotated[bool, typer.Option("--alarms", help="Only what is not known to be right.")] = False,
    machine: Machine = "",
    format: FormatName = "rich",
    config: Config = None,
) -> None:
    """Show each cell's distance from the golden and its verdict, from stored results.

    Exit status 0: all are right; 1: one is wrong; 2: bad usage; 3: none is known to be wrong, but some are unjudged.
    """
    style = parse(Format, format)
    wanted = _filter(model, dtype, option, wrapper)
    stored = StoredResults(config, machine)
    one = stored.commit(commit or None)
    every = [row for row in stored.truth_rows(one) if wanted(row.cell)]
    rows = [row for row in every if row.verdict not in (Verdict.NOT_APPLICABLE, Verdict.NOT_MEASURED)]
    if not rows:
        left_out = _left_out([one], [[row.verdict for row in every]])
        fail(f"no cell of {one} matches that has a verdict{left_out}: run `asv run -b truth`")
    shown = [row for row in rows if not row.verdict.passes or not alarms]
    if shown:
        verdict_report.show(wide_console(), style, one, shown)
    print(verdict_report.conclusion(one, every), file=sys.stderr if style is Format.CSV else sys.stdout)
    raise typer.Exit(verdict_report.exit_status(rows))


@app.command()
def costs(
    what: Annotated[str, typer.Option(help="time, memory or growth (exponents).")] = "time",
    commit: OneCommit = "",
    model: OnlyModel = "",
    dtype: OnlyDtype = "",
    option: OnlyOption = "",
    wrapper: OnlyWrapper = "",
    machine: Machine = "",
    format: FormatName = "rich",
    config: Config = None,
) -> None:
    """Show TransformerLens's slowdown relative to HuggingFace (or memory, or scaling) from stored results."""
    style, kind = parse(Format, format), parse(What, what)
    wanted = _filter(model, dtype, option, wrapper)
    stored = StoredResults(config, machine)
    one = stored.commit(commit or None)
    if kind is What.TIME:
        found = [row for row in slowdowns.rows(stored, one) if isinstance(row.cell, Import) or wanted(row.cell.cell)]
        if not found:
            fail(f"no slowdown is stored of {one} that matches: run `asv run -b runtime.Slowdown -b runtime.Interval`")
        slowdowns.show(wide_console(), style, one, slowdowns.machine_of(stored, one), found)
        return
    rows = (slowdowns.memory_rows if kind is What.MEMORY else slowdowns.growth_rows)(stored, one)
    rows = [row for row in rows if wanted(row.cell.cell)]
    if not rows:
        fail(f"no {kind} is stored of {one} that matches: run `asv run -b runtime.{kind.capitalize()}`")
    slowdowns.show_figures(wide_console(), style, one, slowdowns.machine_of(stored, one), kind, rows)


@app.command()
def slower(
    earlier: Annotated[str, typer.Argument(help="A tag or hash with results, or MACHINE:TAG.")],
    later: Annotated[str, typer.Argument(help="Another.")],
    threshold: Annotated[float, typer.Option(help="A slowdown that grew by less, in percent, is let pass.")] = 5.0,
    all: Annotated[bool, typer.Option("--all", help="Print what did not change, too.")] = False,
    format: FormatName = "rich",
    config: Config = None,
) -> None:
    """Show what got slower between two commits, relative to HuggingFace. Exit status 1: something did."""
    style = parse(Format, format)
    if not 0 <= threshold < math.inf:
        fail(f"--threshold is {threshold}: give a percentage that is not negative")
    machine = "" if ":" in earlier + later else _machine_of_both(earlier, later, config)
    found = slowdowns.changes(*(_slowdowns(name, config, machine) for name in (earlier, later)))
    compared = [row for row in found if row.later]
    if not compared:
        fail(f"{earlier} and {later} have no slowdown in common: run `asv run -b runtime.Slowdown -b runtime.Interval`")
    flagged = slowdowns.slower_rows(compared, threshold / 100)
    which = f"from {earlier} to {later}" + (f" on {machine}" if machine else "")
    title = f"{len(flagged)} of {len(compared)} slowdowns grew {which} by {threshold:g} % and beyond chance"
    title += f" ({slowdowns.correction(len(compared))})"
    if gone := len(found) - len(compared):
        title += f"; {gone} are not there any more"
    slowdowns.show_changes(wide_console(), style, title, found if all else flagged)
    raise typer.Exit(1 if flagged else 0)


def _machine_of_both(earlier: str, later: str, config: Path | None) -> str:

    stored = StoredResults(config)
    return slowdowns.machine_of(stored, stored.commit(earlier), stored.commit(later))


def _slowdowns(name: str, config: Path | None, default: str) -> list[CostRow]:

    machine, _, commit = name.rpartition(":")
    stored = StoredResults(config, machine or default)
    return slowdowns.rows(stored, stored.commit(commit))


@app.command()
def env(
    one: Annotated[str, typer.Argument(help="A tag or hash with results, or MACHINE:TAG.")],
    other: Annotated[str, typer.Argument(help="Another: then only what differs is printed.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")] = False,
    config: Config = None,
) -> None:
    """Show the environment that results were measured in, or how two differ. Exit status 1: they differ."""
    names = [name for name in (one, other) if name]
    found = [_environment(name, config) for name in names]
    rows = {name: (value,) for name, value in found[0].items()} if not other else differences(*found)
    if as_json:
        print(json.dumps({name: dict(zip(names, values, strict=True)) for name, values in rows.items()}, indent=1))
    elif rows:
        lines = [[name, *values] for name, values in rows.items()]
        render.show(wide_console(), Format.RICH, "", [Column(""), *map(Column, names)], lines)
    else:
        print(f"{one} and {other} were measured in the same environment")
    raise typer.Exit(1 if other and rows else 0)


def _environment(name: str, config: Path | None) -> dict[str, str]:
    """The last one that results were measured in; a warning tells of others."""
    machine, _, commit = name.rpartition(":")
    stored = StoredResults(config, machine)
    found = stored.environments(stored.commit(commit))
    if len(found) > 1:
        print(f"{name} was measured in {len(found)} environments: the last is shown", file=sys.stderr)
    return found[-1]


@app.command()
def advise(
    model: Annotated[str, typer.Argument(help="A name of the catalogue.")],
    effect: Annotated[str, typer.Option(help="The size of the effect you measure, such as 0.01nats.")],
    commit: OneCommit = "",
    machine: Machine = "",
    config: Config = None,
) -> None:
    """Show which dtypes and options are safe for an effect of this size, from stored results."""
    size = advice.parse_effect(effect)
    name = catalogues.load().get(model).name
    stored = StoredResults(config, machine)
    one = stored.commit(commit or None)
    found = advice.advise([row for row in stored.truth_rows(one) if row.cell.model == name], size)
    if not found:
        fail(f"{name} was not measured against the golden at {one}, or cannot be: run `asv run -b truth` there")
    console = wide_console()
    console.print(f"{name} on TransformerLens {one}, for an effect of {size:.3g} nats:", highlight=False)
    for line in advice.sentences(found):
        console.print(f"- {line}.", highlight=False, soft_wrap=True)
    console.print(advice.EXPLANATION, highlight=False, soft_wrap=True)
    verdict_report.show(console, Format.RICH, one, [one_cell.row for one_cell in found])


def _filter(model: str, dtype: str, option: str, wrapper: str) -> Callable[[Cell], bool]:
    """Whether a cell is one of those wanted; an empty word wants them all."""
    name = catalogues.load().get(model).name if model else ""
    kinds = ((Dtype, dtype), (Option, option), (Wrapper, wrapper))
    words = (name, *(parse(kind, word) if word else "" for kind, word in kinds))
    return lambda cell: all(word in ("", own) for word, own in zip(words, astuple(cell), strict=True))
