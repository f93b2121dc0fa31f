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
from tlbench.cli.common import AsJson, Config, FormatName, app, wide_console
from tlbench.environments.metadata import differences
from tlbench.exceptions import BadInput
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

TagOrHash = Annotated[str, typer.Option(help="A tag or hash with results; default: newest.")]
OnlyModel = Annotated[str, typer.Option(help="Only this model.")]
OnlyDtype = Annotated[str, typer.Option(help="Only this dtype.")]
OnlyOption = Annotated[str, typer.Option(help="Only this processing option.")]
OnlyWrapper = Annotated[str, typer.Option(help="Only this wrapper.")]
Machine = Annotated[str, typer.Option(help="Whose results; default: the shared arithmetic's, or the last to measure.")]
MachineAndTag = Annotated[str, typer.Argument(help="A tag or hash with results, or MACHINE:TAG.")]


@app.command()
def table(
    commit: Annotated[list[str] | None, typer.Option(help="A tag or hash, or two to compare; default: newest.")] = None,
    model: OnlyModel = "",
    dtype: OnlyDtype = "",
    option: OnlyOption = "",
    wrapper: OnlyWrapper = "",
    space: Annotated[str, typer.Option(help="origin, probability or logit; default: origin, in CSV all.")] = "",
    machine: Machine = "",
    format: FormatName = "rich",
    config: Config = None,
) -> None:
    """Show TransformerLens issue 496's table from stored results."""
    style = parse(Format, format)
    is_wanted = _filter(model, dtype, option, wrapper)
    spaces = [parse(Space, space)] if space else list(Space) if style is Format.CSV else [Space.ORIGIN]
    stored = StoredResults(config, machine)
    if commit and len(commit) > 2:
        raise BadInput(f"--commit was given {len(commit)} times: give it once or twice")
    commits = [stored.commit(name) for name in commit or [""]]
    rows_by_space = {}
    for one_space in spaces:
        every = [[row for row in stored.rows(one, one_space) if is_wanted(row.cell)] for one in commits]
        rows = [[row for row in of_commit if row.state in (State.MEASURED, State.FAILED)] for of_commit in every]
        left_out = _left_out(commits, [[row.state for row in of_commit] for of_commit in every])
        if not any(rows):
            raise BadInput(f"no measured cell in the {one_space} space matches{left_out}: loosen the filters or `asv run`")
        rows_by_space[one_space] = rows
    table_report.show(wide_console(), style, commits, rows_by_space)
    if left_out:
        print(f"Left out{left_out}.", file=sys.stderr)


def _left_out(commits: Sequence[Commit], states: Sequence[Sequence[str]]) -> str:
    """The number of cells without a figure at each commit, such as `` (4 n/a at v2.0.0)``, or ""."""
    words = []
    for commit, of_commit in zip(commits, states, strict=True):
        absent = (State.UNJUDGED, State.NOT_APPLICABLE, State.NOT_MEASURED)
        counts = [f"{of_commit.count(state)} {state}" for state in absent if state in of_commit]
        if counts:
            words.append(f"{' and '.join(counts)} at {commit}")
    return f" ({'; '.join(words)})" if words else ""


@app.command()
def outcomes(
    commit: Annotated[list[str] | None, typer.Option(help="A tag or hash with results; default: all.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only failures.")] = False,
    config: Config = None,
) -> None:
    """List, as Markdown, why cells failed, are not applicable or were judged without a golden."""
    stored = StoredResults(config)
    commits = [stored.commit(name) for name in commit] if commit else stored.commits
    reasons = outcome_report.reasons(stored, commits, [Kind.FAILED] if failed else list(Kind))
    outcome_report.show(wide_console(), Format.MARKDOWN, reasons)


