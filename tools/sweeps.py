"""Does a sweep in jobs store what `asv run` stored, is anything lost if it is killed, and is its estimate right?

``python -m tools.sweeps [--range v4.1.0..v4.3.0] [--models zoo-gpt2,zoo-llama] [--kills 10] [--seed 1]`` works in folders
and caches of its own. It prints a line for each step, and exit status 1 says what is wrong:

1. A sweep of one job at a time, then one of two, which must store the same figures, bit for bit, and those that `asv run`
   stored in ``releases/results/shared-x86-64``, as far as it did. Before the second, a dry run estimates it from the
   receipts of the first.
2. A sweep with two jobs is killed, with all its processes, at random moments, and started again. A receipt that was there
   must stay as it is, and at the end the figures are the same again.

Checkpoints, goldens and environments are those of the machine's own cache, so that only measuring is compared. It is no part
of the tests.
"""

import argparse
import itertools
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tlbench.paths import cache_dir
from tlbench.report.stored import is_nan
from tools.kills import BIN, ROOT, Place

MACHINE = "shared-x86-64-sweeps"
GRID = ("--dtype", "float32", "--dtype", "bfloat16", "--option", "unprocessed", "--option", "all_options")
MEASURED = ("cells", "receipts", "sweeps", "states")
"""What a sweep does not inherit from the one before."""
ESTIMATE = re.compile(r"about ([\d.]+) (minutes|hours)")


@dataclass(frozen=True)
class Sweep:
    """One sweep in a folder of its own."""

    place: Place
    range: str
    models: str

    def command(self, *words):
        return [str(BIN / "tlbench"), "sweep", self.range, "--models", self.models, "--machine", MACHINE, *GRID, *words]

    def run(self, *words):
        """What it prints, and the seconds that it took."""
        started = time.monotonic()
        done = subprocess.run(
            self.command(*words),
            cwd=self.place.folder,
            env=self.place.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"tlbench sweep ended with status {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout, time.monotonic() - started

    def start(self):
        with (self.place.folder / "log").open("a") as log:
            return psutil.Popen(
                self.command("--jobs", "2"), cwd=self.place.folder, env=self.place.environment, stdout=log, stderr=log
            )

    def receipts(self):
        """When each receipt was written."""
        return {path: path.stat().st_mtime_ns for path in (self.place.folder / "cache" / "receipts").rglob("*.json")}

    def figures(self):
        """The stored figures by commit, benchmark and cell."""
        return figures(self.place.folder / "results" / MACHINE)


def figures(folder):
    """The figures in a machine's folder of results, by commit, benchmark and cell."""
    found = {}
    for path in folder.glob("*-*.json"):
        stored = json.loads(path.read_text())
        for name, columns in stored["results"].items():
            column = dict(zip(stored["result_columns"], columns, strict=False))
            for point, value in zip(itertools.product(*column["params"]), column["result"] or [], strict=False):
                if value is not None and not is_nan(value):
                    found[stored["commit_hash"], name, point] = value
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--range", default="v4.1.0..v4.3.0")
    parser.add_argument("--models", default="zoo-gpt2,zoo-llama,zoo-opt,zoo-gemma2")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sweeps-", ignore_cleanup_errors=True) as folder:
        faults = check(Path(folder), wanted)
    for fault in faults:
        print(fault)
    print(f"{len(faults)} faults")
    sys.exit(bool(faults))


def check(folder, wanted):
    """What went wrong, in sentences."""

    (folder / "asv").mkdir()

    def sweep(name):
        place = Place(folder / name)
        place.folder.mkdir()
        make(place, folder / "asv")
        return Sweep(place, wanted.range, wanted.models)

    took = {}
    one, two = sweep("one-job"), sweep("two-jobs")
    took["one"] = one.run("--jobs", "1")[1]
    print(f"a sweep of one job at a time: {took['one']:.0f} s", flush=True)
    said, seconds = one.run("--jobs", "1")
    print(f"the same with nothing to do: {seconds:.1f} s: {said.splitlines()[-1]}", flush=True)
    for name in ("receipts", "sweeps"):  # what is known of costs
        shutil.copytree(one.place.folder / "cache" / name, two.place.folder / "cache" / name, dirs_exist_ok=True)
    for results in two.place.folder.glob("cache/sweeps/*/results"):
        results.unlink()
    said = two.run("--jobs", "2", "--dry-run")[0]
    print("".join(f"  {line}\n" for line in said.splitlines()), end="", flush=True)
    took["two"] = two.run("--jobs", "2")[1]
    number, unit = ESTIMATE.search(said).groups()
    estimate = float(number) * (60 if unit == "minutes" else 3600)
    share = f"{took['two'] / took['one']:.2f} of one at a time"
    print(f"two jobs at a time: {took['two']:.0f} s, {share}; estimated: {estimate:.0f} s", flush=True)
    expected, stored = one.figures(), figures(ROOT / "releases" / "results" / "shared-x86-64")
    known = {key: stored[key] for key in expected if key in stored}
    print(f"{len(expected)} figures, of which `asv run` had stored {len(known)}", flush=True)
    faults = [f"{key}: {expected[key]}, stored {value}" for key, value in known.items() if expected[key] != value]
    faults += [f"two jobs: {fault}" for fault in differing(expected, two)]
    killed = sweep("killed")
    faults += kill(killed, wanted.kills, random.Random(wanted.seed), took["two"])
    return faults + [f"after kills: {fault}" for fault in differing(expected, killed)]


def make(place, asv):
    """A folder for asv. Its cache shares all but what is measured with the machine's own; its environments are ``asv``'s."""
    place.make()
    shutil.rmtree(place.folder / "cache")
    for name in MEASURED:
        (place.folder / "cache" / name).mkdir(parents=True)
    for kind in cache_dir().iterdir():
        if kind.name not in MEASURED:
            (place.folder / "cache" / kind.name).symlink_to(kind)
    (place.folder / ".asv").symlink_to(asv)


def differing(expected, other):
    found = other.figures()
    faults = [f"{len(found)} figures, and one job at a time {len(expected)}"] if len(found) != len(expected) else []
    return faults + [f"{key}: {found.get(key)}, not {value}" for key, value in expected.items() if found.get(key) != value]


def kill(sweep, kills, chance, whole_s):
    """Kill a sweep and all its processes again and again, then let it end."""
    faults = []
    for i in range(kills):
        before, run = sweep.receipts(), sweep.start()
        moment = chance.uniform(0, whole_s)
        with suppress(psutil.TimeoutExpired):
            run.wait(moment)
        had_ended = not run.is_running()
        for process in [run, *(run.children(recursive=True) if run.is_running() else ())]:
            with suppress(psutil.Error):
                process.kill()
        run.wait()
        left, _ = sweep.place.left()
        now = sweep.receipts()
        end = "it had ended" if had_ended else "killed"
        print(f"{i + 1:2} after {moment:4.0f} s: {len(before)} receipts, then {len(now)}; {end}", flush=True)
        faults += [f"kill {i + 1}: still running: {words}" for words in left]
        faults += [f"kill {i + 1}: {path.name} was done again" for path in before if now.get(path) != before[path]]
        if had_ended:
            for name in MEASURED:
                shutil.rmtree(sweep.place.folder / "cache" / name, ignore_errors=True)
    before = sweep.receipts()
    sweep.run("--jobs", "2")
    now = sweep.receipts()
    return faults + [f"the last sweep did {path.name} again" for path in before if now.get(path) != before[path]]


if __name__ == "__main__":
    main()
