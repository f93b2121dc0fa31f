"""An environment is made once for what is in it: a release, a commit, or the files of a source tree."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tlbench import BadInput, environments
from tlbench.environments import installer, lens_environment, provenance

PACKAGE = provenance.PACKAGE


@pytest.fixture
def made(own_cache, monkeypatch):
    """What was built and installed, in order. Neither takes time."""
    steps = []

    def build(source, wheels):
        steps.append(f"build {(source / PACKAGE / '__init__.py').read_text()}")
        wheels.mkdir()
        (wheels / "transformer_lens-0.0.0-py3-none-any.whl").touch()

    def run_uv(*words, doing):
        steps.append(words[0])
        python = Path(words[-1]) / "bin" / "python"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()
        return ""

    def install(wheel, commit, python):
        steps.append(f"install {commit}")
        (Path(python).parents[1] / provenance.RECORD_NAME).write_text(json.dumps({"commit": commit}))

    monkeypatch.setattr(installer, "build", build)
    monkeypatch.setattr(installer, "run_uv", run_uv)
    monkeypatch.setattr(installer, "install", install)
    monkeypatch.setattr(environments, "repositories", list)
    return steps


def git(folder, *words):
    settings = ("-c", "user.name=a", "-c", "user.email=a@localhost", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", "-C", folder, *settings, *words], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def tree(tmp_path):
    """A git checkout of a package, with a file that git ignores."""
    folder = tmp_path / "a source 🌳 [tree]"
    (folder / PACKAGE).mkdir(parents=True)
    (folder / "pyproject.toml").touch()
    (folder / ".gitignore").write_text("*.log\n")
    (folder / PACKAGE / "__init__.py").write_text("1")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=1")
    return folder


def test_a_source_tree_that_did_not_change_is_neither_built_nor_installed_again(made, tree):
    first = lens_environment(str(tree))
    steps = len(made)
    assert made == ["build 1", "venv", "install "]
    assert lens_environment(str(tree)) == first
    assert len(made) == steps


@pytest.mark.parametrize("is_git", [True, False])
def test_files_that_are_in_no_wheel_do_not_count(made, tree, is_git):
    if not is_git:
        shutil.rmtree(tree / ".git")
    first = lens_environment(str(tree))
    (tree / "tests").mkdir()
    (tree / "tests" / "test_a.py").touch()
    (tree / PACKAGE / "__pycache__").mkdir()
    if is_git:
        (tree / PACKAGE / "run.log").touch()
    else:
        (tree / PACKAGE / "__pycache__" / "a.pyc").touch()
    assert lens_environment(str(tree)) == first
    assert made.count("venv") == 1


@pytest.mark.parametrize("name", ["pyproject.toml", f"{PACKAGE}/__init__.py", f"{PACKAGE}/not yet added.py"])
@pytest.mark.parametrize("is_git", [True, False])
def test_a_source_tree_that_changed_is_another_one(made, tree, name, is_git):
    if not is_git:
        shutil.rmtree(tree / ".git")
    first = lens_environment(str(tree))
    (tree / name).write_text("2")
    assert lens_environment(str(tree)).python != first.python
    assert made.count("venv") == 2


def test_a_folder_without_transformer_lens_is_refused_before_anything_is_built(made, tree):
    shutil.rmtree(tree / PACKAGE)
    with pytest.raises(BadInput, match=r"no pyproject.toml and transformer_lens/ in this folder: give the top folder"):
        lens_environment(str(tree))
    assert made == []


def test_a_commit_is_built_and_installed_once(made, tree, monkeypatch):
    monkeypatch.setattr(environments, "repositories", lambda: [tree])
    commit = git(tree, "rev-parse", "HEAD")
    (tree / PACKAGE / "__init__.py").write_text("not committed")
    first = lens_environment(commit)
    assert made == ["build 1", "venv", f"install {commit}"]
    assert lens_environment(commit[:8]) == first
    assert len(made) == 3


def test_an_environment_whose_interpreter_is_gone_is_made_again(made, tree):
    first = lens_environment(str(tree))
    first.python.unlink()
    assert lens_environment(str(tree)) == first
    assert made.count("venv") == 2


def test_a_commit_that_no_clone_has_is_fetched_and_kept(made, tree, monkeypatch):
    monkeypatch.setattr(environments, "UPSTREAM", tree.as_uri())
    commit = git(tree, "rev-parse", "HEAD")
    said = []
    first = lens_environment(commit, said.append)
    assert f"fetching {commit[:8]}" in said
    assert made == ["build 1", "venv", f"install {commit}"]
    shutil.rmtree(tree)
    assert lens_environment(commit[:10]) == first


def test_a_commit_that_upstream_does_not_have_is_told_with_git_s_reason(made, tree, monkeypatch):
    monkeypatch.setattr(environments, "UPSTREAM", tree.as_uri())
    with pytest.raises(
        BadInput, match=r"no such commit in the clones .*, and fetching it failed \(.+\): correct it, or give"
    ):
        lens_environment("0" * 40)
    with pytest.raises(BadInput, match="give all 40 digits, so that it can be fetched"):
        lens_environment("0000000")


def test_without_git_a_commit_is_refused_and_a_source_tree_is_not(made, tree, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="git is not installed"):
        lens_environment("0" * 40)
    assert lens_environment(str(tree)).python.exists()


def test_without_its_lock_tlbench_says_what_to_install(made, tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "package_dir", lambda: tmp_path / "site-packages" / "tlbench")
    with pytest.raises(BadInput, match=r"no requirements.lock, .*: install the wheel that `uv build` makes in a checkout"):
        environments.reference_python(Path("/usr/bin/python"))


def test_references_have_an_environment_of_their_own_where_there_is_no_checkout(made, monkeypatch, tmp_path):
    monkeypatch.setattr(environments, "checkout_dir", lambda: None)
    monkeypatch.setattr(installer, "run_uv", lambda *words, doing: made.append(words) or _environment(words))
    python = environments.reference_python(Path("/usr/bin/python"))
    assert environments.reference_python(Path("/usr/bin/python")) == python
    (venv, install) = made
    assert venv[0] == "venv"
    assert "transformers" in install
    assert environments._lock_file().name == install[install.index("--constraints") + 1].rsplit("/", 1)[-1]


def _environment(words):
    if words[0] == "venv":
        (Path(words[-1]) / "bin").mkdir(parents=True)
        (Path(words[-1]) / "bin" / "python").touch()
    return ""


def test_an_environment_that_another_installer_made_is_made_anew(made, tree, monkeypatch, tmp_path):
    first = lens_environment(str(tree))
    assert lens_environment(str(tree)) == first
    changed = tmp_path / "installer.py"
    changed.write_text(Path(installer.__file__).read_text() + "# It installs otherwise.\n")
    monkeypatch.setattr(installer, "__file__", str(changed))
    assert lens_environment(str(tree)).python != first.python
    assert [step.split()[0] for step in made].count("install") == 2
