"""Commands that read what asv has stored."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple, NoReturn, TypeVar

import typer

from tlbench import catalogue as catalogues
from tlbench.cli.common import AsJson, Config, FormatName, app, terminal
from tlbench.environments.metadata import differences
from tlbench.exceptions import BadInput, choices
from tlbench.grid import Cell, Dtype, Import, Option, RuntimeCell, Space, Wrapper, parse
from tlbench.metrics.verdict import Verdict
from tlbench.records.outcome import Kind
from tlbench.report import advice, comparison, render, slowdowns
from tlbench.report import outcomes as outcome_report
from tlbench.report import status as status_report
from tlbench.report import table as table_report
from tlbench.report import verdicts as verdict_report
from tlbench.report.checks import Part
from tlbench.report.render import Column, Format
from tlbench.report.slowdowns import CostRow, What
from tlbench.report.status import Word
from tlbench.report.stored import BENCHMARKS, TRUTH, Commit, Row, State, StoredResults, TruthRow

TagOrHash = Annotated[str, typer.Option(help="A release (4.3.0) or hash with results; default: the newest that has any.")]
OnlyModel = Annotated[str, typer.Option(help="Only this model.")]
OnlyDtype = Annotated[str, typer.Option(help="Only this dtype.")]
OnlyOption = Annotated[str, typer.Option(help="Only this processing option.")]
OnlyWrapper = Annotated[str, typer.Option(help="Only this wrapper.")]
Machine = Annotated[str, typer.Option(help="Whose results; default: the shared arithmetic's, or the last to measure.")]
MachineAndTag = Annotated[str, typer.Argument(help="A release or hash with results, or MACHINE:RELEASE.")]
ABSENT = (State.UNJUDGED, State.NOT_APPLICABLE, State.NOT_MEASURED)
MOST_ABOUT = 8
"""Of how many models a table says what they are, below itself."""
R = TypeVar("R", Row, TruthRow)


@app.command()
def status(
    commit: Annotated[str, typer.Argument(help="A release (4.3.0) or hash with results; default: the newest.")] = "",
    since: Annotated[str, typer.Option(help="An earlier one: did anything get worse since then?")] = "",
    model: OnlyModel = "",
    dtype: OnlyDtype = "",
    option: OnlyOption = "",
    wrapper: OnlyWrapper = "",
    machine: Machine = "",
    format: FormatName = "rich",
    config: Config = None,
) -> None:
    """Is anything wrong at a commit? In logits, hooks, generation, reading, gradients, depth, context length; what failed.

    Exit status 0: nothing is wrong, or with --since worse; 1: something is; 2: bad usage; 3: nothing is known to be, but
    something is unjudged or a whole part was not measured.
    """
    style = parse(Format, format)
    stored = StoredResults(config, machine)
    is_wanted = _filter(stored, model, dtype, option, wrapper)
    one = stored.commit(commit)
    if since:
        _compare(style, stored, stored.commit(since), one, is_wanted)
    parts = status_report.examine(stored, one, is_wanted)
    if not any(part.is_measured for part in parts):
        words = {checked.word for part in parts for checked in part.checked} or {Word.NOT_MEASURED}
        raise BadInput(f"nothing that matches was measured at {one} ({', '.join(sorted(words))}): loosen the filters")
    print(status_report.answer(one, parts), file=sys.stderr if style is Format.CSV else sys.stdout, end="\n\n")
    status_report.show(terminal(), style, one, parts)
    if style is not Format.CSV:
        _say_about(cell.model for part in parts for cell, word in part.words.items() if word.has_run)
    raise typer.Exit(status_report.exit_status(parts))


def _compare(
    style: Format, stored: StoredResults, earlier: Commit, later: Commit, is_wanted: Callable[[Cell], bool]
) -> NoReturn:
    parts = comparison.compare(stored, earlier, later, is_wanted)
    if not any(part.changes for part in parts):
        raise BadInput(f"no check that matches was measured at both {earlier} and {later}: loosen the filters")
    out = sys.stderr if style is Format.CSV else sys.stdout
    print(comparison.answer(earlier, later, parts), file=out, end="\n\n")
    comparison.show(terminal(), style, parts)
    raise typer.Exit(comparison.exit_status(parts))


@app.command()
def table(
    commit: Annotated[list[str] | None, typer.Option(help="A release, a hash or MACHINE:RELEASE; may be repeated.")] = None,
    model: OnlyModel = "",
    dtype: OnlyDtype = "",
    option: OnlyOption = "",
    wrapper: OnlyWrapper = "",
    space: Annotated[str, typer.Option(help="origin, probability or logit; default: the first that is stored.")] = "",
    machine: Machine = "",
    format: FormatName = "rich",
    config: Config = None,
) -> None:
    """Show TransformerLens issue 496's table for one commit or several: how far the numbers are from HuggingFace's."""
    style = parse(Format, format)
    spaces = [parse(Space, space)] if space else list(Space)
    stored = StoredResults(config, machine)
    is_wanted = _filter(stored, model, dtype, option, wrapper)
    rows_by_space, names, left_out = {}, [], ""
    for one_space in spaces:
        read = _reader(partial(StoredResults.rows, space=one_space), is_wanted)
        places = _places(stored, config, commit or [""], BENCHMARKS[one_space], read)
        rows = [read(place) for place in places]
        if any(row.state in (State.MEASURED, State.FAILED) for of_commit in rows for row in of_commit):
            rows_by_space[one_space], names = rows, [place.name for place in places]
            left_out = _left_out(places, [_words(of_commit) for of_commit in rows])
            if style is not Format.CSV:
                break
    if not rows_by_space:
        raise _nothing_matches(f"measured cell in the {' or '.join(spaces)} space", places, read, model, "accuracy")
    table_report.show(terminal(), style, names, rows_by_space)
    if left_out:
        print(f"Left out{left_out}.", file=sys.stderr)
    _say_about((row.cell.model for rows in rows_by_space.values() for of_commit in rows for row in of_commit), style)


@app.command()
def verdicts(
    commit: TagOrHash = "",
    model: OnlyModel = "",
    dtype: OnlyDtype = "",
    option: OnlyOption = "",
    wrapper: OnlyWrapper = "",
    machine: Machine = "",
    format: FormatName = "rich",
    config: Config = None,
) -> None:
    """Show each cell's logits against the golden and their verdict. For what is wrong, see `tlbench status`.

    Exit status 0: all are right; 1: one is wrong; 2: bad usage; 3: none is known to be wrong, but some are unjudged.
    """
    style = parse(Format, format)
    stored = StoredResults(config, machine)
    read = _reader(StoredResults.truth_rows, _filter(stored, model, dtype, option, wrapper))
    (place,) = _places(stored, config, [commit], TRUTH, read)
    every = read(place)
    rows = [row for row in every if row.verdict not in (Verdict.NOT_APPLICABLE, Verdict.NOT_MEASURED)]
    if not rows:
        raise _nothing_matches("cell with a verdict", [place], read, model, "truth")
    verdict_report.show(terminal(), style, place.commit, rows)
    print(verdict_report.conclusion(place.commit, every), file=sys.stderr if style is Format.CSV else sys.stdout)
    _say_about((row.cell.model for row in rows), style)
    raise typer.Exit(verdict_report.exit_status([row.verdict for row in rows]))


@app.command()
def advise(
    model: Annotated[str, typer.Argument(help="A catalogue name.")],
    effect: Annotated[str, typer.Option(help="The size of the effect you measure, such as 0.01nats.")],
    dtype: OnlyDtype = "",
    commit: TagOrHash = "",
    machine: Machine = "",
    config: Config = None,
) -> None:
    """Show which dtypes and options are safe for an effect of this size, the most exact first, from stored results."""
    size = advice.parse_effect(effect)
    stored = StoredResults(config, machine)
    read = _reader(StoredResults.truth_rows, _filter(stored, model, dtype, "", ""))
    (place,) = _places(stored, config, [commit], TRUTH, read)
    advised = advice.advise(read(place), size)
    if all(one.word is advice.Use.NOT_MEASURED for one in advised):
        raise _nothing_matches(f"figure of {model} against the golden", [place], read, model, "truth")
    console = terminal()
    about = f" ({_about(model)})" if _about(model) else ""
    head = f"{model}{about} on TransformerLens {place.name}, for an effect of {size:.3g} nats: {advice.answer(advised)}."
    for line in (head, ""):
        console.print(line, highlight=False)
    advice.show(console, advised)
    for line in ("", advice.EXPLAINED_DEFAULTS, advice.EXPLANATION, *_beyond_logits(stored, place.commit, model)):
        console.print(line, highlight=False)


def _beyond_logits(stored: StoredResults, commit: Commit, model: str) -> Iterable[str]:
    """What else is known to be wrong there, of this model or, for what was not measured of it, of others."""
    every = status_report.examine(stored, commit, lambda _: True)
    own = [replace(part, checked=tuple(one for one in part.checked if one.cell.model == model)) for part in every]
    measured = {part.part for part in own if part.is_measured}
    found = [one for one in status_report.findings(own) if one.word is Word.WRONG]
    others = [one for one in status_report.findings(every) if one.word is Word.WRONG and one.part not in measured]
    if found:
        yield f"Wrong in this model: {'; '.join(f'{one.what}, {one.measure}' for one in found)}."
    if others:
        missing = status_report.joined(dict.fromkeys(one.part for one in others))
        words = status_report.joined(f"{one.what} ({one.measure})" for one in others)
        yield f"{Word.NOT_MEASURED.capitalize()} in this model: {missing}. In other models {commit} is wrong in {words}."
    if found or others:
        yield f"Where: `tlbench status {commit}`."


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
    stored = StoredResults(config, machine)
    is_wanted = _filter(stored, model, dtype, option, wrapper)
    read = slowdowns.READERS[kind]
    commits = [stored.commit(commit)] if commit else [one for one in stored.commits if stored.has(one, slowdowns.READ[kind])]
    for one in reversed(commits or [stored.commit("")]):
        rows = [row for row in read(stored, one, "") if isinstance(row.cell, Import) or is_wanted(row.cell.cell)]
        if rows:
            break
    else:
        raise BadInput(f"no matching costs ({kind}) are stored for {one}: {_measure(kind)}")
    machines = stored.machines(one, slowdowns.READ[kind])
    slowdowns.show(terminal(), style, one, machines[-1], kind, rows)
    if machines[:-1]:
        print(f"Measured on {', '.join(machines[:-1])} too: --machine shows it.", file=sys.stderr)
    _say_about((row.cell.model for row in rows if not isinstance(row.cell, Import)), style)


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
    """Show what got slower between two commits, relative to HuggingFace. Exit status 1: something did.

    Where the later commit has only the other wrapper, HookedTransformer is compared with its successor.
    """
    style = parse(Format, format)
    if not 0 <= threshold < math.inf:
        raise BadInput(f"invalid --threshold {threshold}: expected a percentage that is not negative")
    machine = "" if ":" in earlier + later else _machine_of_both(earlier, later, config)
    (before, _), (after, absent_later) = (_slowdowns(name, config, machine) for name in (earlier, later))
    changes = slowdowns.changes(before, after, absent_later)
    compared = [row for row in changes if row.later]
    if not compared:
        raise BadInput(f"{earlier} and {later} have no slowdown in common: {_measure(What.TIME)}")
    flagged = slowdowns.slower_rows(compared, threshold / 100)
    which = f"from {earlier} to {later}" + (f" on {machine}" if machine else "")
    title = f"{len(flagged)} of {len(compared)} slowdowns grew {which} by {threshold:g} % and by more than chance"
    title += f" ({slowdowns.correction(len(compared))})"
    absent = [row.absent for row in changes if not row.later]
    title += "".join(f"; {absent.count(word)} {word} at {later}" for word in dict.fromkeys(absent))
    slowdowns.show_changes(terminal(), style, title, changes if all else flagged)
    raise typer.Exit(1 if flagged else 0)


def _machine_of_both(earlier: str, later: str, config: Path | None) -> str:
    stored = StoredResults(config)
    return slowdowns.machine_of(stored, [stored.commit(earlier), stored.commit(later)])


def _slowdowns(name: str, config: Path | None, default_machine: str) -> tuple[list[CostRow], dict[RuntimeCell, State]]:
    """The slowdowns that TAG or MACHINE:TAG names, and why cells have none."""
    machine, _, tag = name.rpartition(":")
    stored = StoredResults(config, machine or default_machine)
    commit = stored.commit(tag)
    machine = stored.machine(commit, slowdowns.READ[What.TIME])
    return slowdowns.rows(stored, commit, machine), slowdowns.absences(stored, commit, machine)


@app.command()
def outcomes(
    commit: Annotated[list[str] | None, typer.Option(help="A release or hash with results; default: all.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only failures.")] = False,
    format: FormatName = "rich",
    config: Config = None,
) -> None:
    """List why cells failed, are not applicable or were judged without a golden, in every question.

    Two lines below the table count the failures, and say what was not measured.
    """
    style = parse(Format, format)
    stored = StoredResults(config)
    commits = [stored.commit(name) for name in commit] if commit else stored.commits
    parts = [(one, status_report.examine(stored, one, lambda _: True)) for one in commits]
    reasons = outcome_report.reasons(stored, parts, [Kind.FAILED] if failed else list(Kind))
    if reasons:
        outcome_report.show(terminal(), style, reasons)
    for one, of_commit in parts:
        summary = outcome_report.summary(one, of_commit)
        print(summary, file=sys.stderr if style is Format.CSV else sys.stdout)


@app.command()
def env(
    one: MachineAndTag,
    other: Annotated[str, typer.Argument(help="Another one: print only the differences.")] = "",
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Show the environment that results were measured in, or how two differ. Exit status 1: they differ."""
    places = _environments([name for name in (one, other) if name], config)
    names, environments = [f"{machine}:{tag}" for machine, tag, _ in places], [found for *_, found in places]
    rows = differences(*environments) if other else {name: (value,) for name, value in environments[0].items()}
    if as_json:
        asked = [name for name in (one, other) if name]
        print(json.dumps({name: dict(zip(asked, values, strict=True)) for name, values in rows.items()}, indent=1))
    elif rows:
        lines = [[name, *values] for name, values in rows.items()]
        columns = [Column(""), *(Column(name, is_wrapped=True) for name in names)]
        render.show(terminal(), Format.RICH, "", columns, lines)
    else:
        print(f"{names[0]} and {names[1]} were measured in the same environment")
    raise typer.Exit(1 if other and rows else 0)


