"""asv measures a slowdown, and it is stored with its interval. How small a slowdown is found belongs to `make perf`."""

import pytest

from tests.command import run
from tests.e2e.slow_history import measure
from tlbench.report.slowdowns import rows
from tlbench.report.stored import StoredResults

MODEL = "zoo-gpt2"
COMMIT = "v0"


@pytest.fixture(scope="module")
def timed(project):
    measure(project, MODEL, "good")
    return project


def test_what_is_stored_is_the_ratio_and_its_interval(timed):
    stored = StoredResults(timed.folder / "asv.conf.json")
    (row,) = rows(stored, stored.commit(COMMIT))
    assert row.cell.model == MODEL
    assert 0 < row.half_width < 1
    assert row.ratio > 0


def test_a_commit_is_not_slower_than_itself(timed):
    words = (COMMIT, COMMIT, "--all", "--format", "markdown", "--config", timed.folder / "asv.conf.json")
    done = run("slower", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("**0 of 1 slowdowns")
