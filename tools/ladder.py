"""The smallest planted fault that a search names: one weight matrix of one block, scaled by 1 + f for growing f.

``python -m tools.ladder [MODEL] [WEIGHT]`` prints, for each dtype, what every rung is called against the release without it.
The exit status is 1 if a rung is called other rounding although a smaller one was named.
"""

import sys
import tempfile
from pathlib import Path

from tests.e2e.planted_history import CONVERSIONS, planted_release, scaled
from tlbench import catalogue
from tlbench.checkpoints import ensure
from tlbench.environments.commits import Clone
from tlbench.grid import Cell, Dtype, Option, Wrapper
from tlbench.metrics.change import change
from tlbench.report.steps import state_in_words
from tlbench.steps.measuring import Laboratory

RUNGS = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
OPTIONS = (Option.UNPROCESSED, Option.ALL_OPTIONS)
WEIGHT = "blocks.0.mlp.W_in"
OF_MODEL = {"zoo-gpt2": "gpt2", "zoo-llama": "llama", "zoo-gemma2": "gemma", "zoo-bloom": "bloom", "zoo-phi": "phi"}


def main(model="zoo-gpt2", weight=WEIGHT):
    if model not in OF_MODEL:
        sys.exit(f"no conversion is known of {model}: choose one of {', '.join(OF_MODEL)}")
    ensure(catalogue.load().get(model), catalogue.load())
    with tempfile.TemporaryDirectory() as folder:
        history = planted_release(Path(folder))
        path = history.folder / CONVERSIONS / f"{OF_MODEL[model]}.py"
        healthy = path.read_text()
        for rung in RUNGS:
            history.convert(OF_MODEL[model], scaled(weight, f"(1 + {rung!r})"))
            history.commit(f"{rung:g}")
            path.write_text(healthy)
        sys.exit(climb(history, model))


def climb(history, model):
    """Print every rung's class. Returns the exit status."""
    cells = [Cell(model, dtype, option, Wrapper.HOOKED_TRANSFORMER) for dtype in Dtype for option in OPTIONS]
    laboratory = Laboratory(Clone(history.folder), lambda words: print(words, file=sys.stderr))
    try:
        before = laboratory.states(history.commits["Release"], cells)
        rungs = {rung: laboratory.states(history.commits[f"{rung:g}"], cells) for rung in RUNGS}
    finally:
        laboratory.close()
    status = 0
    for cell in cells:
        words = [change(before[cell], states[cell])[0] for states in rungs.values()]
        named = [word.is_for_the_worse for word in words]
        first = named.index(True) if any(named) else len(named)
        status |= not all(named[first:])
        smallest = f"the smallest that is named is 1 + {RUNGS[first]:g}" if any(named) else "none is named"
        print(f"{cell}: {smallest}; without a fault {state_in_words(before[cell])}")
        for rung, word, states in zip(RUNGS, words, rungs.values(), strict=True):
            print(f"  1 + {rung:g}: {word}: {state_in_words(states[cell])}")
    return status


if __name__ == "__main__":
    main(*sys.argv[1:])