def _environments(names: Sequence[str], config: Path | None) -> list[tuple[str, str, dict[str, str]]]:
    """Machine, commit and environment of each TAG or MACHINE:TAG; of tags alone, on one machine if one measured them all."""
    split = [name.rpartition(":") for name in names]
    common = ""
    if not any(machine for machine, *_ in split):
        stored = StoredResults(config)
        machines = [stored.machines(stored.commit(tag)) for *_, tag in split]
        common = next((name for name in reversed(machines[-1]) if all(name in of for of in machines)), "")
    found = []
    for machine, _, tag in split:
        stored = StoredResults(config, machine or common)
        commit = stored.commit(tag)
        environments = stored.environments(commit)
        if len(environments) > 1:
            print(f"{commit} was measured in {len(environments)} environments: this is the last", file=sys.stderr)
        found.append((stored.machine(commit), str(commit), environments[-1]))
    return found


class _Place(NamedTuple):
    """Where rows are read: a commit's results on one machine."""

    stored: StoredResults
    commit: Commit
    machine: str
    name: str


Reader = Callable[[_Place], list[R]]


def _reader(rows: Callable[..., list[R]], is_wanted: Callable[[Cell], bool]) -> Reader[R]:
    """Reads the wanted rows of a place. ``rows`` takes the results, the commit and the machine."""
    return lambda place: [row for row in rows(place.stored, place.commit, machine=place.machine) if is_wanted(row.cell)]


