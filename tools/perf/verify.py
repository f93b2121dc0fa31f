"""`tlbench verify` of a model that nobody has seen, every question and logits alone, beside TransformerLens's own suite."""

import ctypes
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tlbench import catalogue
from tlbench.catalogue import CATALOGUE_VARIABLE
from tlbench.checkpoints import ensure
from tlbench.environments import lens_environment
from tlbench.paths import CACHE_VARIABLE, cache_dir
from tools.perf.bench import BIN, ROOT, at_most

RELEASE, FAMILY, ROUNDS = "4.3.0", "llama", 3
N_CELLS = 18
ASKED = {"logits": ("--question", "logits", "--question", "noise-floor"), "every question": ()}
LIMITS = {"logits": 1, "every question": 1.5}
PR_SET_CHILD_SUBREAPER = 36
SUITE = """
import sys
import torch
from transformer_lens.benchmarks import run_benchmark_suite
results = run_benchmark_suite(sys.argv[1], device="cpu", dtype=torch.float32, phases=[1, 2, 3], verbose=False)
print(len(results))
"""
"""All of the suite but its fourth phase, which fetches another model to judge texts."""


def verify_beside_the_suite(folder):
    """Wall and processor time of both, in fresh processes and by turns, as ratios. Nothing of the model is kept."""
    python = lens_environment(RELEASE).python
    (folder / "cache").mkdir()
    (folder / "cache" / "envs").symlink_to(cache_dir() / "envs")
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # so that servers, which nobody waits for, count
    ratios: dict = {asked: {"wall": [], "processor": []} for asked in ASKED}
    seconds: dict = {asked: [] for asked in ASKED}
    for turn in range(ROUNDS):
        for asked, questions in ASKED.items():
            model = drawn(folder, f"{turn}-{len(questions)}")
            suite = Timed([python, "-c", SUITE, str(model)])
            words = ["verify", str(model), "--tl", RELEASE, "--wrapper", "TransformerBridge", "--json", *questions]
            own = Timed([BIN / "tlbench", *words], {CACHE_VARIABLE: str(folder / "cache")})
            if len(json.loads(own.output)["cells"]) != N_CELLS:
                raise SystemExit(f"verify did not measure {N_CELLS} cells: {own.output}")
            ratios[asked]["wall"].append(own.wall_s / suite.wall_s)
            ratios[asked]["processor"].append(own.processor_s / suite.processor_s)
            seconds[asked].append(own.wall_s)
    for asked in ASKED:
        words = f"verify of a new tiny model, {N_CELLS} cells, {asked}, nothing kept"
        yield at_most(words, statistics.median(seconds[asked]), "s", 45)
        for name, of_turns in ratios[asked].items():
            words = f"the same, {asked}: {name} time over that of TransformerLens's own suite"
            yield at_most(words, statistics.median(of_turns), "x", LIMITS[asked])


def drawn(folder, turn):
    """A folder with a model of the zoo's architecture, from a seed of its own."""
    cache = Path(tempfile.mkdtemp(dir=folder))
    models = cache / "models.toml"
    seed = f"{time.time_ns()}-{turn}"
    models.write_text(f'[[model]]\nname = "new"\nsource = "zoo"\nfamily = "{FAMILY}"\nseed = "{seed}"\n')
    before = {name: os.environ.get(name) for name in (CATALOGUE_VARIABLE, CACHE_VARIABLE)}
    os.environ |= {CATALOGUE_VARIABLE: str(models), CACHE_VARIABLE: str(cache)}
    try:
        known = catalogue.load(models)
        return Path(shutil.copytree(ensure(known.get("new"), known).folder, cache / "model"))
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


class Timed:
    """A command that has run: its output, and the seconds that it took: on the clock, and of every process it started."""

    def __init__(self, command, environment=None):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        variables = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **(environment or {})}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1, 3):
            raise SystemExit(done.stdout + done.stderr)
        self.wall_s, self.output = time.monotonic() - started, done.stdout
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.processor_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
