"""False alarms: every zoo architecture drawn from many seeds, every dtype and option, on one TransformerLens.

``python -m tools.seeds [--seeds 20] [--first 1] [--tl 4.3.0] [--family mixtral]`` prints every cell that is not right, then
how many cells had each verdict and the largest judged ratio at each dtype; exit status 1 if there was one. Healthy models
have none. It takes the better part of an hour, and is no part of the tests.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from rich.console import Console

from tlbench import Cell, Dtype, Option, Wrapper, catalogue
from tlbench.catalogue import CATALOGUE_VARIABLE
from tlbench.checkpoints import ensure
from tlbench.cli.common import progress_bar
from tlbench.environments import lens_environment
from tlbench.questions.answers import interview
from tlbench.questions.registry import ACCURACY
from tlbench.records.outcome import Kind


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--tl", default="4.3.0")
    parser.add_argument("--family", action="append", help="only this architecture; default: all")
    wanted = parser.parse_args()
    python = lens_environment(wanted.tl).python
    families = wanted.family or [model.family for model in catalogue.load().models if model.source == "zoo"]
    verdicts, largest, alarms = Counter(), defaultdict(float), 0
    with progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task("seeds", total=wanted.seeds * len(families) * len(Dtype) * len(Option))
        for seed in range(wanted.first, wanted.first + wanted.seeds):
            for cell, outcome in cells_of_seed(python, families, f"seed-{seed}"):
                progress.advance(task)
                if outcome.kind is Kind.NOT_APPLICABLE:
                    continue
                word = outcome.record.verdict if outcome.record else "failed"
                verdicts[str(word)] += 1
                truth = outcome.record.truth if outcome.record else None
                if truth:
                    largest[cell.dtype] = max(largest[cell.dtype], truth.judged_ratio)
                if outcome.record is None or not word.passes:
                    alarms += 1
                    print(f"alarm: seed {seed}:", cell, word, truth or outcome.reason, flush=True)
    print(f"{sum(verdicts.values())} cells of {wanted.seeds} seeds on TransformerLens {wanted.tl}: {dict(verdicts)}")
    print("largest ratio:", {str(dtype): round(ratio, 3) for dtype, ratio in largest.items()})
    return 1 if alarms else 0


def cells_of_seed(python, families, seed):
    """Every cell of one seed's zoo, in a cache of its own that is deleted afterwards."""
    cache = Path(tempfile.mkdtemp(prefix="tlbench-seeds-"))
    models = cache / "models.toml"
    entries = [
        f'[[model]]\nname = "{family}"\nsource = "zoo"\nfamily = "{family}"\nseed = "{seed}"\n' for family in families
    ]
    models.write_text("\n".join(entries))
    settings = {CATALOGUE_VARIABLE: str(models), "TLBENCH_CACHE": str(cache)}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        drawn = catalogue.load(models)
        for model in drawn.models:
            ensure(model, drawn)
        cells = [Cell(f, d, o, Wrapper.TRANSFORMER_BRIDGE) for f in families for d in Dtype for o in Option]
        for answers in interview(python, (ACCURACY,), cells, settings):
            yield answers.cell, answers.outcomes[ACCURACY.name]
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        shutil.rmtree(cache, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