def _places(
    stored: StoredResults, config: Path | None, names: Sequence[str], benchmark: str, read: Reader[R]
) -> list[_Place]:
    """The places that RELEASE or MACHINE:RELEASE names, on one machine unless a name says which; "" is the newest with rows.

    Raises:
        BadInput: if a commit has no results, or no machine has measured the benchmark at all of them.
    """
    if not any(names):
        return [_newest(stored, benchmark, read)]
    if any(":" in name for name in names):
        split = [name.rpartition(":") for name in names]
        own = [(StoredResults(config, machine) if machine else stored, tag) for machine, _, tag in split]
        found = [(each, each.commit(tag)) for each, tag in own]
        places = [(each, commit, each.machine(commit, benchmark)) for each, commit in found]
        return [_Place(each, commit, machine, f"{commit} on {machine}") for each, commit, machine in places]
    commits = [stored.commit(name) for name in names]
    machine = stored.common_machine(commits, benchmark) if len(commits) > 1 else stored.machine(commits[0], benchmark)
    return [_Place(stored, commit, machine, str(commit)) for commit in commits]


def _newest(stored: StoredResults, benchmark: str, read: Reader[R]) -> _Place:
    """The newest commit that has wanted rows; without any, the newest."""
    measured = [commit for commit in reversed(stored.commits) if stored.has(commit, benchmark)] or stored.commits[-1:]
    places = [_Place(stored, commit, stored.machine(commit, benchmark), str(commit)) for commit in measured]
    found = next((place for place in places if _has_run(read(place))), None)
    if found and found.commit != stored.commits[-1]:
        print(f"{stored.commits[-1]} has none of this: showing {found.name}.", file=sys.stderr)
    return found or places[0]


