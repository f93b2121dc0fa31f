"""Commands that measure one model and judge it."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from tlbench import catalogue as catalogues
from tlbench import device as devices
from tlbench.arithmetic import LANE_VARIABLE, Lane
from tlbench.catalogue import Source
from tlbench.checkpoints import Checkpoint
from tlbench.cli.common import AsJson, FormatName, app, progress_bar, terminal
from tlbench.cli.subject import prepared
from tlbench.environments import LensEnvironment, is_source_tree, lens_environment
from tlbench.environments.package_index import client
from tlbench.exceptions import BadInput, TlbenchError
from tlbench.grid import Cell, Dtype, Option, Space, Wrapper, parse
from tlbench.history.listing import list_releases, newest
from tlbench.paths import cache_dir
from tlbench.questions.answers import Answers, Asked, ask, ask_each, is_small, measuring, versions
from tlbench.questions.question import Question
from tlbench.questions.registry import DEPTH, ERROR_BUDGET
from tlbench.questions.stations import SHARE_CORES
from tlbench.records.depth_profile import DepthProfile
from tlbench.records.outcome import Outcome
from tlbench.report import answered, budgets, profiles
from tlbench.report import verify as verifying
from tlbench.report.checks import Part
from tlbench.report.render import Format, without_lists

ModelName = Annotated[str, typer.Argument(help="A catalogue name, a local checkpoint folder, or a Hub repo id.")]
Subject = Annotated[
    str, typer.Argument(metavar="MODEL", help="The same; or TransformerLens's source tree, for every small model under it.")
]
Tl = Annotated[
    str, typer.Option(help="A release, a commit or a source tree; default: the one installed here, or the newest release.")
]
Dtypes = Annotated[list[str] | None, typer.Option(help="float32, float16 or bfloat16; default: all.")]
Options = Annotated[list[str] | None, typer.Option(help="A processing option; default: all.")]
Wrappers = Annotated[list[str] | None, typer.Option(help="A TransformerLens class; default: both.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
_PARTS = {part.replace(" ", "-"): part for part in answered.PARTS}
"""The questions of `verify` by their names on the command line."""
HookedName = Annotated[str, typer.Option(help="Official model name to use for HookedTransformer's architecture.")]


@app.command()
def verify(
    model: Subject,
    dtype: Dtypes = None,
    option: Options = None,
    wrapper: Wrappers = None,
    tl: Tl = "",
    device: Device = "cpu",
    space: Annotated[str, typer.Option(help="Space of max, mean, median and std: origin, probability or logit.")] = "logit",
    hooked_name: HookedName = "",
    question: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(_PARTS)}; default: all.")] = None,
    is_full: Annotated[bool, typer.Option("--all", help="Print every figure and check, right ones too.")] = False,
    format: Annotated[str, typer.Option(help="rich, or markdown: ten lines for a pull request.")] = "rich",
    as_json: AsJson = False,
) -> None:
    """Check whether TransformerLens is right about a model: its logits, hooks, caches, gradients, padding and more.

    It judges TransformerLens against HuggingFace and float64. It does not judge the model's weights.

    In TransformerLens's own checkout, `tlbench verify .` asks about the logits of every small model, in float32, without
    options and with all.

    Exit status 0: everything is right; 1: something is wrong; 2: bad usage; 3: nothing is known to be wrong, but something
    is unjudged.
    """
    one_space, style = parse(Space, space), parse(Format, format)
    if style is Format.CSV:
        raise BadInput("verify has no csv: use --json, or --format markdown")
    if is_source_tree(Path(model)):
        raise typer.Exit(_verify_tree(model, dtype, option, wrapper, question, style, as_json))
    parts = _parts(question)

    def suspect(answers: list[Answers]) -> Cell | None:
        return verifying.suspect([verifying.judgement(one) for one in answers])

    cells = _grid(model, dtype, option, wrapper)
    run = _ask(model, cells, tl, device, hooked_name, lambda named: answered.questions_of(named, parts), suspect)
    judgements = [verifying.judgement(answers) for answers in run.answers]
    if all(one.measurement is None and not one.verdict.is_alarm for one in judgements):
        raise run.nothing_measured(one.reason for one in judgements)
    report = verifying.Report(run.subject, judgements, answered.part_statuses(run.answers, parts))
    if as_json:
        place = profiles.place_json(profiles.first_wrong([run.suspected])) if run.suspected else None
        conclusion = {"verdict": report.headline, "space": one_space, "conclusion": verifying.conclusion(judgements)}
        checks = {"checks": verifying.checks_json(report)}
        run.print_json({**conclusion, "first_wrong": place, **checks}, [one.to_json(one_space) for one in judgements])
    elif style is Format.MARKDOWN:
        chosen = {"dtype": dtype, "option": option, "wrapper": wrapper, "question": question}
        words = [word for name, values in chosen.items() for value in values or () for word in (f"--{name}", value)]
        verifying.print_markdown(report, shlex.join(["tlbench", "verify", model, "--tl", run.environment, *words]))
    else:
        notes = [*run.notes(is_full)]
        if is_full:
            verifying.print_table(terminal(), one_space, judgements)
            notes.append(verifying.worst_token(judgements, run.checkpoint))
        verifying.print_summary(Console(soft_wrap=True, highlight=False), report, filter(None, notes), is_full)
    raise typer.Exit(report.exit_status)


def _verify_tree(
    tree: str,
    dtypes: list[str] | None,
    options: list[str] | None,
    wrappers: list[str] | None,
    names: list[str] | None,
    style: Format,
    as_json: bool,
) -> int:
    """Verify every small model under a source tree of TransformerLens; a line or some for each. Returns the exit status."""
    if as_json:
        raise BadInput(f"{tree} is TransformerLens's source tree: --json is for one model, so name it, with --tl {tree}")
    parts, statuses = _parts(names or [Part.LOGITS.replace(" ", "-")]), []
    for model in (one.name for one in catalogues.load().models if one.source is Source.ZOO):
        cells = _grid(model, dtypes or [Dtype.FLOAT32], options or [Option.UNPROCESSED, Option.ALL_OPTIONS], wrappers)
        run = _ask(model, cells, tree, "cpu", "", lambda named: answered.questions_of(named, parts))
        judgements = [verifying.judgement(answers) for answers in run.answers]
        report = verifying.Report(run.subject, judgements, answered.part_statuses(run.answers, parts))
        statuses.append(report.exit_status)
        if style is Format.MARKDOWN:
            verifying.print_markdown(report, shlex.join(["tlbench", "verify", model, "--tl", tree]))
        else:
            verifying.print_summary(Console(soft_wrap=True, highlight=False), report, [], False)
    return 1 if 1 in statuses else max(statuses, default=0)


def _parts(names: list[str] | None) -> list[Part]:
    """The requested parts, all by default. Raises BadInput if there is no such question."""
    if unknown := [name for name in names or () if name not in _PARTS]:
        raise BadInput(f"no question {unknown[0]!r}: expected one of {', '.join(_PARTS)}")
    return [part for name, part in _PARTS.items() if not names or name in names]


@app.command()
def budget(
    model: ModelName,
    dtype: Dtypes = None,
    option: Options = None,
    wrapper: Wrappers = None,
    tl: Tl = "",
    device: Device = "cpu",
    hooked_name: HookedName = "",
    format: FormatName = "rich",
) -> None:
    """Split a cell's error by its source: rounding the weights, processing them, the forward pass, the final rounding."""
    style = parse(Format, format)
    run = _ask(
        model,
        _grid(model, dtype, option, wrapper),
        tl,
        device,
        hooked_name,
        _each(ERROR_BUDGET),
    )
    rows = [(answers.cell, answers.outcomes[ERROR_BUDGET.name]) for answers in run.answers]
    if all(outcome.record is None for _, outcome in rows):
        raise run.nothing_measured(outcome.reason for _, outcome in rows)
    budgets.show(terminal(), style, run.title, rows)


