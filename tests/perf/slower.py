"""Does the regression check find a slowdown of 10 %, and nothing where nothing changed?"""

import os
from unittest.mock import patch

from tests.e2e.slow_history import measure, slow_project
from tests.perf.bench import at_least, at_most
from tlbench.report.costs import THRESHOLD, changes, rows
from tlbench.report.stored import StoredResults

MODELS = ("zoo-gpt2", "zoo-llama")
REPEATS = 10
PLANTED = 0.1


def slowdowns_found(folder):
    """Unchanged repeats of one commit beside its first run, and then a commit in which one block sleeps."""
    home = folder / "home"
    home.mkdir()
    with patch.dict(os.environ, {"HOME": str(home)}):
        for model in MODELS:
            project_folder = folder / f"slow-{model}"
            project_folder.mkdir()
            project = slow_project(project_folder, PLANTED)
            first, *repeats = [measured(project, model, "plain") for _ in range(REPEATS + 1)]
            unchanged = [change(first, repeat) for repeat in repeats]
            slow = change(first, measured(project, model, "slow"))
            inside = sum(abs(one.factor - 1) <= first.half_width for one in unchanged)
            yield at_most(
                f"{model}: unchanged repeats of {REPEATS} flagged as slower",
                sum(one.is_slower(THRESHOLD) for one in unchanged),
                "repeats",
                0,
            )
            yield at_least(f"{model}: repeats of {REPEATS} inside the first run's interval", inside, "repeats", REPEATS - 1)
            yield at_least(f"{model}: growth measured where {PLANTED:.0%} is planted", 100 * (slow.factor - 1), "%", 5)
            yield at_least(f"{model}: the planted slowdown is flagged", float(slow.is_slower(THRESHOLD)), "", 1)


def measured(project, model, commit):
    """The one stored slowdown, measured now."""
    measure(project, model, commit)
    stored = StoredResults(project.folder / "asv.conf.json")
    (row,) = rows(stored, stored.commit(project.commits[commit]))
    return row


def change(earlier, later):
    (row,) = changes([earlier], [later])
    return row.change
