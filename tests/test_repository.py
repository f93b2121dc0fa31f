"""What a contributor or GitHub reads: workflows, forms, metadata, and the recipes of CONTRIBUTING.md."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from tests.conftest import ROOT
from tests.e2e import conftest as end_to_end
from tlbench import catalogue
from tlbench.cli import app, common
from tlbench.grid import Dtype, Option, Wrapper

BIN = Path(sys.executable).parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORM = GITHUB / "ISSUE_TEMPLATE" / "this-cell-is-wrong.yml"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def run(*words):
    """What a command prints, once it has succeeded."""
    done = subprocess.run([str(word) for word in words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def steps(path):
    return [step for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]]


# GitHub --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("custom.github-workflows-require-timeout", WORKFLOWS),
        ("vendor.github-issue-forms", [FORM]),
        ("vendor.github-issue-config", [GITHUB / "ISSUE_TEMPLATE" / "config.yml"]),
        ("vendor.citation-file-format", [ROOT / "CITATION.cff"]),
    ],
)
def test_what_github_reads_follows_its_schema(schema, files):
    run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *files)


def test_an_audit_of_the_workflows_finds_nothing():
    run(BIN / "zizmor", "--offline", "--no-progress", "--persona", "pedantic", "--strict-collection", ROOT)


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="actionlint is not installed: PyPI has no wheel of it")
def test_actionlint_finds_nothing():
    run("actionlint", *WORKFLOWS)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_an_action_is_pinned_by_its_commit_with_the_version_beside_it(path):
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line) for line in used)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_only_calls_make(path):
    commands = [step["run"] for step in steps(path) if "run" in step]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert commands
    assert all(command.removeprefix("make ") in targets for command in commands)


def test_the_form_offers_the_words_of_the_grid():
    offered = {field["id"]: field["attributes"]["options"] for field in fields() if field["type"] == "dropdown"}
    assert offered == {"dtype": [*Dtype], "option": [*Option], "wrapper": [*Wrapper]}


def test_the_form_asks_only_for_commands_that_exist():
    described = " ".join(field["attributes"].get("description", "") for field in fields())
    asked = re.findall(r"tlbench ([a-z]+) [^`;]*?(--json)?[`;]", described)
    assert {name for name, _ in asked} == {"env", "verify", "arithmetic"}
    for name, option in asked:
        assert option in CliRunner().invoke(app, [name, "--help"]).output


def fields():
    return [field for field in yaml.safe_load(FORM.read_text())["body"] if field["type"] != "markdown"]


# The project's metadata ----------------------------------------------------------------------------------------------


def test_there_is_one_version():
    version = PROJECT["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert CliRunner().invoke(app, ["--version"]).output == f"tlbench {version}\n"
    headings = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["Unreleased", version]


def test_a_checkout_that_is_not_installed_knows_its_version(monkeypatch):
    def not_installed(name):
        raise common.PackageNotFoundError(name)

    monkeypatch.setattr(common, "installed_version", not_installed)
    assert common.version() == PROJECT["project"]["version"]


def test_every_dependency_is_locked_once():
    locked = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines()]
    names = [canonicalize_name(one.name) for one in locked]
    wanted = [Requirement(line) for line in (*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"])]
    assert len(names) == len(set(names))
    assert {canonicalize_name(one.name) for one in wanted} <= set(names)
    assert all(len(one.specifier) == 1 and str(one.specifier).startswith("==") for one in locked)


def test_types_are_declared_to_those_who_install_us():
    assert (ROOT / "tlbench" / "py.typed").is_file()


# Layers of checks ----------------------------------------------------------------------------------------------------


def test_only_tests_of_the_folder_are_end_to_end():
    def item(path):
        return SimpleNamespace(path=path, marks=[])

    items = [item(end_to_end.HERE / "test_asv.py"), item(ROOT / "tests" / "test_grid.py")]
    for one in items:
        one.add_marker = lambda mark, one=one: one.marks.append(mark.name)
    end_to_end.pytest_collection_modifyitems(items)
    assert [one.marks for one in items] == [["e2e"], []]


# CONTRIBUTING.md -----------------------------------------------------------------------------------------------------

# What a recipe of CONTRIBUTING.md has its reader create.
CREATED = {
    "benchmarks/causality.py",
    "tests/test_causality.py",
    "tlbench/environments/eras/era6.lock.txt",
    "tlbench/environments/eras/era6.txt",
    "tlbench/questions/causality.py",
    "tlbench/records/causality.py",
}


def test_the_files_that_a_recipe_names_exist():
    named = set(re.findall(r"`((?:tlbench|benchmarks|tests|docs|tools|asv_plugins|results|releases)/[\w./-]+\.\w+)`", CONTRIBUTING))
    assert named >= CREATED
    assert not [name for name in named - CREATED if not (ROOT / name).is_file()]
    assert not [name for name in CREATED if (ROOT / name).exists()]


def test_the_targets_that_contributing_names_exist():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`(?:[A-Z_]+=\S+ )*make ([a-z]+)", CONTRIBUTING)) <= set(targets)


def test_snippets_of_python_compile():
    snippets = re.findall(r"```python\n(.*?)```", re.sub(r"^   ", "", CONTRIBUTING, flags=re.MULTILINE), re.DOTALL)
    assert snippets
    for snippet in snippets:
        compile(snippet, "CONTRIBUTING.md", "exec")


def test_the_entry_of_the_recipe_is_a_model(write_catalogue):
    entries = re.findall(r"```toml\n(.*?)```", re.sub(r"^   ", "", CONTRIBUTING, flags=re.MULTILINE), re.DOTALL)
    assert entries
    known = catalogue.load().names()
    for entry in entries:
        (model,) = write_catalogue(entry).models
        assert model.name not in known
