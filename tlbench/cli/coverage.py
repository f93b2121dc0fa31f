"""The command that says what of TransformerLens is covered."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer
from rich.console import Console

from tlbench import catalogue as catalogues
from tlbench.checkpoints import ensure
from tlbench.checkpoints.architectures import architecture_of
from tlbench.cli.common import AsJson, FormatName, app, progress_bar, terminal
from tlbench.cli.judge import Tl, environment_of
from tlbench.exceptions import BadInput
from tlbench.execution.client import beside
from tlbench.grid import Cell, Dtype, Option, Wrapper, parse
from tlbench.questions.answers import ask_each, measuring
from tlbench.questions.registry import ACCURACY
from tlbench.questions.stations import SHARE_CORES
from tlbench.report import coverage as report
from tlbench.report import verify as verifying
from tlbench.report.render import Format

SUPPORTED = "tlbench.lens.registry:supported"
"""The address of what runs in TransformerLens's environment. This process imports neither it nor torch."""
OPTIONS = (Option.UNPROCESSED, Option.ALL_OPTIONS)


@app.command()
def coverage(
    tl: Tl = "",
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure every model in float32, unprocessed and with all options.")
    ] = False,
    format: FormatName = "rich",
    as_json: AsJson = False,
) -> None:
    """What TransformerLens supports, with which model it is measured, what is not and why.

    Without --measure it says only which architectures have a model that needs no Hub, not whether they are right.
    """
    style = parse(Format, format)
    catalogue = catalogues.load()
    models = [model for model in catalogue.every if architecture_of(model)]
    judgements: list[verifying.Judgement] = []
    with progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task("preparing", total=None)

        def say(what: str) -> None:
            progress.update(task, description=what)

        environment = environment_of(tl, say)
        say("reading what it supports")
        listed = beside("coverage", python=environment.python).call(SUPPORTED)
        if measure:
            cells = []
            progress.update(task, total=len(models))
            for model in models:
                say(f"{model.name}: making")
                try:
                    ensure(model, catalogue)
                except BadInput as error:
                    progress.console.print(str(error), markup=False, highlight=False)
                else:
                    cells += [Cell(model.name, Dtype.FLOAT32, option, Wrapper.TRANSFORMER_BRIDGE) for option in OPTIONS]
                progress.advance(task)
            say(f"importing TransformerLens {environment.name}, computing references and goldens")
            progress.update(task, total=len(cells), completed=0)
            asked = dict.fromkeys(cells, (ACCURACY,))
            with measuring(environment.python, asked, SHARE_CORES) as server:
                starting = lambda cell: say(f"{cell.model} {cell.option}")  # noqa: E731
                for answers in ask_each(server, list(asked.items()), starting, os.cpu_count() or 1):
                    judgements.append(verifying.judgement(answers))
                    progress.advance(task)
        say("done")
    found = report.lines(listed, models, judgements)
    if as_json:
        sentences = report.conclusion(environment.name, found, measure)
        print(json.dumps({"tl": environment.name, "conclusion": sentences, "architectures": [*map(report.to_json, found)]}))
    else:
        report.show(terminal(), style, environment.name, found, measure)
