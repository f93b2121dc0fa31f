"""Hub models go through TransformerLens's and HuggingFace's own loading, from a prepared HuggingFace cache."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.e2e.conftest import ROOT
from tlbench import Cell, catalogue
from tlbench.checkpoints import ensure
from tlbench.environments import lens_environment
from tlbench.metrics.verdict import Verdict
from tlbench.questions.answers import interview
from tlbench.questions.registry import ACCURACY

REVISION = "0123456789abcdef0123456789abcdef01234567"
CATALOGUE = '[[model]]\nname = "from-hub"\nsource = "hub"\nrepo = "gpt2"\n'


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """The zoo's GPT-2 under the name that GPT-2 has on the hub, in a HuggingFace cache of this test's own."""
    folder = tmp_path_factory.mktemp("hub")
    repository = folder / "hf" / "hub" / "models--gpt2"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION)
    models = catalogue.load()
    shutil.copytree(ensure(models.get("zoo-gpt2"), models).folder, repository / "snapshots" / REVISION)
    (folder / "models.toml").write_text(CATALOGUE)
    found = {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "TLBENCH_CATALOGUE": str(folder / "models.toml")}
    command = [sys.executable, "-m", "tlbench.cli", "checkpoints", "from-hub"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **found}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return found


@pytest.mark.parametrize(("release", "wrapper"), [("2.18.0", "HookedTransformer"), ("4.3.0", "TransformerBridge")])
def test_a_hub_model_is_measured_from_huggingface_s_cache(settings, release, wrapper, monkeypatch):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    cell = Cell("from-hub", "float32", "all_options", wrapper)
    (answers,) = interview(lens_environment(release).python, (ACCURACY,), [cell], settings)
    measured = answers.outcomes[ACCURACY.name].require()
    assert measured.verdict is Verdict.BENIGN
    assert measured.changed_weights > 0
