"""`tlbench cache` lists all that is kept, and deletes what is no longer used and nothing else."""

import csv
import io
import os
import re
import time

import pytest

from tests.command import run
from tests.conftest import ROOT
from tlbench.cli.cache import DAY_S, SINGLE_FILES, WHOLE_FOLDERS
from tlbench.paths import cache_dir


def put(cache, name, days):
    path = cache / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 5000)
    then = time.time() - days * DAY_S
    os.utime(path, (then, then))
    return path


@pytest.fixture
def kept(own_cache):
    """Files by name, each with how many days ago it was last used."""
    days = {
        "cells/ab/abc.json": 40,
        "cells/cd/cde.json": 2,
        "golden/zoo-gpt2.safetensors": 40,
        "envs/tl-2.18.0/lib/old.py": 90,
        "envs/tl-2.18.0/pyvenv.cfg": 2,
        "envs/tl-1.19.0/pyvenv.cfg": 90,
        "envs/tl-1.19.0.lock": 90,
        "locks/zoo-gpt2.lock": 90,
    }
    return {name: put(own_cache, name, age) for name, age in days.items()}


def test_everything_that_is_kept_is_listed_with_its_size(kept):
    done = run("cache", "--format", "csv")
    lines = {line["folder"]: line for line in csv.DictReader(io.StringIO(done.stdout))}
    assert {name: int(line["entries"]) for name, line in lines.items()} == {"cells": 2, "envs": 2, "golden": 1}
    assert float(lines["cells"]["MiB"]) == 2 * 8192 / 2**20  # two blocks of the disk each
    assert float(lines["golden"]["days unused"]) == pytest.approx(40, abs=0.01)


def test_what_the_installer_shares_with_its_own_cache_is_not_counted_since_deleting_it_frees_nothing(kept, own_cache):
    os.link(kept["cells/ab/abc.json"], own_cache / "another-name")
    (line,) = [
        line for line in csv.DictReader(io.StringIO(run("cache", "--format", "csv").stdout)) if line["folder"] == "cells"
    ]
    assert float(line["MiB"]) == 8192 / 2**20


def test_what_was_used_lately_stays_and_so_do_locks_and_all_of_an_environment_in_use(kept):
    done = run("cache", "--unused-days", 30)
    assert done.stdout.startswith("deleted 3 of 5 entries")
    gone = {name for name, path in kept.items() if not path.exists()}
    assert gone == {"cells/ab/abc.json", "golden/zoo-gpt2.safetensors", "envs/tl-1.19.0/pyvenv.cfg"}


@pytest.mark.parametrize("days", ["0", "0.5", "-3", "nan"])
def test_what_a_run_may_be_using_is_never_deleted(kept, days):
    done = run("cache", "--unused-days", days)
    assert (done.returncode, done.stdout) == (2, "")
    assert "1 is the least" in done.stderr
    assert all(path.exists() for path in kept.values())


def test_an_interrupted_deletion_leaves_no_half_environment_and_the_next_one_finishes_it(kept, own_cache, monkeypatch):
    environment = kept["envs/tl-1.19.0/pyvenv.cfg"].parent
    with monkeypatch.context() as patch:
        patch.setattr(
            "tlbench.cli.cache.shutil.rmtree", lambda path: (_ for _ in ()).throw(OSError(5, "Input/output error"))
        )
        done = run("cache", "--unused-days", 30)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Input/output error" in done.stderr
    assert not environment.exists()
    assert run("cache", "--unused-days", 30).returncode == 0
    assert {path.name for path in (own_cache / "envs").iterdir()} == {"tl-2.18.0", "tl-1.19.0.lock"}


def test_an_empty_cache_is_no_error(own_cache):
    assert run("cache").returncode == 0


def test_every_folder_that_is_made_in_the_cache_is_known():
    source = "".join(path.read_text() for path in (ROOT / "tlbench").rglob("*.py"))
    named = set(re.findall(r'(?:cache_dir\(\) / |result_path\()"([\w-]+)"', source))
    assert {"cells", "inside"} <= named
    made = {path.name for path in cache_dir().iterdir()} if cache_dir().is_dir() else set()  # by other tests
    assert named | made <= {*WHOLE_FOLDERS, *SINGLE_FILES, "locks"}
