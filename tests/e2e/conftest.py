"""A small history of TransformerLens, measured by asv as a user would: plain commands in a folder with a configuration.

The commits are made from the 2.18.0 source release: as it is, a change of documentation, a fault in one weight, another
change of documentation, then one that yields NaN, one that does not import and one that does not build.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tlbench import catalogue
from tlbench.checkpoints import ensure
from tlbench.history import SourceCommit, SourceFile, build_from_trees, build_history, read_sdist
from tlbench.paths import cache_dir

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BIN = Path(sys.executable).parent
RELEASE = "2.18.0"
CONVERSION = "transformer_lens/pretrained/weight_conversions/gpt2.py"
WEIGHT = 'state_dict["blocks.0.mlp.W_in"]'
RETURN = b"    return state_dict"
MODELS = ("zoo-gpt2", "zoo-llama")
MACHINE = "shared-x86-64-e2e"


def pytest_collection_modifyitems(items):
    """Mark every test of this folder and run them first, as they take longest. pytest passes the tests of all folders."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.e2e)
    items.sort(key=lambda item: not item.path.is_relative_to(HERE))


@dataclass(frozen=True)
class Project:
    """A folder in which asv's commands work, and the commits of its history by name."""

    folder: Path
    commits: dict[str, str]

    def asv(self, *words, expect=0, **environment):
        done = subprocess.run(
            [BIN / "asv", *words],
            cwd=self.folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout

    def results(self, commit):
        """asv's stored values, by benchmark and cell."""
        (path,) = self.folder.glob(f"results/{MACHINE}/{self.commits[commit][:8]}-*.json")
        return json.loads(path.read_text())


def asv_configuration(repository):
    """The releases' own configuration, pointed at another repository; everything else is what users run."""
    from asv.util import load_json

    configuration = load_json(str(ROOT / "releases" / "asv.conf.json"), js_comments=True)
    text = json.dumps({**configuration, "repo": str(repository)})
    text = text.replace("{conf_dir}/../tlbench", str(ROOT / "tlbench"))
    return text.replace("../benchmarks", str(ROOT / "benchmarks"))


def source_of(version, folder):
    """The files of a release's source archive."""
    build_history(folder / "one.git", downloads=cache_dir() / "downloads", versions=[version])
    return read_sdist(cache_dir() / "downloads" / f"transformer_lens-{version}.tar.gz")[0]


def planted(files, statement):
    """The same files with a statement about one weight added where GPT-2's weights are converted."""
    file = files[CONVERSION]
    assert file.content.count(RETURN) == 1
    code = file.content.replace(RETURN, f"    {statement}\n".encode() + RETURN)
    return {**files, CONVERSION: replace_content(file, code)}


def replace_content(file, content):
    return SourceFile(content, file.executable)


def history_of(files):
    documented = {**files, "CHANGES": SourceFile(b"words\n")}
    faulty = planted(documented, f"{WEIGHT} = {WEIGHT} * (1 + 1e-3)")
    trees = {
        "good": files,
        "documented": documented,
        "faulty": faulty,
        "documented again": {**faulty, "CHANGES": SourceFile(b"more words\n")},
        "not a number": planted(documented, f"{WEIGHT} = {WEIGHT} * float('nan')"),
        "no import": {**documented, "transformer_lens/__init__.py": SourceFile(b"import nothing_like_it\n")},
        "no build": {**documented, "pyproject.toml": SourceFile(b"[build-system]\n")},
    }
    start = datetime(2025, 1, 1, tzinfo=UTC)
    return [
        SourceCommit(f"v{number}", start + timedelta(days=number), name, tree)
        for number, (name, tree) in enumerate(trees.items())
    ]


@pytest.fixture(scope="session")
def faulty_tree(tmp_path_factory):
    """A source tree of TransformerLens with faults to choose from."""
    from tests.e2e.planting import tree_with_faults

    return tree_with_faults(tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("history"))


@pytest.fixture(scope="module")
def plants(faulty_tree, tmp_path_factory):
    """That tree with the faults of a module."""
    from tests.e2e.planting import Planted

    def of(module):
        made = Planted(faulty_tree, module, tmp_path_factory.mktemp("chosen") / "fault")
        made.plant("")
        return made

    return of


def uv_cache():
    """uv's own cache, which lies in the user's home."""
    return subprocess.run([BIN / "uv", "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """Every commit of the small history, measured; exit status 2 is asv's word for "some cells failed"."""
    models = catalogue.load()
    for name in MODELS:
        ensure(models.get(name), models)
    folder = tmp_path_factory.mktemp("project")
    commits = history_of(source_of(RELEASE, folder))
    hashes = build_from_trees(folder / "history.git", commits)
    (folder / "asv.conf.json").write_text(asv_configuration(folder / "history.git"))
    home = folder / "home"
    home.mkdir()
    made = Project(folder, {commit.message: hashes[commit.tag] for commit in commits})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLBENCH_CACHE", str(cache_dir()))
        patch.setenv("UV_CACHE_DIR", uv_cache())
        patch.setenv("HOME", str(home))
        made.asv("run", "--machine", MACHINE, "-b", cells("float32"), "ALL", expect=2)
        yield made
    shutil.rmtree(folder / ".asv", ignore_errors=True)


def cells(dtype):
    """asv's pattern for the cells of this test's models at a dtype."""
    names = "|".join(MODELS)
    return rf"accuracy\.(Logit|Processing).*\('({names}) HookedTransformer', '{dtype}'"