def _words(rows: Sequence[Row] | Sequence[TruthRow]) -> list[str]:
    """Each row's state or verdict."""
    return [row.state if isinstance(row, Row) else row.verdict for row in rows]


def _has_run(rows: Sequence[Row] | Sequence[TruthRow]) -> bool:
    """Whether any row was measured, or tried."""
    return any(word not in ABSENT[1:] for word in _words(rows))


def _nothing_matches(what: str, places: Sequence[_Place], read: Reader[R], model: str, module: str) -> BadInput:
    """Says whether what was asked is not applicable or was not measured, and where the nearest figures are."""
    words = [_words(read(each)) for each in places]
    problem = f"no {what} matches{_left_out(places, words)}"
    stored, commit, machine, _ = places[0]
    others = [_Place(stored, commit, other, "") for other in stored.machines(commit) if other != machine]
    if here := [other.machine for other in others if _has_run(read(other))]:
        return BadInput(f"{problem}: {here[-1]} has measured it, add --machine {here[-1]}")
    elsewhere = [_Place(stored, one, stored.machine(one, BENCHMARKS[Space.LOGIT]), str(one)) for one in stored.commits]
    if there := [other.name for other in elsewhere if _has_run(read(other))]:
        return BadInput(f"{problem}: it was measured at {' and '.join(there[-2:])}")
    if model and not any(State.NOT_APPLICABLE in of_place for of_place in words):
        part = status_report.part_status(stored, commit, Part.LOGITS, lambda _: True)
        measured = sorted({cell.model for cell, word in part.words.items() if word.has_run})
        nearest = f"{choices(model, measured)}, or measure it" if measured else "measure it"
        against = "against the golden " if module == "truth" else ""
        problem = f"{model} was {Word.NOT_MEASURED} {against}at {places[0].name}"
        return BadInput(f"{problem}: {nearest}: `tlbench verify {model} --tl RELEASE`")
    return BadInput(f"{problem} at {places[0].name}: loosen the filters or `asv run -b {module}`")


