"""asv measures a slowdown, and it is stored with its interval. How small a slowdown is found belongs to `make perf`."""

import pytest

from tests.command import run
from tests.e2e.conftest import uv_cache
from tests.e2e.slow_history import measure, slow_project
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
        patch.setenv("UV_CACHE_DIR", uv_cache())
        patch.setenv("HOME", str(folder / "home"))
        made = slow_project(folder, share=0.5)
        measure(made, MODEL, "plain")
        yield made


def test_what_is_stored_is_the_ratio_and_its_interval(project):
    stored = StoredResults(project.folder / "asv.conf.json")
    (row,) = rows(stored, stored.commit("v0"))
    assert row.cell.model == MODEL
    assert 0 < row.half_width < 1
    assert 0.5 < row.ratio < 20


def test_a_commit_is_not_slower_than_itself(project):
    words = ("v0", "v0", "--all", "--format", "markdown", "--config", project.folder / "asv.conf.json")
    done = run("slower", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("**0 of 1 slowdowns")
