"""What decides a figure is found from the imports: code by code, library by library."""

import shutil
from importlib.metadata import version

import pytest

from tlbench.environments import sources
from tlbench.paths import package_dir
from tlbench.questions.registry import QUESTIONS

FUTURE = "from __future__ import annotations"


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the package that may be edited; digests are of that."""
    folder = tmp_path / "tlbench"
    shutil.copytree(package_dir(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sources, "package_dir", lambda: folder)
    forget()
    yield folder
    monkeypatch.undo()
    forget()


@pytest.fixture(scope="module")
def before():
    """The digest of the package as it is."""
    forget()
    return sources.code_digest("tlbench.questions.accuracy")


def forget():
    for function in (sources.code_digest, sources.modules_behind, sources._read, sources._file):
        function.cache_clear()


def edited(folder, module, old, new):
    path = folder / module
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    forget()
    return sources.code_digest("tlbench.questions.accuracy")


@pytest.mark.parametrize(
    "module", ["checkpoints/store.py", "device.py", "catalogue.py", "metrics/closeness.py", "lens/hooked.py"]
)
def test_code_that_a_measurement_imports_is_part_of_its_key(before, copied, module):
    assert edited(copied, module, FUTURE, f"{FUTURE}\nMORE = 1") != before


@pytest.mark.parametrize("module", ["report/table.py", "cli/read.py", "report/advice.py", "questions/answers.py"])
def test_code_that_it_does_not_import_is_not(before, copied, module):
    assert edited(copied, module, FUTURE, f"{FUTURE}\nMORE = 1") == before


def test_comments_docstrings_and_line_breaks_are_not_code_and_a_constant_is(before, copied):
    with_prose = edited(copied, "metrics/figures.py", "from __future__", "# why\n\n\nfrom __future__")
    assert with_prose == before
    assert edited(copied, "metrics/verdict.py", "One word per cell", "A single word per cell") == before
    assert edited(copied, "metrics/figures.py", "Dtype.FLOAT32: 2.0, Dtype", "Dtype.FLOAT32: 2.5, Dtype") != before


def test_every_question_has_a_key_and_looks_only_as_far_as_it_imports():
    behind = {name: sources.modules_behind(question.module) for name, question in QUESTIONS.items()}
    assert all("tlbench.lens.bridge" in modules for name, modules in behind.items() if name not in ("reference", "import"))
    assert "tlbench.questions.hooks" in behind["hooks"]
    assert "tlbench.questions.hooks" not in behind["accuracy"]
    assert not any(module.startswith(("tlbench.cli", "tlbench.report")) for modules in behind.values() for module in modules)


def test_libraries_are_those_that_are_required_however_far_down():
    found = sources.libraries("torch", "transformers")
    assert found["torch"] == version("torch")
    assert found["tokenizers"] == version("tokenizers")
    assert "mpmath" in found  # of sympy, of torch
    assert "asv" not in found
    assert sources.libraries("no-such-package") == {}
