"""Fixtures that many tests share. Checkpoints go to the machine's own cache unless a test takes one of its own."""

import os
import re
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # a process for each core: torch's threads would wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from tlbench.arithmetic import roots  # before torch, which it brings into the shared arithmetic

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

roots.install_square_root()  # else the first test that measures would change what the later ones compute

ROOT = Path(__file__).resolve().parents[1]


def pytest_xdist_make_scheduler(config, log):
    """Run a module's tests in one process, where they share fixtures, and all that use test_asv's history in one too.

    ``--dist loadgroup`` is made for this, but xdist 3.8 does not see its marks under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByModule(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return re.sub("e2e/test_runtime", "e2e/test_asv", nodeid.split("::")[0])

    return ByModule(config, log)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache folder, for this test alone."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TLBENCH_CACHE", str(folder))
    return folder


@pytest.fixture
def write_catalogue(tmp_path, monkeypatch):
    """Write a catalogue's text to a file of its own, make it the one in use, and load it."""
    from tlbench import catalogue

    def write(text):
        path = tmp_path / "models.toml"
        path.write_text(text)
        catalogue._load.cache_clear()
        monkeypatch.setenv("TLBENCH_CATALOGUE", str(path))
        return catalogue.load()

    yield write
    catalogue._load.cache_clear()
