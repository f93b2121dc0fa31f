"""Does the regression check find a slowdown of 10 %, and nothing where nothing changed?"""

import math
import os
import statistics
import sys
from itertools import permutations
from unittest.mock import patch

from tests.e2e.slow_history import measure, slow_project
from tests.perf.bench import at_least, at_most
from tlbench.report.costs import THRESHOLD, rows
from tlbench.report.stored import StoredResults
from tlbench.runtime.paired import T_99, Change, is_inside

MODELS = ("zoo-gpt2", "zoo-llama")
REPEATS = 10
PLANTED = 0.1


def slowdowns_found(folder):
    """Unchanged repeats of one commit beside its first run, and then a commit in which one block sleeps."""
    home, history = folder / "home", folder / "slow"
    home.mkdir()
    history.mkdir()
    with patch.dict(os.environ, {"HOME": str(home)}):
        project = slow_project(history, PLANTED)
        first, *repeats = [measured(project, "plain") for _ in range(REPEATS + 1)]
        slow = measured(project, "slow")
    for model in MODELS:
        unchanged = [Change.between(first[model], repeat[model]) for repeat in repeats]
        planted = Change.between(first[model], slow[model])
        runs = [run[model] for run in (first, *repeats)]
        ordered = list(permutations(runs, 2))
        inside = 100 * sum(is_inside(one, other) for one, other in ordered) / len(ordered)
        flagged = sum(one.is_slower(THRESHOLD) for one in unchanged)
        yield at_most(f"{model}: unchanged repeats of {REPEATS} flagged as slower", flagged, "repeats", 0)
        yield at_least(f"{model}: of all pairs of unchanged runs, the one inside the other's interval", inside, "%", 95)
        yield at_most(f"{model}: what unchanged runs differ by, over what their intervals suppose", excess(runs), "x", 1.5)
        yield at_least(f"{model}: growth measured where {PLANTED:.0%} is planted", 100 * (planted.factor - 1), "%", 5)
        yield at_least(f"{model}: the planted slowdown is flagged", float(planted.is_slower(THRESHOLD)), "", 1)


def excess(runs):
    """The standard deviation of the runs' logarithms, over that of a mean which each run's own interval supposes.

    A half-width is t s sqrt(2/n), and such a mean has s / sqrt(n).
    """
    print([(round(run.ratio, 5), round(run.half_width, 5)) for run in runs], file=sys.stderr)
    supposed = math.sqrt(statistics.fmean((run.half_width / T_99) ** 2 / 2 for run in runs))
    return statistics.stdev(math.log(run.ratio) for run in runs) / supposed


def measured(project, commit):
    """The stored slowdowns by model, measured now by one run of asv."""
    measure(project, f"({'|'.join(MODELS)})", commit)
    stored = StoredResults(project.folder / "asv.conf.json")
    return {row.cell.model: row for row in rows(stored, stored.commit(project.commits[commit]))}
