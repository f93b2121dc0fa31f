"""`python -m tests.perf [NAME...]`: one JSON line a figure. Times are noisy here: the ratios are measured side by side.

`long` runs only where it is named: the first time it takes the better part of an hour, and every time 12 GiB.
"""

import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.e2e.conftest import asv_configuration
from tests.perf.long import memory_of_long_prompts
from tlbench import catalogue
from tlbench.checkpoints import ensure
from tlbench.environments import lens_environment
from tlbench.history import build_history
from tlbench.paths import cache_dir
from tlbench.reference import golden

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
MODEL = "zoo-gpt2"
RELEASES = ("v4.0.0", "v4.1.0", "v4.2.0", "v4.3.0")
FORK_SERVER_MODELS = 11
GRID_CELLS, GRID_TRACKS = 18, 12
PLAIN_DTYPE = "float32"


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
    """A folder with the releases' configuration and results of its own; the environment is made once, then kept."""

    def __init__(self, folder, suite=None, launch_method="forkserver"):
        self.folder = folder
        folder.mkdir(parents=True)
        configuration = json.loads(asv_configuration(ROOT / "releases" / "TransformerLens.git"))
        configuration |= {"env_dir": str(folder.parent / "env"), "launch_method": launch_method}
        if suite:
            configuration["benchmark_dir"] = str(suite)
        (folder / "asv.conf.json").write_text(json.dumps(configuration))

    def run(self, pattern, commits, **environment):
        """Seconds that `asv run` takes."""
        (self.folder / "commits").write_text("".join(f"{commit}\n" for commit in commits))
        words = ["run", "--machine", "perf", "--bench", pattern, "HASHFILE:commits"]
        started = time.monotonic()
        done = subprocess.run(
            [BIN / "asv", *words],
            cwd=self.folder,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 2):
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


def asv_cost_per_cell(bench, commit):
    """asv's own cost of reading one figure that is there, by the benchmarks that find everything measured."""
    bench.run(rf"accuracy\.Logit.*'{MODEL}'.*TransformerBridge", [commit])
    later = sorted(bench.durations(commit).items())[1:]
    milliseconds = [seconds / GRID_CELLS * 1e3 for name, seconds in later if "Logit" in name]
    return at_most("asv's own cost a cell, everything measured", statistics.median(milliseconds), "ms", 20)


def speed_beside_a_plain_suite(folder, commit):
    """The full grid of one zoo model, beside the same figures from a suite that loads both models every time.

    The plain suite is timed on one dtype of three (its cost a cell does not depend on it), and its numbers compared.
    """
    ours = Bench(folder / "ours")
    pattern = rf"accuracy\.(Origin|Probability|Logit).*'{MODEL}'.*TransformerBridge"
    own_seconds = ours.run(pattern, [commit], TLBENCH_REMEASURE="1")
    plain = Bench(folder / "plain", suite=ROOT / "tests" / "perf" / "plain_suite", launch_method="spawn")
    models = catalogue.load()
    checkpoint = ensure(models.get(MODEL), models)
    environment = {
        "TLBENCH_PERF_FOLDER": str(checkpoint.folder),
        "TLBENCH_PERF_PROMPTS": repr((checkpoint.prompts.natural, checkpoint.prompts.origin)),
    }
    plain_seconds = 3 * plain.run(rf"'{PLAIN_DTYPE}'", [commit], **environment)
    differing = compare(ours.stored(commit), plain.stored(commit))
    yield at_least("full grid of one zoo model, times faster than a plain suite", plain_seconds / own_seconds, "x", 30)
    yield at_most("figures that differ from the plain suite's", differing, "figures", 0)


def compare(ours, plain):
    """How many of the plain suite's figures are not ours, bit for bit."""
    differing = 0
    for name, columns in plain["results"].items():
        space, statistic = name.rsplit(".track_", 1)[1].split("_")
        of_plain = dict(zip(plain["result_columns"], columns, strict=False))
        own = ours["results"][f"accuracy.{space.capitalize()}.track_{statistic}"]
        of_ours = dict(zip(ours["result_columns"], own, strict=False))
        figures = dict(zip(itertools.product(*of_ours["params"]), of_ours["result"], strict=True))
        for (dtype, option), value in zip(itertools.product(*of_plain["params"]), of_plain["result"], strict=True):
            if dtype == repr(PLAIN_DTYPE):
                differing += figures[repr(MODEL), dtype, option, "'TransformerBridge'"] != value
    return differing


