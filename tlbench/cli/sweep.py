"""Commands that measure a range of commits in jobs."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tlbench import catalogue as catalogues
from tlbench.arithmetic import SHARED_MACHINE, is_shared
from tlbench.catalogue import Source
from tlbench.cli.common import Config, app, progress_bar
from tlbench.environments.commits import Clone
from tlbench.exceptions import BadInput, choices
from tlbench.grid import Device, Dtype, Option, Wrapper, parse
from tlbench.paths import cache_dir
from tlbench.report.merging import is_results, merge_results
from tlbench.report.stored import StoredResults
from tlbench.sweep.costs import UnitCosts
from tlbench.sweep.engine import Engine, profile_folder
from tlbench.sweep.merging import is_cache, is_own, merge_cache
from tlbench.sweep.planning import Plan, estimate, make_plan
from tlbench.sweep.tasks import Grid, Keys, Task, read_receipt, receipt_path, receipts, rests
from tlbench.sweep.working import read_plan, work

BENCHMARKS = {
    "accuracy": r"(accuracy|truth\.TransformerLens)",
    "depth": "depth",
    "hooks": r"hooks\.Hooks",
    "generation": r"hooks\.Generation",
    "gradients": r"gradients\.Gradients",
    "reading": r"gradients\.Reading",
    "context-length": "context_length",
    "noise-floor": "noise_floor",
}
"""The asv benchmarks that read a question's figures. All but accuracy's have two options."""
ENDS = (Option.UNPROCESSED, Option.ALL_OPTIONS)
HOUR_S, GIB, SHOWN = 3600, 2**30, 3


@app.command()
def sweep(
    range: Annotated[str, typer.Argument(help="Commits as git names them: v4.0.0..v4.3.0, without its first; or one.")],
    model: Annotated[
        list[str] | None, typer.Option("--models", "--model", help="Catalogue names; default: the whole zoo.")
    ] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="Default: all.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="Default: all; two for other questions than accuracy.")] = None,
    wrapper: Annotated[list[str] | None, typer.Option(help="A TransformerLens class; default: both.")] = None,
    question: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(BENCHMARKS)}; default: accuracy.")] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda with the --machine whose GPU it is.")] = "cpu",
    machine: Annotated[str, typer.Option(help="asv's name for the results.")] = SHARED_MACHINE,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cores to use, or jobs at once on a cluster; default: all cores.")
    ] = None,
    profile: Annotated[str, typer.Option(help="slurm, another of workflow/profiles, or a folder of yours.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the jobs, and what they will take.")] = False,
    config: Config = None,
) -> None:
    """Measure a range of commits in jobs, on this machine or on a cluster, then have asv write the results.

    Safe to interrupt: run it again, and it does what is missing.

    Exit status 0: done; 1: some jobs failed, and the others are kept; 2: bad usage.
    """
    stored = StoredResults(config)
    repository = stored.repository
    if repository is None:
        raise BadInput(f"no clone of TransformerLens in {stored.folder}: run `asv setup` or `tlbench history` first")
    engine_profile = profile_folder(profile) if profile else None
    at_once = jobs or os.cpu_count() or 1
    models, grid = _models(model), _grid(dtype, option, wrapper, question, device, machine)
    if not any(grid.cells(one.name) for one in models):
        raise BadInput("no cell: HookedTransformer cannot load these models, or they need TLBENCH_FURTHER=1")
    commits = Clone(repository).commits(range)
    costs = UnitCosts.of(receipts(), rests())
    threads = {one.name: one.threads for one in models}
    plan = make_plan(repository.resolve(), commits, [*threads], grid, threads, costs, at_once)
    console = Console(soft_wrap=True, highlight=False)
    for line in _described(plan, costs, at_once):
        console.print(line)
    if dry_run:
        return
    asv = _asv(plan, config, commits, [*threads], machine)
    engine = Engine(plan, at_once, engine_profile, asv, stored.folder)
    if not plan.jobs and engine.has_results():
        console.print("Nothing to do: everything is measured, and asv has its results.")
        return
    with progress_bar(Console(stderr=True)) as progress:
        total = sum(len(job.tasks) for job in plan.jobs)
        task = progress.add_task("starting", total=total)
        status = engine.run(lambda one: progress.update(task, completed=one.tasks, description=one.doing[-SHOWN * 20 :]))
    _conclude(console, engine, [Task(one, commit) for commit in commits for one in threads])
    raise typer.Exit(1 if status else 0)


@app.command("sweep-job", hidden=True)
def sweep_job(plan: Path, name: str) -> None:
    """Do one job of a sweep's plan. Snakemake runs this."""
    work(read_plan(plan), name, lambda line: print(line, flush=True))


@app.command()
def merge(
    paths: Annotated[list[Path], typer.Argument(help="Folders of asv's results, or caches of tlbench.")],
    config: Config = None,
) -> None:
    """Take in what other machines have measured: asv's results, and kept figures. Nothing that is here is overwritten.

    Everything is checked: hashes, the arithmetic's probe, and what it was made by. What is refused is told.

    Exit status 0: all was taken in, or was here already; 1: something was refused; 2: bad usage.
    """
    refused = 0
    for path in paths:
        if is_cache(path) and not is_own(path):
            merged = merge_cache(path)
        elif is_results(path):
            merged = merge_results(path, StoredResults(config).results_folder)
        else:
            raise BadInput(
                f"{path} is neither another cache of tlbench nor a folder of asv's results (with MACHINE/machine.json)"
            )
        for reason in merged.refused:
            print(f"Refused: {reason}")
        print(f"{path}: {merged.added} figures added, {merged.same} the same, {len(merged.refused)} refusals")
        refused += len(merged.refused)
    raise typer.Exit(1 if refused else 0)


