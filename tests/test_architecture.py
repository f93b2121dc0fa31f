"""Imports run one way, as pyproject.toml draws it, and one that runs back is found."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINT = Path(sys.executable).with_name("lint-imports")
BACK = {
    "reference/elsewhere.py": "from tlbench.questions import answers",
    "metrics/figures.py": "from tlbench.records import measurement",
    "records/outcome.py": "import torch",
    "questions/depth.py": "import transformer_lens",
}


def lint(folder):
    command = [LINT, "--no-cache", "--config", ROOT / "pyproject.toml"]
    return subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False)


def test_imports_run_one_way():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("module", BACK)
def test_an_import_that_runs_back_is_found(tmp_path, module):
    shutil.copytree(ROOT / "tlbench", tmp_path / "tlbench", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "tlbench" / module
    path.write_text(f"{path.read_text()}\n{BACK[module]}\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    name = f"tlbench.{module.removesuffix('.py').replace('/', '.')}"
    assert f"{name} is not allowed to import" in done.stdout or f"{name} -> " in done.stdout, done.stdout


def test_a_command_leaves_torch_to_the_servers_that_measure():
    """Importing it takes seconds, and they import it meanwhile."""
    code = "import sys, tlbench.cli; print({'torch', 'transformers'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