FORK_SERVER = """
import os, sys, time
sys.path.insert(0, {root!r})
os.environ["HF_HUB_OFFLINE"] = "1"
from tlbench.preload import preload
preload()
from tlbench import Cell
from tlbench.measure import measure
for model in {models!r}:
    pid = os.fork()
    if pid == 0:
        try:
            measure(Cell(model, "float32", "all_options", "TransformerBridge")).require_accuracy().logit.max
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
"""


def versions_beside_a_bare_fork_server(folder, bench, commits):
    """Several releases x cells by asv, beside a fork server that installs, imports, forks and measures, and no more."""
    names = [model.name for model in catalogue.load().models if model.source == "zoo"][:FORK_SERVER_MODELS]
    either = "|".join(f"'{name}'" for name in names)
    pattern = rf"accuracy\.Logit\.track_max\(({either}), 'float32', 'all_options', 'TransformerBridge'"
    for commit in commits:
        bench.run(pattern, [commit])
    asv_seconds = bench.run(pattern, commits, TLBENCH_REMEASURE="1")
    python = next((folder / "env").glob("*/bin/python"))
    code = FORK_SERVER.format(root=str(ROOT), models=names)
    changes, started = [], time.monotonic()
    for commit, wheel in zip(commits, wheels(folder, commits), strict=True):
        before = time.monotonic()
        subprocess.run(
            [python, ROOT / "tlbench" / "environments" / "installer.py", "install", wheel, commit], check=True, cwd=folder
        )
        changes.append(time.monotonic() - before)
        subprocess.run([python, "-c", code], check=True, cwd=folder, capture_output=True)
    bare_seconds = time.monotonic() - started
    yield at_most("releases x cells by asv, times a bare fork server", asv_seconds / bare_seconds, "x", 1.5)
    yield at_most("changing from one release to the next inside an era", statistics.median(changes), "s", 3)


TRUTH_CELLS = {"zoo-gpt2 and zoo-llama": "zoo-(gpt2|llama)", "smollm2-135m": "smollm2-135m"}


def truth_beside_accuracy(bench, commit):
    """The wall time that all of truth.py adds to a run of accuracy.py on the same cells, the golden being there."""
    for words, pattern in TRUTH_CELLS.items():
        cells = rf"\('{pattern}'.*(TransformerBridge|eager|default)"
        bench.run(rf"(accuracy|truth).*{cells}", [commit])
        accuracy = bench.run(rf"accuracy.*{cells}", [commit], TLBENCH_REMEASURE="1")
        both = bench.run(rf"(accuracy|truth).*{cells}", [commit], TLBENCH_REMEASURE="1")
        yield at_most(f"truth.py added to accuracy.py, {words}", 100 * (both / accuracy - 1), "%", 15)


def inside_of_one_model(bench, commit):
    """All of depth, hooks, gradients and context length for one model and dtype, every option; first with its references."""
    cells = rf"(depth|hooks|gradients|context_length).*\('{MODEL}', 'float32'.*TransformerBridge"
    bench.run(cells, [commit])
    seconds = bench.run(cells, [commit], TLBENCH_REMEASURE="1")
    return at_most("depth, hooks, gradients and context length of one zoo model, one dtype, all options", seconds, "s", 60)


MEMORY = """
import json, sys
sys.path.insert(0, {root!r})
import torch
from tlbench.cells import Cell
from tlbench.measure import load_cell
from tlbench.memo import QUESTIONS
from tlbench.reference import huggingface
cell = Cell({model!r}, "float32", "all_options", "TransformerBridge")
loaded = checkpoint, lens = load_cell(cell)
ids = huggingface.tokens(checkpoint, "natural")
with torch.inference_mode():
    lens.logits(ids)
def resident(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name + ":"))
grown = {{}}
for name in ("depth", "hooks", "reading", "gradients"):
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # the peak is counted from here
    before = resident("VmRSS")
    QUESTIONS[name].measurer_function()(cell, loaded)
    grown[name] = resident("VmHWM") - before
with torch.inference_mode():
    _, cache = lens.run_with_cache(ids)
stores = {{value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in cache.values()}}
print(json.dumps([max(grown.values()), sum(stores.values()), grown]))
"""


