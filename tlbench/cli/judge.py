"""Commands that measure one model and judge it."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import typer
from rich.console import Console

from tlbench.cli.common import FormatName, app, fail, progress_bar, wide_console
from tlbench.grid import Cell, Dtype, Option, Space, Wrapper, parse
from tlbench.questions.answers import Answers, Questions, ask, measuring, versions

ModelName = Annotated[
    str, typer.Argument(help="A model of the catalogue, a local folder with a checkpoint, or a Hub repo id.")
]
Tl = Annotated[
    str,
    typer.Option(
        "--tl", help="TransformerLens to check: a release, a commit, or a source tree; default: the one installed here."
    ),
]
Dtypes = Annotated[list[str] | None, typer.Option("--dtype", help="float32, float16 or bfloat16; default: all.")]
Options = Annotated[list[str] | None, typer.Option("--option", help="A processing option; default: all.")]
Wrappers = Annotated[list[str] | None, typer.Option("--wrapper", help="A TransformerLens class; default: both.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
HookedName = Annotated[str, typer.Option(help="Official model name to use for HookedTransformer's architecture.")]


@app.command()
def verify(
    model: ModelName,
    dtype: Dtypes = None,
    option: Options = None,
    wrapper: Wrappers = None,
    tl: Tl = "",
    device: Device = "cpu",
    space: Annotated[
        str, typer.Option(help="What max, mean, median and std are of: origin, probability or logit.")
    ] = "logit",
    hooked_name: HookedName = "",
    floor: Annotated[bool, typer.Option(help="Measure the noise floor too: four more forward passes per cell.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")] = False,
) -> None:
    """Check whether TransformerLens is right about a model.

    Exit status 0: every configuration is right; 1: one is wrong; 2: bad usage; 3: none is known to be wrong, but some are
    unjudged.
    """
    from tlbench.questions.registry import ACCURACY, NOISE_FLOOR
    from tlbench.report import judgements as report
    from tlbench.report import verify as verifying

    one_space = parse(Space, space)
    questions: Questions = (ACCURACY, NOISE_FLOOR) if floor else (ACCURACY,)
    answers, environment, versions = _ask(model, _Grid(dtype, option, wrapper), tl, device, hooked_name, questions)
    found = [verifying.judgement(one) for one in answers]
    if all(one.measurement is None and not one.verdict.is_alarm for one in found):
        reasons = "; ".join(sorted({one.reason for one in found}))
        fail(f"nothing of {model} could be measured on TransformerLens {environment}: {reasons}")
    line = verifying.conclusion(found)
    if as_json:
        cells = [one.to_json(one_space) for one in found]
        whole: dict[str, Any] = {"tl": environment, "versions": versions, "model": model, "space": one_space.value}
        print(json.dumps({**whole, "conclusion": line, "cells": cells}, indent=1))
    else:
        report.print_rich(wide_console(), f"{model} on TransformerLens {environment}", one_space, found)
        Console(soft_wrap=True, highlight=False).print(line)
    raise typer.Exit(verifying.exit_status(found))


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
    from tlbench.questions.registry import ERROR_BUDGET
    from tlbench.report import budgets as report
    from tlbench.report.render import Format

    style = parse(Format, format)
    answers, environment, _ = _ask(model, _Grid(dtype, option, wrapper), tl, device, hooked_name, (ERROR_BUDGET,))
    rows = [(one.cell, one.outcomes[ERROR_BUDGET.name]) for one in answers]
    if all(outcome.record is None for _, outcome in rows):
        fail("; ".join(sorted({outcome.reason for _, outcome in rows})))
    report.show(wide_console(), style, f"{model} on TransformerLens {environment}", rows)


@app.command()
def where(
    model: ModelName,
    dtype: Annotated[
        list[str] | None, typer.Option("--dtype", help="float32, float16 or bfloat16; default: float32.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option("--option", help="A processing option; default: none.")] = None,
    wrapper: Wrappers = None,
    tl: Tl = "",
    device: Device = "cpu",
    hooked_name: HookedName = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")] = False,
) -> None:
    """Name the first wrong block and component. Exit status 0: none is wrong; 1: one is, or a cell failed; 2: bad usage."""
    from tlbench.questions.registry import DEPTH
    from tlbench.report import profiles as report

    grid = _Grid(dtype or [Dtype.FLOAT32], option or [Option.UNPROCESSED], wrapper)
    answers, environment, versions = _ask(model, grid, tl, device, hooked_name, (DEPTH,))
    found = [(one.cell, one.outcomes[DEPTH.name]) for one in answers]
    alarm = report.is_alarm(found)
    if all(outcome.record is None for _, outcome in found) and not alarm:
        reasons = "; ".join(sorted({outcome.reason for _, outcome in found}))
        fail(f"nothing of {model} could be measured on TransformerLens {environment}: {reasons}")
    if as_json:
        cells = [report.to_json(*one) for one in found]
        whole: dict[str, Any] = {"tl": environment, "versions": versions, "model": model}
        print(json.dumps({**whole, **report.place_json(report.first_wrong(found)), "cells": cells}, indent=1))
    else:
        for _, outcome in found:
            if outcome.record:
                report.print_profile(wide_console(), f"TransformerLens {environment}", outcome.record)
        for one in found:
            Console(soft_wrap=True, highlight=False).print(report.sentence(*one))
    raise typer.Exit(1 if alarm else 0)


class _Grid:
    """The part of the grid that was asked for."""

    def __init__(self, dtypes: list[str] | None, options: list[str] | None, wrappers: list[str] | None) -> None:
        self.dtypes = [parse(Dtype, text) for text in dtypes or Dtype]
        self.options = [parse(Option, text) for text in options or Option]
        self.wrappers = [parse(Wrapper, text) for text in wrappers or Wrapper]

    def cells(self, model: str) -> list[Cell]:
        return [Cell(model, d, o, w) for w in self.wrappers for d in self.dtypes for o in self.options]


def _ask(
    model: str, grid: _Grid, tl: str, device: str, hooked_name: str, questions: Questions
) -> tuple[list[Answers], str, dict[str, str]]:
    """Every cell's answers, what TransformerLens is called, and the versions it runs with."""
    from tlbench import device as devices
    from tlbench.arithmetic import LANE_VARIABLE, Lane
    from tlbench.cli.subject import prepared
    from tlbench.report import verify as verifying

    devices.require(device)
    if device != "cpu":
        # Its arithmetic is its own: figures stay with this machine.
        os.environ[LANE_VARIABLE] = Lane.NATIVE
    found = []
    with progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task("preparing", total=None)

        def say(what: str) -> None:
            progress.update(task, description=what)

        with prepared(model, hooked_name, say) as (checkpoint, _):
            environment = verifying.environment_for(tl, say)
            say("computing the golden")
            verifying.prepare_golden(checkpoint)
            cells = grid.cells(checkpoint.model.name)
            progress.update(task, total=len(cells))
            with measuring(environment.python, {devices.DEVICE_VARIABLE: device}) as server:
                found_versions = server.call(versions)
                for cell in cells:
                    say(f"{cell.dtype} {cell.option} {cell.wrapper}")
                    found.append(Answers(cell, ask(server, questions, cell)))
                    progress.advance(task)
            say("done")
    return found, environment.name, found_versions
