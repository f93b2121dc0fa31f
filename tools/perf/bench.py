"""asv as a user runs it, in a folder of its own, and how a figure is reported."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.e2e.conftest import asv_configuration

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
HISTORY = ROOT / "releases" / "TransformerLens.git"
ENVIRONMENTS = ROOT / "releases" / ".asv" / "env"


@dataclass(frozen=True)
class Figure:
    """One line of the report; `ok` says whether the target was met."""

    name: str
    value: float
    unit: str
    target: float
    ok: bool

    def show(self):
        print(json.dumps(asdict(self)), flush=True)


def at_most(name, value, unit, target):
    return Figure(name, round(value, 3), unit, target, value <= target)


def at_least(name, value, unit, target):
    return Figure(name, round(value, 1), unit, target, value >= target)


class Bench:
    """A folder with the releases' configuration and results of its own; the environment is that of `releases/`, kept."""

    def __init__(self, folder, suite=None, launch_method="forkserver"):
        self.folder = folder
        folder.mkdir(parents=True)
        configuration = json.loads(asv_configuration(HISTORY))
        configuration |= {"env_dir": str(ENVIRONMENTS), "launch_method": launch_method}
        if suite:
            configuration["benchmark_dir"] = str(suite)
        (folder / "asv.conf.json").write_text(json.dumps(configuration))

    def run(self, pattern, commits, statuses=(0, 2), **environment):
        """Seconds that `asv run` takes. Its exit status 2 says that some cells failed, as some of the whole grid do."""
        (self.folder / "commits").write_text("".join(f"{commit}\n" for commit in commits))
        words = ["run", "--machine", "perf", "--bench", pattern, "HASHFILE:commits"]
        started = time.monotonic()
        done = subprocess.run(
            [BIN / "asv", *words],
            cwd=self.folder,
            # asv itself and its plugins are those of this tree, wherever the environment's own installation points.
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in statuses:
            raise SystemExit(done.stdout + done.stderr)
        return time.monotonic() - started

    def stored(self, commit):
        (path,) = self.folder.glob(f"results/*/{commit[:8]}-*.json")
        return json.loads(path.read_text())

    def durations(self, commit):
        stored = self.stored(commit)
        return {
            name: dict(zip(stored["result_columns"], columns, strict=False))["duration"]
            for name, columns in stored["results"].items()
        }


def commit_of(tag):
    """The commit of a release's tag."""
    words = ["git", "-C", HISTORY, "rev-parse", f"{tag}^{{commit}}"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def environment_python():
    """The interpreter of asv's environment, which some run has made."""
    (python,) = ENVIRONMENTS.glob("*/bin/python")
    return python
