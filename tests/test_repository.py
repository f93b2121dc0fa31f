"""What a contributor or GitHub reads: workflows, forms, metadata, and the recipes of CONTRIBUTING.md."""

import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from dataclasses import dataclass
from importlib.metadata import metadata, version
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from typer.main import get_command
from typer.testing import CliRunner

from tests.conftest import ROOT
from tests.e2e import conftest as end_to_end
from tlbench.cli import PANELS, app, common
from tlbench.grid import Dtype, Option, Wrapper

BIN = Path(sys.executable).parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
ACTIONS = sorted((GITHUB / "actions").glob("*/action.yml"))
FORM = GITHUB / "ISSUE_TEMPLATE" / "this-cell-is-wrong.yml"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PYTEST = (sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider")


def run(*words, cwd=ROOT):
    """What a command prints, once it has succeeded."""
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def steps(path):
    read = yaml.safe_load(path.read_text())
    jobs = [read["runs"]] if "runs" in read else read["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


# GitHub --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("custom.github-workflows-require-timeout", WORKFLOWS),
        ("vendor.github-actions", ACTIONS),
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


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: path.name)
def test_an_action_is_pinned_by_its_commit_with_the_version_beside_it(path):
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line) for line in used)


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: path.name)
def test_a_workflow_only_calls_make_or_a_script_that_the_tests_run(path):
    commands = [step["run"] for step in steps(path) if "run" in step]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    tested = (ROOT / "tests" / "test_scripts.py").read_text()
    assert commands
    for command in commands:
        if command.startswith("make "):
            assert command.split()[1] in targets
        else:
            script = re.fullmatch(r"(?:(?:tlbench/)?\.github|\$GITHUB_ACTION_PATH/\.\./\.\.)/scripts/([\w-]+)", command)[1]
            assert (GITHUB / "scripts" / script).stat().st_mode & 0o111
            assert f'"{script}"' in tested


