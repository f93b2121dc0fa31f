"""Hub models are measured from HuggingFace's cache, each with its own weights: a fine-tune or a revision is not gpt2."""

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

PLAIN, TUNED, EARLIER = ("0" * 40, "1" * 40, "2" * 40)
"""Commits on the Hub: gpt2 itself, a fine-tune, and the fine-tune before it was finished."""
CATALOGUE = """
[[model]]
name = "finetune"
source = "hub"
repo = "someone/gpt2-finetune"
hooked_name = "gpt2"

[[model]]
name = "earlier"
source = "hub"
repo = "someone/gpt2-finetune"
revision = "first"
hooked_name = "gpt2"
"""
RELEASES = [("2.18.0", "HookedTransformer"), ("4.3.0", "TransformerBridge")]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Three GPT-2s of different weights, under the names that they would have on the Hub, in a HuggingFace cache."""
    folder = tmp_path_factory.mktemp("hub")
    models = catalogue.load()
    weights = ensure(models.get("zoo-gpt2"), models).folder

    def snapshot(repo, commit, name, scale):
        repository = folder / "hf" / "hub" / f"models--{repo.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / name).write_text(commit)
        shutil.copytree(weights, repository / "snapshots" / commit)
        scaled(repository / "snapshots" / commit / "model.safetensors", scale)

    snapshot("gpt2", PLAIN, "main", 1.0)
    snapshot("someone/gpt2-finetune", TUNED, "main", 1.1)
    snapshot("someone/gpt2-finetune", EARLIER, "first", 0.9)
    (folder / "models.toml").write_text(CATALOGUE)
    return {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "TLBENCH_CATALOGUE": str(folder / "models.toml")}


def scaled(path, factor):
    """Scale the MLP's input weights of all blocks in a safetensors file."""
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    save_file({name: w * factor if "mlp.c_fc.weight" in name else w for name, w in weights.items()}, path, {"format": "pt"})


def run(settings, *words):
    """A command in its own process, since huggingface_hub reads ``HF_HOME`` when it is imported."""
    command = [sys.executable, "-m", "tlbench.cli", *words]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("release", "wrapper"), RELEASES)
def test_a_fine_tune_and_a_revision_are_measured_with_their_own_weights(settings, release, wrapper, monkeypatch):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", f"{settings['HF_HOME']}/hub")  # read when imported
    done = run(settings, "checkpoints", "finetune", "earlier")
    assert done.returncode == 0, done.stderr
    cells = [Cell(name, "float32", "all_options", wrapper) for name in ("finetune", "earlier")]
    for answers in interview(lens_environment(release).python, (ACCURACY,), cells, settings):
        measured = answers.outcomes[ACCURACY.name].require()
        assert measured.verdict is Verdict.BENIGN
        assert measured.changed_weights > 0


def test_a_fine_tune_without_an_entry_is_verified_under_an_official_name(settings):
    words = ("--tl", "2.18.0", "--hooked-name", "gpt2", "--dtype", "float32", "--option", "unprocessed")
    words = (*words, "--question", "logits")
    done = run(settings, "verify", "someone/gpt2-finetune", *words)
    assert done.returncode == 0, done.stdout + done.stderr
