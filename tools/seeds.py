"""False alarms: every small model drawn from many seeds, on one TransformerLens.

``python -m tools.seeds [--seeds 20] [--first 1] [--tl 4.3.0] [--model zoo-mixtral] [--dtype float32] [--option fold_ln]``
prints every cell that is not right although the committed draw is, then how many cells had each verdict and the largest
judged ratio at each dtype; exit status 1 if there was one. It takes the better part of an hour for the models of the
grid, several for all, and is no part of the tests.
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
from tlbench.paths import package_dir
from tlbench.questions.answers import interview
from tlbench.questions.registry import ACCURACY
from tlbench.records.outcome import Kind

FILES = ("catalogue.toml", "architectures.toml")
ENTRY = "[[model]]"


def main() -> int:
    """Measure every draw and print what is not right. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--tl", default="4.3.0")
    parser.add_argument("--model", action="append", help="only this one; default: those of the grid")
    parser.add_argument("--dtype", action="append", type=Dtype, help="default: all")
    parser.add_argument("--option", action="append", type=Option, help="default: all")
    asked = parser.parse_args()
    python = lens_environment(asked.tl).python
    names = asked.model or [model.name for model in catalogue.load().models if model.source.is_zoo]
    grid = [(dtype, option) for dtype in asked.dtype or Dtype for option in asked.option or Option]
    cells = [Cell(name, *words, Wrapper.TRANSFORMER_BRIDGE) for name in names for words in grid]
    verdicts, largest, alarms = Counter(), defaultdict(float), 0
    with progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task("the committed draw", total=(asked.seeds + 1) * len(cells))
        right = set()
        for name in names:
            ensure(catalogue.load().get(name), catalogue.load())
        for answers in interview(python, (ACCURACY,), cells):
            progress.advance(task)
            record = answers.outcomes[ACCURACY.name].record
            if record is not None and record.verdict.passes:
                right.add(answers.cell)
        for seed in range(asked.first, asked.first + asked.seeds):
            progress.update(task, description=f"seed {seed}")
            for cell, outcome in answers_of_seed(python, cells, f"seed-{seed}"):
                progress.advance(task)
                if outcome.kind is Kind.NOT_APPLICABLE or cell not in right:
                    continue
                word = outcome.record.verdict if outcome.record else "failed"
                verdicts[str(word)] += 1
                truth = outcome.record.truth if outcome.record else None
                if truth:
                    largest[cell.dtype] = max(largest[cell.dtype], truth.judged_ratio)
                if outcome.record is None or not word.passes:
                    alarms += 1
                    print(f"alarm: seed {seed}:", cell, word, truth or outcome.reason, flush=True)
    of = f"{sum(verdicts.values())} cells of {len(names)} models and {asked.seeds} seeds on TransformerLens {asked.tl}"
    print(f"{of}, without {len(cells) - len(right)} that are not right in the committed draw: {dict(verdicts)}")
    print("largest ratio:", {str(dtype): round(ratio, 3) for dtype, ratio in largest.items()})
    return 1 if alarms else 0


def answers_of_seed(python, cells, seed):
    """Every cell in one seed's draw, in a cache of its own that is deleted afterwards."""
    cache = Path(tempfile.mkdtemp(prefix="tlbench-seeds-"))
    path = cache / "models.toml"
    path.write_text("".join(entries({cell.model for cell in cells}, seed)))
    settings = {CATALOGUE_VARIABLE: str(path), "TLBENCH_CACHE": str(cache)}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        drawn = catalogue.load(path)
        for model in drawn.models:
            ensure(model, drawn)
        for answers in interview(python, (ACCURACY,), cells, settings):
            yield answers.cell, answers.outcomes[ACCURACY.name]
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        shutil.rmtree(cache, ignore_errors=True)


def entries(names, seed):
    """The entries of those models in tlbench's own catalogue, with a seed."""
    for file in FILES:
        for text in (package_dir() / file).read_text().split(ENTRY)[1:]:
            if any(f'\nname = "{name}"\n' in text for name in names):
                yield f'{ENTRY}\nseed = "{seed}"{text}\n'


if __name__ == "__main__":
    sys.exit(main())
