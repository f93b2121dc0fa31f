"""Run a plan by Snakemake: on this machine's cores, or on a cluster by a profile."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import yaml

from tlbench.exceptions import BadInput
from tlbench.execution.server import last_line
from tlbench.files import write_json
from tlbench.paths import checkout_dir
from tlbench.records.serial import plain
from tlbench.sweep.planning import Job, Plan
from tlbench.sweep.tasks import Rest

PLAN, ASV, MARKS, LOGS, RESULTS, OWNER = "plan.json", "asv.json", "done", "logs", "results", "sweep.lock"
REST = "rest.json"
ENGINE_LOG = "snakemake.log"
POLL_S = 0.5
RETRIES = 2
"""How often a job is tried again: its machine may have died, or been taken away."""


@dataclass(frozen=True)
class Progress:
    """How far a sweep is.

    Attributes:
        tasks: how many are done, of those in the plan.
        jobs: how many are done.
        doing: the newest line of any job's log.
    """

    tasks: int
    jobs: int
    doing: str


@dataclass(frozen=True)
class Engine:
    """Snakemake with a plan.

    Attributes:
        at_once: the cores that jobs take on this machine, or the number of jobs on a cluster.
        profile: a folder with Snakemake's ``config.yaml``; None for this machine.
        asv: the command that writes asv's files at the end, and the folder that it runs in.
    """

    plan: Plan
    at_once: int
    profile: Path | None
    asv: Sequence[str]
    asv_folder: Path

    @property
    def folder(self) -> Path:
        """The folder of the plan, its marks and logs."""
        return Path(self.plan.folder)

    def run(self, watch: Callable[[Progress], None]) -> int:
        """Run the plan and return Snakemake's exit status. ``watch`` is called about twice a second.

        Raises BadInput if Snakemake or the profile's plugin is missing, or another process runs the same sweep.
        """
        command = self._command()
        with self._alone() as lock:
            shutil.rmtree(self.folder / MARKS, ignore_errors=True)
            shutil.rmtree(self.folder / LOGS, ignore_errors=True)
            (self.folder / RESULTS).unlink(missing_ok=True)
            for name in (MARKS, LOGS):
                (self.folder / name).mkdir(exist_ok=True)
            write_json(self.folder / PLAN, plain(self.plan))
            write_json(self.folder / ASV, {"command": [*self.asv], "folder": str(self.asv_folder)})
            started, first_job = time.time(), 0.0
            with (self.folder / ENGINE_LOG).open("w") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=[lock])
                try:
                    while process.poll() is None:
                        watch(self.progress())
                        first_job = first_job or (time.time() if any((self.folder / LOGS).iterdir()) else 0.0)
                        time.sleep(POLL_S)
                finally:
                    process.wait()
            watch(self.progress())
            if self.plan.jobs and self.has_results():
                last_job = max(path.stat().st_mtime for path in (self.folder / MARKS).iterdir())
                rest = Rest(self.plan.commits, (first_job - started) + (time.time() - last_job))
                write_json(self.folder / REST, plain(rest))
        return process.returncode

    def progress(self) -> Progress:
        """How far the sweep is, from its marks and logs: two listings, however many jobs there are."""
        done = {path.name for path in (self.folder / MARKS).glob("*")}  # Snakemake deletes the folder while it is empty
        jobs = [job for job in self.plan.jobs if job.name in done]
        logs = [entry for entry in os.scandir(self.folder / LOGS) if entry.is_file()]
        newest = max(logs, key=lambda entry: entry.stat().st_mtime, default=None)
        doing = last_line(Path(newest.path)) if newest else "starting"
        return Progress(sum(len(job.tasks) for job in jobs), len(jobs), doing)

    def failed(self) -> Iterator[tuple[Job, str]]:
        """The jobs that have no mark, each with the last line of its log."""
        for job in self.plan.jobs:
            if not (self.folder / MARKS / job.name).exists():
                log = self.folder / LOGS / f"{job.name}.log"
                yield job, last_line(log) if log.is_file() else "it was not started, or its machine went away"

    def has_results(self) -> bool:
        """Whether asv has written the results of the whole plan."""
        return (self.folder / RESULTS).exists()

    def last_words(self) -> str:
        """The last line of asv's log or, if it did not start, Snakemake's."""
        log = self.folder / LOGS / "asv.log"
        return last_line(log if log.is_file() else self.folder / ENGINE_LOG)

    def _command(self) -> list[str]:
        if find_spec("snakemake") is None:
            raise BadInput(
                "a sweep needs Snakemake, which is not installed: run `uv pip install --group sweep` in the checkout"
            )
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile()), "--directory", str(self.folder)]
        command += ["--nolock", "--keep-going", "--rerun-incomplete", "--rerun-triggers", "mtime", "--retries", str(RETRIES)]
        if self.profile:
            require_plugin(self.profile)
            command += ["--profile", str(self.profile), "--jobs", str(self.at_once)]
        else:
            command += ["--cores", str(self.at_once)]
        return [*command, "--config", f"plan={self.folder / PLAN}"]

    @contextmanager
    def _alone(self) -> Iterator[int]:
        """Within the block no other process runs this sweep. Snakemake inherits the lock, so it counts even alone."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / OWNER).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise BadInput(
                    f"another process runs this sweep ({self.folder}): wait until it ends, or stop it; a sweep of other "
                    "commits or models may run beside it"
                ) from None
            yield file.fileno()


def snakefile() -> Path:
    """The workflow. Raises BadInput outside a checkout."""
    if (checkout := checkout_dir()) is None:
        raise BadInput("tlbench was installed without its workflow: run `tlbench sweep` in a checkout of its repository")
    return checkout / "workflow" / "Snakefile"


def profile_folder(name: str) -> Path:
    """A profile: a folder, or the name of one of ours. Raises BadInput if there is none."""
    ours = snakefile().parent / "profiles"
    for folder in (Path(name).expanduser(), ours / name):
        if (folder / "config.yaml").is_file():
            return folder.resolve()
    known = ", ".join(sorted(path.parent.name for path in ours.glob("*/config.yaml")))
    raise BadInput(f"no profile {name!r}: name a folder with a config.yaml, or one of {known}")


def require_plugin(profile: Path) -> None:
    """Raise BadInput if a profile's executor is not installed."""
    try:
        executor = yaml.safe_load((profile / "config.yaml").read_text()).get("executor", "local")
    except (OSError, yaml.YAMLError, AttributeError) as error:
        raise BadInput(f"cannot read the profile {profile / 'config.yaml'} ({error}): correct it") from error
    plugin = f"snakemake-executor-plugin-{executor}"
    if executor not in ("local", "dryrun", "touch") and find_spec(plugin.replace("-", "_")) is None:
        raise BadInput(f"the profile {profile.name} needs {plugin}, which is not installed: run `uv pip install {plugin}`")
