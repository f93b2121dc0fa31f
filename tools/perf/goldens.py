"""The exact answers: computing them from nothing, and reading one."""

import os
import statistics
import subprocess
import time

from tlbench import catalogue
from tlbench.checkpoints import ensure
from tlbench.paths import cache_dir
from tlbench.reference import golden
from tools.perf.bench import BIN, at_most


def golden_figures(folder):
    """Computing the exact answers from nothing, by the command that does it, and reading them as a cell does."""
    models = catalogue.load()
    zoo = [model.name for model in models.models if model.source == "zoo"]
    cache = folder / "golden-cache"
    cache.mkdir()
    (cache / "checkpoints").symlink_to(cache_dir() / "checkpoints")
    for words, names, target in (("the zoo", zoo, 180), ("smollm2-135m", ["smollm2-135m"], 120)):
        for name in names:
            ensure(models.get(name), models)
        started = time.monotonic()
        command = [BIN / "tlbench", "golden", *names]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "TLBENCH_CACHE": str(cache)})
        yield at_most(f"golden of {words} from nothing", time.monotonic() - started, "s", target)
    slowest = max(time_to_read(ensure(models.get(name), models)) for name in zoo)
    yield at_most("reading a golden of the zoo, the slowest", slowest * 1e3, "ms", 50)
    read = time_to_read(ensure(models.get("smollm2-135m"), models))
    yield at_most("reading a golden of smollm2-135m", read * 1e3, "ms", 50)


def time_to_read(checkpoint):
    """The median of five, in seconds."""
    golden.golden(checkpoint, golden.Weights.FLOAT32)
    times = []
    for _ in range(5):
        started = time.monotonic()
        golden.golden(checkpoint, golden.Weights.FLOAT32)
        times.append(time.monotonic() - started)
    return statistics.median(times)
