"""How long does it take to name the commit that made a cell worse?"""

import json
import math
import os
import subprocess
import sys
import time

from tests.e2e.planted_history import planted_history
from tlbench.paths import cache_dir
from tools.perf.bench import at_most

CELL = ("--model", "zoo-phi", "--dtype", "float32", "--option", "unprocessed", "--wrapper", "HookedTransformer")
OWN = ("cells", "states", "locks")


def figures(folder):
    """One cell over the thirty commits of the planted history: with nothing kept of it, and again."""
    history = planted_history(folder)
    cache = folder / "cache"
    cache.mkdir()
    for path in cache_dir().iterdir():
        if path.name not in OWN:
            (cache / path.name).symlink_to(path)
    run(history, cache)  # which makes environments, references and goldens, if they are not there
    for name in OWN:
        (cache / name).rename(folder / name)
    seconds, found = run(history, cache)
    again, _ = run(history, cache)
    bound = math.log2(found["commits"]) * len(found["steps"])
    yield at_most("`find` of one cell over 29 commits, nothing measured before", seconds, "s", 45)
    yield at_most("the same again", again, "s", 5)
    yield at_most(
        "commits measured between the ends, over steps times log2 of the range", (found["probes"] - 2) / bound, "", 1.2
    )


def run(history, cache):
    """The seconds that a search takes, and what it found."""
    words = ("find", "v0.1.0..main", *CELL, "--repository", str(history.repository), "--format", "json")
    command = [sys.executable, "-m", "tlbench.cli", *words]
    started = time.monotonic()
    done = subprocess.run(command, env={**os.environ, "TLBENCH_CACHE": str(cache)}, stdout=subprocess.PIPE, check=True)
    return time.monotonic() - started, json.loads(done.stdout)