def memory_inside(folder):
    """What depth, hooks, reading and gradients need beyond the loaded model, in units of all its activations.

    By the process's largest resident size, which Linux counts. The zoo's activations are too small for that: SmolLM2's.
    """
    model = "smollm2-135m"
    code = MEMORY.format(root=str(ROOT), model=model)
    python = lens_environment(RELEASES[-1].removeprefix("v")).python
    subprocess.run([python, "-c", code], check=True, cwd=folder, capture_output=True)
    done = subprocess.run([python, "-c", code], check=True, cwd=folder, capture_output=True, text=True)
    grown, activations, by_question = json.loads(done.stdout.splitlines()[-1])
    print({name: round(needed / activations, 2) for name, needed in by_question.items()}, file=sys.stderr)
    return at_most(
        f"memory of depth, hooks, reading and gradients of {model}, times its activations", grown / activations, "x", 2
    )


RESIDENT_GIB, ARITHMETIC_GIB = 16, 1


def memory_at_long_prompts():
    """What one accuracy cell of SmolLM2 needs at a long prompt, and what of it is the error arithmetic's.

    The resident size counts the pages of mapped files (weights, references, goldens), which the kernel drops where memory is
    short; anonymous memory it cannot drop.
    """
    for tokens, phases, out_of_memory in memory_of_long_prompts():
        words = f"of one cell of SmolLM2 at {tokens} tokens"
        peak = max(phase["peak_rss"] for phase in phases.values())
        added = phases["arithmetic"]["peak_anon"] - phases["arithmetic"]["start_anon"]
        for figure in (
            at_most(f"peak resident size {words}", peak, "GiB", RESIDENT_GIB),
            at_most(f"anonymous memory that the error arithmetic {words} adds", added, "GiB", ARITHMETIC_GIB),
        ):
            yield replace(figure, ok=figure.ok and not out_of_memory)


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


def wheels(folder, commits):
    """The wheels that asv built and kept, in the commits' order."""
    kept = {path.parent.name: path for path in (folder / "env").glob("*/asv-build-cache/*/*.whl")}
    return [kept[commit] for commit in commits]


def main(wanted):
    build_history(ROOT / "releases" / "TransformerLens.git", downloads=cache_dir() / "downloads")
    models = catalogue.load()
    for model in models.models:
        if model.source == "zoo":
            ensure(model, models)
    commits = [
        subprocess.run(
            ["git", "-C", ROOT / "releases" / "TransformerLens.git", "rev-parse", f"{tag}^{{commit}}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for tag in RELEASES
    ]
    subprocess.run([sys.executable, "-m", "asv_plugins.machine", "perf"], check=True, cwd=ROOT)
    folder = Path(tempfile.mkdtemp(prefix="tlbench-perf-"))
    try:
        bench = Bench(folder / "bench")
        asv_cost_per_cell(bench, commits[-1]).show() if "cell" in wanted else None
        for figure in versions_beside_a_bare_fork_server(folder, bench, commits) if "versions" in wanted else ():
            figure.show()
        for figure in speed_beside_a_plain_suite(folder, commits[-1]) if "plain" in wanted else ():
            figure.show()
        for figure in golden_figures(folder) if "golden" in wanted else ():
            figure.show()
        for figure in truth_beside_accuracy(bench, commits[-1]) if "truth" in wanted else ():
            figure.show()
        inside_of_one_model(bench, commits[-1]).show() if "inside" in wanted else None
        memory_inside(folder).show() if "memory" in wanted else None
        for figure in memory_at_long_prompts() if "long" in wanted else ():
            figure.show()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["cell", "versions", "plain", "golden", "truth", "inside", "memory"])
