"""`python -m tools.perf [NAME...]`: one JSON line a figure. Times are noisy here: the ratios are measured side by side."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tlbench import catalogue
from tlbench.checkpoints import ensure
from tlbench.history import build_history
from tlbench.paths import cache_dir
from tools.perf import (
    fresh,
    goldens,
    large_site,
    long,
    many_models,
    memory,
    mistral,
    profile,
    scaling,
    slower,
    speed,
    stack,
    verify,
)
from tools.perf.bench import HISTORY, ROOT, Bench, commit_of

LATEST = "v4.3.0"
FIGURES = {
    "cell": lambda folder: speed.asv_cost_per_cell(Bench(folder / "cell"), commit_of(LATEST)),
    "versions": lambda folder: speed.versions_beside_a_bare_fork_server(folder, Bench(folder / "versions")),
    "plain": lambda folder: speed.speed_beside_a_plain_suite(folder, commit_of(LATEST)),
    "verify": verify.verify_beside_the_suite,
    "golden": goldens.golden_figures,
    "truth": lambda folder: speed.truth_beside_accuracy(Bench(folder / "truth"), commit_of(LATEST)),
    "inside": lambda folder: speed.inside_of_one_model(Bench(folder / "inside"), commit_of(LATEST)),
    "memory": memory.memory_inside,
    "profile": lambda folder: profile.default_run(Bench(folder / "profile")),
    "forwards": lambda folder: scaling.forwards_of_a_statistic_more(folder, commit_of(LATEST)),
    "growth": lambda folder: scaling.growth_with_cells(Bench(folder / "growth"), commit_of(LATEST)),
    "stack": stack.spread_over_depths,
    "slower": slower.slowdowns_found,
    "models": lambda folder: many_models.asv_beside_the_cells(
        Bench(folder / "models"), commit_of(many_models.BEFORE_THE_BRIDGE)
    ),
    "site": large_site.figures,
    "smollm2": lambda folder: scaling.smollm2_beside_bare_code(Bench(folder / "smollm2"), commit_of(LATEST)),
}
"""By name, what yields figures, given an empty folder."""
LARGE = {
    "bench": fresh.figures,
    "long": lambda folder: long.figures(),
    "mistral": lambda folder: mistral.figures(),
}
"""The same, of what takes long, and memory or disk (`bench`: about ten minutes; `long`: the better part of an hour the first
time): only where it is named. Mistral's prints what it finds itself."""


def main(wanted):
    known = FIGURES | LARGE
    if unknown := set(wanted) - set(known):
        raise SystemExit(f"no figure is called {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    build_history(HISTORY, downloads=cache_dir() / "downloads")
    models = catalogue.load()
    for model in models.models:
        if model.source in ("zoo", "pypi"):
            ensure(model, models)
    subprocess.run([sys.executable, "-m", "asv_plugins.machine", "perf"], check=True, cwd=ROOT)
    folder = Path(tempfile.mkdtemp(prefix="tlbench-perf-"))
    try:
        for name in wanted or FIGURES:
            for figure in known[name](folder) or ():
                figure.show()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