def _left_out(places: Sequence[_Place], words_by_place: Sequence[Sequence[str]]) -> str:
    """The number of cells without a figure at each place, such as `` (4 n/a at v2.0.0)``, or ""."""
    found = []
    for place, words in zip(places, words_by_place, strict=True):
        counts = [f"{words.count(word)} {word}" for word in ABSENT if word in words]
        if counts:
            found.append(f"{' and '.join(counts)} at {place.name}")
    return f" ({'; '.join(found)})" if found else ""


def _filter(stored: StoredResults, model: str, dtype: str, option: str, wrapper: str) -> Callable[[Cell], bool]:
    """Whether a cell is wanted, where "" stands for any model, dtype, option or wrapper."""
    catalogue = catalogues.load()
    known = sorted({*stored.models, *catalogue.names()})
    if model and model not in known:
        raise BadInput(f"unknown model {model!r}: {choices(model, known)}")
    kinds = ((Dtype, dtype), (Option, option), (Wrapper, wrapper))
    words = (model, *(parse(kind, word) if word else "" for kind, word in kinds))
    if model in catalogue.names() and wrapper and f"{model} {wrapper}" not in catalogue.loadable():
        problem = f"{model} is {State.NOT_APPLICABLE} in {wrapper}, which has no such architecture"
        raise BadInput(f"{problem}: leave --wrapper out, or name the architecture's official model in {catalogue.path}")
    return lambda cell: all(word in ("", own) for word, own in zip(words, astuple(cell), strict=True))


def _about(model: str) -> str:
    """What a model is, where its name does not say it."""
    catalogue = catalogues.load()
    return next((one.about for one in (*catalogue.every, *catalogue.by_name) if one.name == model), "")


def _say_about(models: Iterable[str], style: Format = Format.RICH) -> None:
    """Say what the models are whose names do not; beside Markdown or CSV on standard error. Of many, say how to ask."""
    about = {model: text for model in dict.fromkeys(models) if (text := _about(model))}
    lines = [f"{model} is {text}." for model, text in about.items()]
    if len(lines) > MOST_ABOUT:
        lines = [f"What a model is, of {len(lines)} whose names do not say it: add --model and its name."]
    for line in lines:
        print(line, file=sys.stdout if style is Format.RICH else sys.stderr)
