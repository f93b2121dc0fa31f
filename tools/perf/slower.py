"""Does the regression check find a slowdown of 10 %, and nothing where nothing changed?"""

import os
from unittest.mock import patch

from tests.e2e.slow_history import measure, slow_project
from tlbench.metrics.paired import Change, is_inside
from tlbench.report.slowdowns import THRESHOLD, rows
from tlbench.report.stored import StoredResults
from tools.perf.bench import at_least, at_most

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
        inside = sum(is_inside(first[model], repeat[model]) for repeat in repeats)
        flagged = sum(one.is_slower(THRESHOLD) for one in unchanged)
        yield at_most(f"{model}: unchanged repeats of {REPEATS} flagged as slower", flagged, "repeats", 0)
        yield at_least(f"{model}: repeats of {REPEATS} inside the first run's interval", inside, "repeats", REPEATS - 1)
        yield at_least(f"{model}: growth measured where {PLANTED:.0%} is planted", 100 * (planted.factor - 1), "%", 5)
        yield at_least(f"{model}: the planted slowdown is flagged", float(planted.is_slower(THRESHOLD)), "", 1)


def measured(project, commit):
    """The stored slowdowns by model, measured now by one run of asv."""
    measure(project, f"({'|'.join(MODELS)})", commit)
    stored = StoredResults(project.folder / "asv.conf.json")
    return {row.cell.model: row for row in rows(stored, stored.commit(project.commits[commit]))}