@app.command()
def where(
    model: ModelName,
    dtype: Annotated[list[str] | None, typer.Option(help="float32, float16 or bfloat16; default: float32.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="A processing option; default: unprocessed.")] = None,
    wrapper: Wrappers = None,
    tl: Tl = "",
    device: Device = "cpu",
    hooked_name: HookedName = "",
    as_json: AsJson = False,
) -> None:
    """Name the first wrong block and component.

    Exit status 0: none is wrong; 1: one is, or a cell failed; 2: bad usage; 3: a cell had nothing to compare.
    """
    cells = _grid(model, dtype or [Dtype.FLOAT32], option or [Option.UNPROCESSED], wrapper)
    run = _ask(model, cells, tl, device, hooked_name, _each(DEPTH))
    rows = [(answers.cell, answers.outcomes[DEPTH.name]) for answers in run.answers]
    if all(outcome.record is None for _, outcome in rows) and not profiles.is_alarm(rows):
        raise run.nothing_measured(outcome.reason for _, outcome in rows)
    if as_json:
        run.print_json(profiles.place_json(profiles.first_wrong(rows)), [profiles.to_json(*row) for row in rows])
    else:
        for _, outcome in rows:
            if outcome.record:
                profiles.print_profile(terminal(), f"TransformerLens {run.environment}", outcome.record)
        for row in rows:
            Console(soft_wrap=True, highlight=False).print(profiles.sentence(*row))
    raise typer.Exit(profiles.exit_status(rows))


class _Run(NamedTuple):
    """Every cell's answers, and what they were measured with.

    Attributes:
        suspected: the plainest wrong cell with its profile; None if nothing was wrong.
    """

    model: str
    checkpoint: Checkpoint
    environment: str
    versions: dict[str, str]
    answers: list[Answers]
    suspected: tuple[Cell, Outcome[DepthProfile]] | None

    @property
    def title(self) -> str:
        return f"{self.model} on TransformerLens {self.environment}"

    @property
    def subject(self) -> str:
        """The title with the model's architecture and size."""
        size = f"{self.checkpoint.parameters / 1e6:.3g} M parameters"
        return f"{self.model} ({self.checkpoint.architecture}, {size}) on TransformerLens {self.environment}"

    def notes(self, is_full: bool) -> Iterator[str]:
        """What else there is to know, and what to run next."""
        if self.suspected:
            cell, outcome = self.suspected
            yield profiles.sentence(cell, outcome).replace(f"{cell.model} ", "", 1)
            yield f"To see more: {self._where(cell)}"
        if reason := self.checkpoint.prompts.drawn:
            yield f"The prompts are random token ids: {reason}."
        if not is_full:
            yield "Every figure: add --all, or --json."

    def _where(self, cell: Cell) -> str:
        words = ["--tl", self.environment, "--dtype", cell.dtype, "--option", cell.option, "--wrapper", cell.wrapper]
        return shlex.join(["tlbench", "where", self.model, *map(str, words)])

    def print_json(self, result: dict[str, Any], cells: list[dict[str, Any]]) -> None:
        header = {"tl": self.environment, "versions": self.versions, "model": self.model}
        print(json.dumps({**header, **result, "cells": cells}, indent=1))

    def nothing_measured(self, reasons: Iterable[str]) -> TlbenchError:
        shown = {without_lists(reason) for reason in reasons}
        return TlbenchError(f"could not measure any cell of {self.title}: {'; '.join(sorted(shown))}")


def _grid(model: str, dtypes: list[Any] | None, options: list[Any] | None, wrappers: list[str] | None) -> list[Cell]:
    return [
        Cell(model, parse(Dtype, dtype), parse(Option, option), parse(Wrapper, wrapper))
        for wrapper in wrappers or Wrapper
        for dtype in dtypes or Dtype
        for option in options or Option
    ]


def _each(question: Question[Cell, Any]) -> Callable[[list[Cell]], Asked]:
    """Ask one question of every cell."""
    return lambda cells: dict.fromkeys(cells, (question,))


def environment_of(tl: str, say: Callable[[str], None]) -> LensEnvironment:
    """The environment of the requested TransformerLens. Raises what :func:`lens_environment` raises."""
    if tl:
        return lens_environment(tl, say)
    if find_spec("transformer_lens"):
        return LensEnvironment(Path(sys.executable), "installed")
    say("looking for the newest release")
    return lens_environment(newest(list_releases(client(), cache_dir() / "downloads")).version, say)


def _ask(
    model: str,
    cells: list[Cell],
    tl: str,
    device: str,
    hooked_name: str,
    questions: Callable[[list[Cell]], Asked],
    suspect: Callable[[list[Answers]], Cell | None] = lambda _: None,
) -> _Run:
    """Measure cells; then ask of the one that is ``suspect``, given their answers, where it goes wrong."""
    devices.require(device)
    if device != "cpu":  # its arithmetic is its own, so figures stay with this machine
        os.environ[LANE_VARIABLE] = Lane.NATIVE
    answers: list[Answers] = []
    suspected = None
    with progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task("preparing", total=None)

        def say(what: str) -> None:
            progress.update(task, description=what)

        with prepared(model, hooked_name, say) as (checkpoint, _):
            environment = environment_of(tl, say)
            cells = [replace(cell, model=checkpoint.model.name) for cell in cells]
            asked = questions(cells)
            longest_first = sorted(asked.items(), key=lambda one: -len(one[1]))
            say(f"importing TransformerLens {environment.name}, computing references and goldens")
            at_once = (os.cpu_count() or 1) if is_small(checkpoint.model.name) else 1
            settings = {devices.DEVICE_VARIABLE: device} | (SHARE_CORES if at_once > 1 else {})
            with measuring(environment.python, asked, settings) as server:
                found_versions = server.call(versions)
                progress.update(task, total=len(cells))
                for one in ask_each(server, longest_first, lambda cell: say(f"{cell.dtype} {cell.option}"), at_once):
                    answers.append(one)
                    progress.advance(task)
                answers.sort(key=lambda one: cells.index(one.cell))
                if cell := suspect(answers):
                    say("looking for the first wrong component")
                    suspected = (cell, ask(server, (DEPTH,), cell)[DEPTH.name])
            say("done")
    return _Run(model, checkpoint, environment.name, found_versions, answers, suspected)
