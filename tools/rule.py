"""What the rule of `tlbench steps` and `check` says of planted faults, of mere rounding, and of one release ten times.

``python -m tools.rule ladder [MODEL] [WEIGHT]``: one weight matrix scaled by 1 + f for growing f; the smallest that is
named, by dtype. Exit status 1 if a rung is called rounding although a smaller one was named.

``python -m tools.rule rounding``: commits that compute the same function in another order, over the zoo. Exit status 1 if
anything is called more than other rounding.

``python -m tools.rule again``: one release measured ten times in fresh processes, over the zoo. Exit status 1 if it moves.
"""

import itertools
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.e2e.planted_history import ATTENTION, CONVERSIONS, PACKAGE, SOFTMAX, planted_release, scaled
from tlbench import catalogue
from tlbench.catalogue import Source
from tlbench.checkpoints import ensure
from tlbench.environments.commits import Clone
from tlbench.grid import Cell, Dtype, Option, Wrapper
from tlbench.metrics.change import Change, change
from tlbench.report.steps import state_in_words
from tlbench.steps.measuring import Laboratory

RUNGS = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
OPTIONS = (Option.UNPROCESSED, Option.ALL_OPTIONS)
WEIGHT = "blocks.0.mlp.W_in"
OF_MODEL = {"zoo-gpt2": "gpt2", "zoo-llama": "llama", "zoo-gemma2": "gemma", "zoo-bloom": "bloom", "zoo-phi": "phi"}
"""The module that converts a model's weights."""
TIMES = 10

BY_HAND = """        attn_scores = attn_scores - attn_scores.max(dim=-1, keepdim=True).values
        pattern = attn_scores.exp() / attn_scores.exp().sum(dim=-1, keepdim=True)
"""
BY_ROW = """

def _by_row(forward):
    def by_row(self, x):
        return torch.cat([forward(self, row[None]) for row in x])

    return by_row


{name}.forward = _by_row({name}.forward)
"""
UNEMBEDDED = "batch_addmm(self.b_U, self.W_U, residual)"
SAME = (Change.SAME_BITS, Change.OTHER_ROUNDING, Change.STILL_FAILING, Change.STILL_NOT_APPLICABLE)


def ladder(history, model="zoo-gpt2", weight=WEIGHT):
    """Print the class of every rung. Returns the exit status."""
    if model not in OF_MODEL:
        sys.exit(f"no conversion is known of {model}: choose one of {', '.join(OF_MODEL)}")
    path = history.folder / CONVERSIONS / f"{OF_MODEL[model]}.py"
    healthy = path.read_text()
    for rung in RUNGS:
        history.convert(OF_MODEL[model], scaled(weight, f"(1 + {rung!r})"))
        history.commit(f"1 + {rung:g}")
        path.write_text(healthy)
    cells = grid([model])
    before, *rungs = measured(history, cells)
    status = 0
    for cell in cells:
        words = [change(before[cell], states[cell])[0] for states in rungs]
        named = [word.is_for_the_worse for word in words]
        first = named.index(True) if any(named) else len(named)
        status |= not all(named[first:])
        smallest = f"the smallest that is named is 1 + {RUNGS[first]:g}" if any(named) else "none is named"
        print(f"{cell}: {smallest}; without a fault {state_in_words(before[cell])}")
        for rung, word, states in zip(RUNGS, words, rungs, strict=True):
            print(f"  1 + {rung:g}: {word}: {state_in_words(states[cell])}")
    return status


def rounding(history):
    """Print how many cells each harmless commit moved, and how. Returns the exit status."""
    for name in ("mlp", "gated_mlp"):
        with (history.folder / PACKAGE / "components" / "mlps" / f"{name}.py").open("a") as file:
            file.write(BY_ROW.format(name={"mlp": "MLP", "gated_mlp": "GatedMLP"}[name]))
    history.commit("The batch in rows")
    history.replace(ATTENTION, SOFTMAX, BY_HAND)
    history.commit("The softmax by hand")
    flipped = UNEMBEDDED.replace("W_U", "W_U.flip(0)").replace("residual", "residual.flip(-1)")
    history.replace(f"{PACKAGE}/components/unembed.py", UNEMBEDDED, flipped)
    history.commit("The last sum in reverse")
    with (history.folder / PACKAGE / "__init__.py").open("a") as file:
        file.write("\nimport torch as _torch\n\n_torch.set_num_threads(1)\n")
    history.commit("One thread")
    cells = grid()
    states = measured(history, cells)
    return told(list(history.commits)[1:], states, cells)


def again(history):
    """Print how many cells of one release moved when it was measured again. Returns the exit status."""
    cells = grid()
    states = [state for _ in range(TIMES) for state in measured(history, cells, is_fresh=True)]
    return told([f"time {number}" for number in range(2, TIMES + 1)], states, cells)


def told(names, states, cells):
    """Print each commit's changes against the one before. Returns 1 if any is more than rounding."""
    status = 0
    for name, (before, after) in zip(names, itertools.pairwise(states), strict=True):
        words = {cell: change(before[cell], after[cell])[0] for cell in cells}
        counts = Counter(words.values())
        print(f"{name}: {', '.join(f'{count} {word}' for word, count in counts.items())}")
        for cell, word in words.items():
            if word not in SAME:
                status = 1
                print(f"  {cell}: {word}: {state_in_words(before[cell])} → {state_in_words(after[cell])}")
    return status


def grid(models=()):
    """Every dtype of models, without options and with all; by default of the zoo."""
    known = catalogue.load()
    entries = [known.get(name) for name in models] or [model for model in known.models if model.source is Source.ZOO]
    for model in entries:
        ensure(model, known)
    wrapper = Wrapper.HOOKED_TRANSFORMER
    return [Cell(model.name, dtype, option, wrapper) for model in entries for dtype in Dtype for option in OPTIONS]


def measured(history, cells, is_fresh=False):
    """The states of the cells at every commit of the history, in order."""
    laboratory = Laboratory(Clone(history.folder), lambda words: print(words, file=sys.stderr), is_fresh)
    try:
        return [laboratory.states(commit, cells) for commit in history.commits.values()]
    finally:
        laboratory.close()


def main(experiment="", *words):
    experiments = {"ladder": ladder, "rounding": rounding, "again": again}
    if experiment not in experiments:
        sys.exit(f"which experiment? one of {', '.join(experiments)}")
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(experiments[experiment](planted_release(Path(folder)), *words))


if __name__ == "__main__":
    main(*sys.argv[1:])