ADOPTED = re.findall(r"```yaml\n(# (\.github/\S+)\n.*?)```", (ROOT / "docs" / "adoption.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("text", [text for text, _ in ADOPTED], ids=[name for _, name in ADOPTED])
def test_what_transformer_lens_would_paste_is_a_workflow_with_the_rights_and_inputs_of_the_called_one(text, tmp_path):
    (tmp_path / "workflow.yml").write_text(text)
    run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", tmp_path / "workflow.yml")
    ((_, caller),) = yaml.safe_load(text)["jobs"].items()
    path = re.fullmatch(r"OWNER/tlbench/(\.github/workflows/[\w-]+\.yml)@COMMIT", caller["uses"])[1]
    called = yaml.safe_load((ROOT / path).read_text())
    ((_, job),) = called["jobs"].items()
    assert caller["permissions"] == job["permissions"]
    inputs = called[True]["workflow_call"]["inputs"]  # YAML 1.1 reads `on` as a boolean
    assert {name for name, one in inputs.items() if one.get("required")} <= caller["with"].keys() <= inputs.keys()


def test_the_form_offers_the_words_of_the_grid():
    offered = {field["id"]: field["attributes"]["options"] for field in fields() if field["type"] == "dropdown"}
    assert offered == {"dtype": [*Dtype], "option": [*Option], "wrapper": [*Wrapper]}


def test_the_form_asks_only_for_commands_that_exist():
    described = " ".join(field["attributes"].get("description", "") for field in fields())
    asked = re.findall(r"tlbench ([a-z]+)([^`;]*)", described)
    assert {name for name, _ in asked} == {"env", "verify", "arithmetic"}
    for name, words in asked:
        known = {option for one in get_command(app).commands[name].params for option in one.opts}
        assert set(re.findall(r"--[a-z-]+", words)) <= known


def fields():
    return [field for field in yaml.safe_load(FORM.read_text())["body"] if field["type"] != "markdown"]


def test_the_help_answers_the_questions_of_the_first_screen_and_every_command_has_its_place():
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"}).output
    first_screen = (ROOT / "README.md").read_text().split("## ")[0]
    for words in ("status 4.3.0", "advise", "verify", "where", "verify MODEL --tl SOURCE_TREE", "cd releases"):
        assert words in shown
    assert "tlbench status 4.3.0" in first_screen
    panels = re.split(r"╭─ (.+?) ─+╮", shown)
    found = {
        title: re.findall(r"^│ ([a-z]+) ", text, re.MULTILINE)
        for title, text in zip(panels[1::2], panels[2::2], strict=True)
    }
    assert {title: found[title] for title in PANELS} == {title: [*names] for title, names in PANELS.items()}
    commands = {name for name, command in get_command(app).commands.items() if not command.hidden}
    assert {name for names in found.values() for name in names} == commands


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
    groups = PROJECT["dependency-groups"]
    developers = [line for line in groups["dev"] if line != {"include-group": "sweep"}]
    wanted = [Requirement(line) for line in (*PROJECT["project"]["dependencies"], *developers, *groups["sweep"])]
    assert len(names) == len(set(names))
    assert {canonicalize_name(one.name) for one in wanted} <= set(names)
    assert all(len(one.specifier) == 1 and str(one.specifier).startswith("==") for one in locked)


def test_types_are_declared_to_those_who_install_us():
    assert (ROOT / "tlbench" / "py.typed").is_file()


# Layers of checks ----------------------------------------------------------------------------------------------------


def test_only_tests_of_the_folder_are_end_to_end_and_they_come_first():
    def item(path):
        return SimpleNamespace(path=path, marks=[])

    items = [item(ROOT / "tests" / "test_grid.py"), item(end_to_end.HERE / "test_asv.py")]
    for one in items:
        one.add_marker = lambda mark, one=one: one.marks.append(mark.name)
    end_to_end.pytest_collection_modifyitems(items)
    assert [one.marks for one in items] == [["e2e"], []]


# Installing ----------------------------------------------------------------------------------------------------------


def test_every_locked_package_runs_on_the_first_python_3_11():
    """Debian's is 3.11.2, while a lock resolved on a newer one may ask for more."""
    pins = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines())
    needed = {name: metadata(name).get("Requires-Python") or "" for name in pins}
    assert [name for name, spec in needed.items() if not SpecifierSet(spec).contains("3.11.0")] == []
    assert {name for name in pins if version(name).split("+")[0] != pins[name].split("+")[0]} == set()


@pytest.mark.slow
def test_the_wheel_has_the_locks_and_the_catalogue(tmp_path):
    """Outside a checkout there is nothing else to read them from."""
    command = [sys.executable, "-m", "uv", "build", "--quiet", "--out-dir", tmp_path, ROOT]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in ("requirements.lock", "catalogue.toml", "catalogue.lock.json", "environments/eras/era4.lock.txt"):
            source = ROOT / name if name == "requirements.lock" else ROOT / "tlbench" / name
            assert archive.read(f"tlbench/{name}") == source.read_bytes()


def test_no_environment_variable_and_no_file_is_evaluated_as_code():
    code = re.compile(r"(?<![.\w])(eval|exec)\(")
    for folder in ("asv_plugins", "benchmarks", "tlbench", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not code.search(path.read_text()), path


def test_no_committed_file_is_a_process_s_empty_lock():
    listed = subprocess.run(["git", "ls-files", "*.lock"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [name for name in listed.stdout.split() if not (ROOT / name).stat().st_size] == []


# CONTRIBUTING.md -----------------------------------------------------------------------------------------------------

PATH = r"`((?:tlbench|benchmarks|tests|docs|tools|asv_plugins|results|releases)/[\w./-]+\.\w+)`"
# What a reader creates who follows the recipes.
CREATED = {
    "benchmarks/foresight.py",
    "tests/test_foresight.py",
    "tlbench/environments/eras/era6.lock.txt",
    "tlbench/environments/eras/era6.txt",
    "tlbench/questions/foresight.py",
    "tlbench/records/foresight.py",
}
COPIED = ("asv_plugins", "benchmarks", "tests", "tlbench", "tools", "pyproject.toml", "requirements.lock")


@dataclass(frozen=True)
class Snippet:
    """A block of code in a recipe: its language, the file that was named last before it, and its text."""

    language: str
    path: str
    text: str

    def sides(self):
        """Of a diff: what is there before it, and what is there after it."""
        lines = [line if line else " " for line in self.text.splitlines()]
        return ("".join(f"{line[1:]}\n" for line in lines if line[0] in signs) for signs in (" -", " +"))

    def apply(self, root):
        file = root / self.path
        if self.language == "sh":
            subprocess.run(self.text, shell=True, cwd=root, check=True)
        elif self.language == "diff":
            before, after = self.sides()
            file.write_text(file.read_text().replace(before, after))
        elif file.exists():
            space = "\n\n" if self.language == "python" else "\n"
            file.write_text(file.read_text() + space + self.text)
        else:
            file.write_text(self.text)


def snippets():
    """Every snippet of the recipes, in order."""
    found, path = [], ""
    for part in re.finditer(rf"{PATH}|^( *)```(\w+)\n(.*?)^\2```$", CONTRIBUTING, re.MULTILINE | re.DOTALL):
        if part[1]:
            path = part[1]
        else:
            found.append(Snippet(part[3], path, textwrap.dedent(part[4])))
    return found


def test_the_files_that_contributing_names_exist():
    named = set(re.findall(PATH, CONTRIBUTING))
    assert named >= CREATED
    assert not [name for name in named - CREATED if not (ROOT / name).is_file()]


def test_the_targets_that_contributing_names_exist():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z]+)", CONTRIBUTING)) <= set(targets)


@pytest.mark.parametrize("snippet", [one for one in snippets() if one.language == "diff"], ids=lambda one: one.path)
def test_what_a_recipe_changes_is_there_once(snippet):
    before, after = snippet.sides()
    assert before != after
    source = ROOT / snippet.path
    if snippet.path.endswith("era6.txt"):
        source = source.with_name("era5.txt")
    text = source.read_text()
    is_followed = after in text
    assert is_followed or text.count(before) == 1, f"{snippet.path} has changed: correct the recipe in CONTRIBUTING.md"


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A copy of the repository, in which every recipe was followed to the letter."""
    if here := [name for name in CREATED if (ROOT / name).exists()]:
        pytest.skip(f"a recipe was followed here already: {here[0]} exists")
    root = tmp_path_factory.mktemp("followed")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name)
    if (ROOT / ".mypy_cache").is_dir():
        shutil.copytree(ROOT / ".mypy_cache", root / ".mypy_cache")
    for snippet in snippets():
        snippet.apply(root)
    return root


@pytest.mark.slow
def test_a_recipe_followed_to_the_letter_leaves_clean_code(followed):
    files = {one.path for one in snippets() if one.path.endswith(".py")}
    run(BIN / "ruff", "check", *files, cwd=followed)
    run(BIN / "ruff", "format", "--check", *files, cwd=followed)
    run(BIN / "mypy", *(file for file in files if file.startswith("tlbench/")), cwd=followed)


@pytest.mark.slow
def test_a_recipe_followed_to_the_letter_passes_its_tests(followed):
    files = ("foresight", "golden_error", "streaming", "answers", "benchmarks", "installer", "catalogue", "sources")
    # The new era's lock is made from PyPI.
    run(*PYTEST, "-k", "not a_lock_pins", *(f"tests/test_{name}.py" for name in files), cwd=followed)


@pytest.mark.slow
def test_a_new_architecture_is_made_pinned_and_loaded_by_huggingface(followed, monkeypatch):
    monkeypatch.setenv("TLBENCH_CACHE", str(followed / "cache"))
    run(sys.executable, "-m", "tlbench.cli", "checkpoints", "zoo-mistral-nemo", cwd=followed)
    run(*PYTEST, "-k", "mistral-nemo", "tests/test_configured.py", cwd=followed)
