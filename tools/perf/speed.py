"""The cost of a cell, of a release and of a question, next to what they are compared with."""

import itertools
import json
import statistics
import subprocess
import time

from tlbench import catalogue
from tlbench.checkpoints import ensure
from tools.perf.bench import ENVIRONMENTS, ROOT, Bench, at_least, at_most, commit_of, environment_python

MODEL = "zoo-gpt2"
RELEASES = ("v4.0.0", "v4.1.0", "v4.2.0", "v4.3.0")
FORK_SERVER_MODELS = 11
GRID_CELLS = 18
PLAIN_DTYPE = "float32"


def asv_cost_per_cell(bench, commit):
    """asv's own cost of reading one figure that is there, by the benchmarks that find everything measured."""
    bench.run(rf"accuracy\.Logit.*'{MODEL} TransformerBridge'", [commit])
    later = sorted(bench.durations(commit).items())[1:]
    milliseconds = [seconds / GRID_CELLS * 1e3 for name, seconds in later if "Logit" in name]
    yield at_most("asv's own cost a cell, everything measured", statistics.median(milliseconds), "ms", 20)


def speed_beside_a_plain_suite(folder, commit):
    """The full grid of one zoo model, beside the same figures from a suite that loads both models every time.

    The plain suite is timed on one dtype of three (its cost a cell does not depend on it), and its numbers compared.
    """
    ours = Bench(folder / "ours")
    pattern = rf"accuracy\.(Origin|Probability|Logit).*'{MODEL} TransformerBridge'"
    own_seconds = ours.run(pattern, [commit], TLBENCH_REMEASURE="1")
    plain = Bench(folder / "plain", suite=ROOT / "tools" / "perf" / "plain_suite", launch_method="spawn")
    models = catalogue.load()
    checkpoint = ensure(models.get(MODEL), models)
    environment = {
        "TLBENCH_PERF_FOLDER": str(checkpoint.folder),
        "TLBENCH_PERF_PROMPTS": json.dumps([checkpoint.prompts.natural, checkpoint.prompts.origin]),
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
                differing += figures[repr(f"{MODEL} TransformerBridge"), dtype, option] != value
    return differing


FORK_SERVER = """
import os, sys, time
sys.path.insert(0, {root!r})
os.environ["HF_HUB_OFFLINE"] = "1"
from tlbench.questions.preload import preload
preload()
from tlbench import Cell
from tlbench.questions.accuracy import measure
for model in {models!r}:
    pid = os.fork()
    if pid == 0:
        try:
            measure(Cell(model, "float32", "all_options", "TransformerBridge")).require_accuracy().logit.max
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
"""


def versions_beside_a_bare_fork_server(folder, bench):
    """Several releases x cells by asv, beside a fork server that installs, imports, forks and measures, and no more."""
    commits = [commit_of(tag) for tag in RELEASES]
    names = [model.name for model in catalogue.load().models if model.source == "zoo"][:FORK_SERVER_MODELS]
    pattern = rf"accuracy\.Logit\.track_max\('({'|'.join(names)}) TransformerBridge', 'float32', 'all_options'"
    for commit in commits:
        bench.run(pattern, [commit])
    asv_seconds = bench.run(pattern, commits, TLBENCH_REMEASURE="1")
    python = environment_python()
    code = FORK_SERVER.format(root=str(ROOT), models=names)
    changes, started = [], time.monotonic()
    for commit, wheel in zip(commits, wheels(commits), strict=True):
        before = time.monotonic()
        subprocess.run(
            [python, ROOT / "tlbench" / "environments" / "installer.py", "install", wheel, commit], check=True, cwd=folder
        )
        changes.append(time.monotonic() - before)
        subprocess.run([python, "-c", code], check=True, cwd=folder, capture_output=True)
    bare_seconds = time.monotonic() - started
    yield at_most("releases x cells by asv, times a bare fork server", asv_seconds / bare_seconds, "x", 1.5)
    yield at_most("changing from one release to the next inside an era", statistics.median(changes), "s", 3)


def wheels(commits):
    """The wheels that asv built and kept, in the commits' order."""
    kept = {path.parent.name: path for path in ENVIRONMENTS.glob("*/asv-build-cache/*/*.whl")}
    return [kept[commit] for commit in commits]


TRUTH_CELLS = {"zoo-gpt2 and zoo-llama": "zoo-(gpt2|llama)", "smollm2-135m": "smollm2-135m"}


def truth_beside_accuracy(bench, commit):
    """The wall time that all of truth.py adds to a run of accuracy.py on the same cells, the golden being there."""
    for words, pattern in TRUTH_CELLS.items():
        cells = rf"\('{pattern}( TransformerBridge'|'.*(eager|default))"
        bench.run(rf"(accuracy|truth).*{cells}", [commit])
        accuracy = bench.run(rf"accuracy.*{cells}", [commit], TLBENCH_REMEASURE="1")
        both = bench.run(rf"(accuracy|truth).*{cells}", [commit], TLBENCH_REMEASURE="1")
        yield at_most(f"truth.py added to accuracy.py, {words}", 100 * (both / accuracy - 1), "%", 15)


def inside_of_one_model(bench, commit):
    """All of depth, hooks, gradients and context length for one model and dtype, every option; first with its references."""
    cells = rf"(depth|hooks|gradients|context_length).*\('{MODEL} TransformerBridge', 'float32'"
    bench.run(cells, [commit])
    seconds = bench.run(cells, [commit], TLBENCH_REMEASURE="1")
    yield at_most("depth, hooks, gradients and context length of one zoo model, one dtype, all options", seconds, "s", 60)
