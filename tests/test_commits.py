"""The table of commits: which build, install and import, with shared work and a reason for each failure."""

import json
import sys
from pathlib import Path

import pytest

from tests.test_environments import git
from tests.test_installer import wheel
from tlbench.environments import installer, workshop
from tlbench.environments.provenance import RECORD_NAME
from tools import commits

pytestmark = pytest.mark.slow

CLASS = "class HookedTransformer: pass\n"
VERSIONS = [
    ("one", CLASS, "1"),
    ("two", CLASS + "# other code", "1"),
    ("three", CLASS, "1"),
    ("four", "import nothing.of_the_kind", "1"),
    ("five", "x = 1", "1"),
    ("six", CLASS, "does not build"),
    ("seven", CLASS + "import os; os.abort()", "1"),
]


@pytest.fixture
def history(tmp_path):
    """A repository with these versions of a package, each in a commit."""
    folder = tmp_path / "history"
    (folder / "transformer_lens").mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    for subject, code, build in VERSIONS:
        (folder / "transformer_lens" / "__init__.py").write_text(code)
        (folder / "pyproject.toml").write_text(build)
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--allow-empty", f"--message={subject}")
    return folder


@pytest.fixture
def steps(monkeypatch, own_cache):
    """Which builds and installations were done. The environment is this process's."""
    done = []

    def build(source, wheels):
        done.append("build")
        if (source / "pyproject.toml").read_text() != "1":
            raise installer.InstallError("building failed:\n  a backend\n  does not like it")
        wheels.mkdir()
        wheel(wheels, ["transformers>=5.9"])

    def create(folder, _):
        """An environment that uses this one's packages."""
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").symlink_to(sys.executable)
        (folder / "pyvenv.cfg").write_text((Path(sys.prefix) / "pyvenv.cfg").read_text())
        (folder / "lib").symlink_to(Path(sys.prefix) / "lib")

    def install(made, _, python):
        done.append("install")
        record = {"era": installer.era_of(made), "packages": []}
        (Path(python).parents[1] / RECORD_NAME).write_text(json.dumps(record))

    monkeypatch.setattr(installer, "build", build)
    monkeypatch.setattr(installer, "install", install)
    monkeypatch.setattr(workshop, "create", create)
    return done


def run(capsys, *words):
    status = commits.main([*map(str, words)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_each_commit_is_in_the_table_with_what_it_does_or_why_not(history, steps, capsys):
    status, table, _ = run(capsys, history, "--since", "main~6")
    assert status == 1
    assert "3 of 7 commits can be measured" in table
    rows = {cells[3]: cells[4:-1] for line in table.splitlines() if len(cells := [c.strip() for c in line.split("|")]) > 8}
    for measured in ("one", "two", "three"):
        assert rows[measured] == ["era5", "yes", "yes", "HookedTransformer", ""]
    assert rows["four"][:4] == ["era5", "yes", "yes", "no"]
    assert "ModuleNotFoundError: No module named 'nothing'" in rows["four"][4]
    assert rows["five"] == ["era5", "yes", "yes", "no", "it has none of the classes"]
    assert rows["six"] == ["", "no", "no", "no", "building failed: a backend does not like it"]
    assert rows["seven"][3] == "no"
    assert "did not start" in rows["seven"][4]
    assert steps == ["build", "install", "build"]


def test_what_can_be_measured_is_not_tried_again_and_what_cannot_is(history, steps, capsys):
    first = run(capsys, history, "--since", "main~6", "--until", "main~3")
    del steps[:]
    assert run(capsys, history, "--since", "main~6", "--until", "main~3")[:2] == first[:2]
    assert steps == [], "commit four's build and environment are kept"


def test_a_reference_that_is_not_there_is_told(history, steps, capsys):
    status, _, told = run(capsys, history, "--since", "v9.9.9")
    assert status == 2
    assert "tlbench: no commit 'v9.9.9'" in told
