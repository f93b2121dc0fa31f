"""Kill `asv run` at random moments: is anything lost, measured twice, or left running?

``python -m tools.kills [--kills 20] [--seed 1]`` makes a folder and a cache of its own, in which one model's
figures are stored already. Then it starts a run over a small grid of two others, sends SIGKILL to asv alone or to its whole
process group by turns, each at a random moment, every other pair while it measures, and starts it again. The last run may
end. It prints a line per kill, and exit status 1 says what is wrong:

- a figure that was stored is gone or has changed, or the last run stores other figures than a run that nobody killed;
- a kept measurement was written again, though it was finished;
- a process of the run is still there some seconds after the kill, or one of our temporary folders after the end. asv and
  torch leave small ones of their own.

It takes about four minutes, and is no part of the tests.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tlbench.history import build_history
from tlbench.paths import CACHE_VARIABLE, cache_dir
from tlbench.report.stored import is_nan

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
HISTORY = ROOT / "releases" / "TransformerLens.git"
COMMIT, TAG = "281d0a89", "v4.3.0"
MACHINE = "shared-x86-64-kills"
STORED, KILLED = "zoo-opt", "zoo-(gpt2|llama)"
N_CELLS = 18
"""Of the three models, 6 options each."""
PATTERN = r"accuracy\.Logit.*\('{} TransformerBridge', 'float32'"
SHARED_FOLDERS = ("checkpoints", "downloads", "proofs")
"""What is copied from the machine's own cache, where it is there."""
LATEST_S = {"the start": 10.0, "a cell was kept": 2.0}
"""The latest moment of a kill. Measuring a cell takes a fraction of a second."""
GONE_WITHIN_S = 60.0
"""How long a killed run's processes have to end: a server looks every second whether its owner is there, but first imports
what it was started to import."""


@dataclass(frozen=True)
class Place:
    """A folder for asv, with a cache and temporary files of its own."""

    folder: Path

    @property
    def environment(self):
        folders = {CACHE_VARIABLE: self.folder / "cache", "TMPDIR": self.folder / "tmp", "HOME": self.folder / "home"}
        uv_cache = subprocess.run([BIN / "uv", "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
        own = {name: str(path) for name, path in folders.items()} | {"UV_CACHE_DIR": uv_cache, "PYTHONPATH": str(ROOT)}
        return {**os.environ, **own, "PATH": f"{BIN}:{os.environ['PATH']}"}

    def make(self):
        for name in ("cache", "tmp", "home"):
            (self.folder / name).mkdir()
        for name in SHARED_FOLDERS:
            if (cache_dir() / name).is_dir():
                shutil.copytree(cache_dir() / name, self.folder / "cache" / name)
        text = (ROOT / "releases" / "asv.conf.json").read_text()
        for relative, absolute in {
            "{conf_dir}/../tlbench": ROOT / "tlbench",
            "../benchmarks": ROOT / "benchmarks",
            '"TransformerLens.git"': f'"{HISTORY}"',
        }.items():
            text = text.replace(relative, str(absolute))
        (self.folder / "asv.conf.json").write_text(text)

    def start(self, models):
        """A run over some models, in a process group of its own."""
        command = [BIN / "asv", "run", "--machine", MACHINE, "--bench", PATTERN.format(models), f"{TAG}^!"]
        with (self.folder / "log").open("a") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def finish(self, models):
        status = self.start(models).wait()
        if status:
            said = (self.folder / "log").read_text()[-2000:]
            sys.exit(f"asv run of {models} ended with status {status}. Its last words:\n{said}")

    def figures(self):
        """The stored figures by benchmark and cell. None if there is no file of results."""
        found = {}
        for path in (self.folder / "results" / MACHINE).glob(f"{COMMIT}-*.json"):
            stored = json.loads(path.read_text())
            for name, columns in stored["results"].items():
                column = dict(zip(stored["result_columns"], columns, strict=False))
                points = itertools.product(*column["params"])
                for point, value in zip(points, column["result"] or [], strict=False):
                    if value is not None and not is_nan(value):
                        found[name, point] = value
        return found

    def kept(self):
        """When each measurement that is kept was written."""
        return {path: path.stat().st_mtime_ns for path in (self.folder / "cache" / "cells").rglob("*.json")}

    def processes(self):
        """What the run's processes are running."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(CACHE_VARIABLE) == str(self.folder / "cache"):
                    found.append(" ".join(process.cmdline())[-120:])
        return found

    def left(self):
        """The processes that are still there after some seconds, and the seconds that it took."""
        started = time.monotonic()
        while (found := self.processes()) and time.monotonic() - started < GONE_WITHIN_S:
            time.sleep(0.2)
        return found, time.monotonic() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    build_history(HISTORY, downloads=cache_dir() / "downloads")
    with tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True) as folder:
        place = Place(Path(folder))
        place.make()
        faults = kill(place, wanted.kills, random.Random(wanted.seed))
    for fault in faults:
        print(fault)
    print(f"{len(faults)} faults after {wanted.kills} kills")
    sys.exit(bool(faults))


def kill(place, kills, chance):
    """What went wrong, in sentences."""
    place.finish(STORED)
    stored, faults = place.figures(), []
    for i in range(kills):
        who, since, kept = ("asv", "its group")[i % 2], [*LATEST_S][i // 2 % 2], place.kept()
        moment, run = chance.uniform(0, LATEST_S[since]), place.start(KILLED)
        while since != "the start" and run.poll() is None and len(place.kept()) == len(kept):
            time.sleep(0.05)
        with suppress(subprocess.TimeoutExpired):
            run.wait(moment)
        had_ended = run.poll() is not None
        with suppress(ProcessLookupError):
            (os.killpg if i % 2 else os.kill)(run.pid, signal.SIGKILL)
        run.wait()
        left, took = place.left()
        now = place.kept()
        end = "it had ended" if had_ended else f"its processes ended in {took:.1f} s"
        print(f"{i + 1:2} {who:9} {moment:4.1f} s after {since}: {len(kept)} kept, then {len(now)}; {end}", flush=True)
        faults += [f"kill {i + 1}: still running: {words}" for words in left]
        faults += [f"kill {i + 1}: {path.name} was measured again" for path in kept if now.get(path) != kept[path]]
        try:
            figures = place.figures()
        except ValueError as error:
            faults.append(f"kill {i + 1}: a file of results is damaged ({error})")
        else:
            faults += [f"kill {i + 1}: {key} is lost or changed" for key in stored if figures.get(key) != stored[key]]
        if had_ended or len(now) == N_CELLS:  # let the next ones measure again
            shutil.rmtree(place.folder / "cache" / "cells")
    kept = place.kept()
    place.finish(KILLED)
    after, now = place.figures(), place.kept()
    faults += [f"the last run measured {path.name} again" for path in kept if now.get(path) != kept[path]]
    shutil.rmtree(place.folder / "cache" / "cells")
    place.finish(KILLED)
    faults += [f"{key}: {value} without a kill" for key, value in place.figures().items() if after.get(key) != value]
    faults += [f"left in the folder for temporary files: {path.name}" for path in (place.folder / "tmp").glob("tlbench-*")]
    print(f"at the end {len(kept)} of {len(now)} were kept, and {len(after)} figures are stored")
    return faults


if __name__ == "__main__":
    main()