def _models(names: Sequence[str] | None) -> list[catalogues.Model]:
    catalogue = catalogues.load()
    wanted = [word for name in names or () for word in name.replace(",", " ").split()]
    return [catalogue.get(name) for name in wanted] or [one for one in catalogue.models if one.source is Source.ZOO]


def _grid(
    dtype: list[str] | None,
    option: list[str] | None,
    wrapper: list[str] | None,
    question: list[str] | None,
    device: str,
    machine: str,
) -> Grid:
    questions = tuple(question or ("accuracy",))
    if unknown := [name for name in questions if name not in BENCHMARKS]:
        raise BadInput(f"no question {unknown[0]!r}: {choices(unknown[0], BENCHMARKS)}")
    on = parse(Device, device)
    if (on is Device.CPU) is not is_shared(machine):
        raise BadInput(
            f"--device {on} does not go with --machine {machine}: figures of a CPU are in the shared arithmetic, whose "
            f"machines are {SHARED_MACHINE} and {SHARED_MACHINE}-WORD, and a GPU's belong to a machine of another name"
        )
    options = ENDS if questions != ("accuracy",) else tuple(Option)
    return Grid(
        tuple(parse(Dtype, word) for word in dtype or Dtype),
        tuple(parse(Option, word) for word in option or options),
        tuple(parse(Wrapper, word) for word in wrapper or Wrapper),
        questions,
        on,
    )


def _described(plan: Plan, costs: UnitCosts, at_once: int) -> list[str]:
    """What a plan does and takes, in lines."""
    found = estimate(plan, costs, at_once)
    tasks = [task for job in plan.jobs for task in job.tasks]
    cells = sum(len(plan.grid.cells(task.model)) for task in tasks if task.commit)
    commits = len({task.commit for task in tasks if task.commit})
    lines = [
        f"Jobs: {len(plan.jobs)}, for {cells} cells of {commits} of {plan.commits} commits. "
        f"Done already: {plan.done} of {plan.done + len(tasks)} tasks."
    ]
    if len(found.unknown) < len(tasks):
        lines.append(
            f"about {_duration(found.wall_s)} with {at_once} at once ({found.job_s / HOUR_S:.2f} hours of jobs), "
            f"{found.added_bytes / GIB:.2f} GiB added to {cache_dir()}"
        )
    if costs.commit_s is None:
        lines.append("What asv takes to read the figures at the end was never measured here either, and is left out.")
    if found.unknown:
        models = list(dict.fromkeys(task.model for task in found.unknown))
        more = f" and {len(models) - SHOWN} more" if len(models) > SHOWN else ""
        lines.append(
            f"Of unknown cost: {len(found.unknown)} of {len(tasks)} tasks, of {', '.join(models[:SHOWN])}{more}, never "
            "measured here and in no figure above. A sweep of one commit tells."
        )
    return lines


def _duration(seconds: float) -> str:
    return f"{seconds / HOUR_S:.1f} hours" if seconds >= HOUR_S else f"{seconds / 60:.1f} minutes"


def _asv(plan: Plan, config: Path | None, commits: Sequence[str], models: Sequence[str], machine: str) -> list[str]:
    """The command that has asv read the figures of a plan and write its files."""
    grid = plan.grid
    folder = Path(plan.folder)
    folder.mkdir(parents=True, exist_ok=True)
    hashes = folder / "commits"
    hashes.write_text("".join(f"{commit}\n" for commit in commits))
    words = ["|".join(map(re.escape, each)) for each in (models, grid.wrappers, grid.dtypes, grid.options)]
    pattern = "({})".format("|".join(BENCHMARKS[name] for name in grid.questions))
    cells = r".*\('({}) ({})', '({})', '({})'".format(*words)
    settings = {"TLBENCH_DEVICE": grid.device} if grid.device is not Device.CPU else {}
    bin_folder = Path(sys.executable).parent
    return [
        *("env", f"PATH={bin_folder}:{os.environ['PATH']}", *(f"{name}={value}" for name, value in settings.items())),
        *(str(bin_folder / "asv"), "run", *(("--config", config.name) if config else ()), "--machine", machine),
        *("--bench", pattern + cells, f"HASHFILE:{hashes}"),
    ]


def _conclude(console: Console, engine: Engine, tasks: Sequence[Task]) -> None:
    """Print what became of every task, and of asv's results."""
    keys = Keys(engine.plan.grid)
    found = [receipt for task in tasks if (receipt := read_receipt(receipt_path(keys.of(task))))]
    endings: Counter[str] = Counter()
    for receipt in found:
        endings.update(receipt.endings)
    words = ", ".join(f"{count} {ending}" for ending, count in endings.most_common())
    console.print(f"{len(found)} of {len(tasks)} tasks have ended ({words or 'no cell was measured'}).")
    for reason in list(dict.fromkeys(f"{one.task}: {one.reason}" for one in found if one.reason))[:SHOWN]:
        console.print(f"Not measured: {reason}")
    failed = [*engine.failed()]
    for job, line in failed[:SHOWN]:
        console.print(f"Failed: {job}: {line}")
    if failed:
        console.print(f"{len(failed)} jobs failed, so asv has no new results. What was measured is kept: run it again.")
    elif engine.has_results():
        console.print(f"asv has its results in {engine.asv_folder}.")
    else:
        console.print(f"Every job is done, but asv failed: {engine.last_words()}. Run it again.")
    console.print(f"Logs: {engine.folder}")
