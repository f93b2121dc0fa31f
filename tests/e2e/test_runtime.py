"""A commit that is slower is found beside one that is not, on a machine that may be busy: half as slow again is planted."""

import pytest

from tests.e2e.slow_history import measure, slow_project, slower
from tlbench import catalogue
from tlbench.checkpoints import ensure
from tlbench.paths import CACHE_VARIABLE, cache_dir
from tlbench.report.slowdowns import rows
from tlbench.report.stored import StoredResults

MODEL = "zoo-gpt2"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    models = catalogue.load()
    ensure(models.get(MODEL), models)
    folder = tmp_path_factory.mktemp("slow")
    (folder / "home").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(cache_dir()))  # which lies in the user's own home
        patch.setenv("HOME", str(folder / "home"))
        made = slow_project(folder, share=0.5)
        measure(made, MODEL, "plain", "documented", "slow")
        yield made


def test_a_slower_commit_is_flagged_with_exit_status_1(project):
    status, said = slower(project, "v1", "v2")
    assert status == 1, said
    assert said.startswith("**1 of 1 slowdowns grew from v1 to v2")


def test_a_change_of_documentation_is_not(project):
    status, said = slower(project, "v0", "v1")
    assert status == 0, said
    assert said.startswith("**0 of 1 slowdowns")


def test_what_is_stored_is_the_ratio_and_its_interval(project):
    stored = StoredResults(project.folder / "asv.conf.json")
    plain, documented, slow = (rows(stored, commit)[0] for commit in stored.commits)
    assert plain.cell.model == MODEL
    assert 0 < plain.half_width < 1
    assert 1.2 < slow.ratio / documented.ratio < 2