@app.command()
def verdicts(
    commit: TagOrHash = "",
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
    is_wanted = _filter(model, dtype, option, wrapper)
    stored = StoredResults(config, machine)
    one = stored.commit(commit)
    every = [row for row in stored.truth_rows(one) if is_wanted(row.cell)]
    rows = [row for row in every if row.verdict not in (Verdict.NOT_APPLICABLE, Verdict.NOT_MEASURED)]
    if not rows:
        left_out = _left_out([one], [[row.verdict for row in every]])
        raise BadInput(f"no matching cell of {one} has a verdict{left_out}: run `asv run -b truth`")
    shown = [row for row in rows if not row.verdict.passes or not alarms]
    if shown:
        verdict_report.show(wide_console(), style, one, shown)
    print(verdict_report.conclusion(one, every), file=sys.stderr if style is Format.CSV else sys.stdout)
    raise typer.Exit(verdict_report.exit_status([row.verdict for row in rows]))


@app.command()
def costs(
    what: Annotated[str, typer.Option(help="time, memory or growth (exponents).")] = "time",
    commit: TagOrHash = "",
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
    is_wanted = _filter(model, dtype, option, wrapper)
    stored = StoredResults(config, machine)
    one = stored.commit(commit)
    rows = [row for row in slowdowns.READERS[kind](stored, one) if isinstance(row.cell, Import) or is_wanted(row.cell.cell)]
    if not rows:
        raise BadInput(f"no matching costs ({kind}) are stored for {one}: {_measure(kind)}")
    slowdowns.show(wide_console(), style, one, slowdowns.machine_of(stored, one), kind, rows)


def _measure(what: What) -> str:
    return f"run `asv run -b 'runtime.{slowdowns.BENCHMARKS[what]}'`"


@app.command()
def slower(
    earlier: MachineAndTag,
    later: MachineAndTag,
    threshold: Annotated[float, typer.Option(help="The smallest growth to report, in percent.")] = 100 * slowdowns.THRESHOLD,
    all: Annotated[bool, typer.Option("--all", help="Also print what did not get slower.")] = False,
    format: FormatName = "rich",
    config: Config = None,
) -> None:
    """Show what got slower between two commits, relative to HuggingFace. Exit status 1: something did."""
    style = parse(Format, format)
    if not 0 <= threshold < math.inf:
        raise BadInput(f"invalid --threshold {threshold}: expected a percentage that is not negative")
    machine = "" if ":" in earlier + later else _machine_of_both(earlier, later, config)
    changes = slowdowns.changes(*(_slowdowns(name, config, machine) for name in (earlier, later)))
    compared = [row for row in changes if row.later]
    if not compared:
        raise BadInput(f"{earlier} and {later} have no slowdown in common: {_measure(What.TIME)}")
    flagged = slowdowns.slower_rows(compared, threshold / 100)
    which = f"from {earlier} to {later}" + (f" on {machine}" if machine else "")
    title = f"{len(flagged)} of {len(compared)} slowdowns grew {which} by {threshold:g} % and by more than chance"
    title += f" ({slowdowns.correction(len(compared))})"
    if gone := len(changes) - len(compared):
        title += f"; {gone} are gone"
    slowdowns.show_changes(wide_console(), style, title, changes if all else flagged)
    raise typer.Exit(1 if flagged else 0)


def _machine_of_both(earlier: str, later: str, config: Path | None) -> str:
    stored = StoredResults(config)
    return slowdowns.machine_of(stored, stored.commit(earlier), stored.commit(later))


def _slowdowns(name: str, config: Path | None, default_machine: str) -> list[CostRow]:
    return slowdowns.rows(*_named(name, config, default_machine))


def _named(name: str, config: Path | None, default_machine: str = "") -> tuple[StoredResults, Commit]:
    """The results and the commit that TAG or MACHINE:TAG names."""
    machine, _, commit = name.rpartition(":")
    stored = StoredResults(config, machine or default_machine)
    return stored, stored.commit(commit)


@app.command()
def env(
    one: MachineAndTag,
    other: Annotated[str, typer.Argument(help="Another one: print only the differences.")] = "",
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Show the environment that results were measured in, or how two differ. Exit status 1: they differ."""
    names = [name for name in (one, other) if name]
    environments = [_environment(name, config) for name in names]
    rows = differences(*environments) if other else {name: (value,) for name, value in environments[0].items()}
    if as_json:
        print(json.dumps({name: dict(zip(names, values, strict=True)) for name, values in rows.items()}, indent=1))
    elif rows:
        lines = [[name, *values] for name, values in rows.items()]
        render.show(wide_console(), Format.RICH, "", [Column(""), *map(Column, names)], lines)
    else:
        print(f"{one} and {other} were measured in the same environment")
    raise typer.Exit(1 if other and rows else 0)


def _environment(name: str, config: Path | None) -> dict[str, str]:
    stored, commit = _named(name, config)
    environments = stored.environments(commit)
    if len(environments) > 1:
        print(f"{name} was measured in {len(environments)} environments: this is the last", file=sys.stderr)
    return environments[-1]


@app.command()
def advise(
    model: Annotated[str, typer.Argument(help="A catalogue name.")],
    effect: Annotated[str, typer.Option(help="The size of the effect you measure, such as 0.01nats.")],
    commit: TagOrHash = "",
    machine: Machine = "",
    config: Config = None,
) -> None:
    """Show which dtypes and options are safe for an effect of this size, from stored results."""
    size = advice.parse_effect(effect)
    name = catalogues.load().get(model).name
    stored = StoredResults(config, machine)
    one = stored.commit(commit)
    advised = advice.advise([row for row in stored.truth_rows(one) if row.cell.model == name], size)
    if not advised:
        raise BadInput(f"{name} has no figures against the golden at {one}: run `asv run -b truth` there")
    console = wide_console()
    heading = f"{name} on TransformerLens {one}, for an effect of {size:.3g} nats:"
    for line in (heading, *(f"- {sentence}." for sentence in advice.sentences(advised)), advice.EXPLANATION):
        console.print(line, highlight=False, soft_wrap=True)
    verdict_report.show(console, Format.RICH, one, [each.row for each in advised])


def _filter(model: str, dtype: str, option: str, wrapper: str) -> Callable[[Cell], bool]:
    """Whether a cell is wanted, where "" stands for any model, dtype, option or wrapper."""
    name = catalogues.load().get(model).name if model else ""
    kinds = ((Dtype, dtype), (Option, option), (Wrapper, wrapper))
    words = (name, *(parse(kind, word) if word else "" for kind, word in kinds))
    return lambda cell: all(word in ("", own) for word, own in zip(words, astuple(cell), strict=True))
