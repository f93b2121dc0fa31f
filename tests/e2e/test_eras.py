"""Every era of dependencies reads every checkpoint alike, so that a change of era is no step in the history."""

import json
import os
import subprocess

import pytest

from tests.e2e.conftest import ROOT
from tlbench import Dtype, catalogue
from tlbench.checkpoints import ensure
from tlbench.environments import lens_environment

ZOO = [model.name for model in catalogue.load().models if model.source == "zoo"]
VARIANTS = [model.name for model in catalogue.load().every if model.source == "config" and model.hooked_name]
RELEASES = {"4.57.6": "2.18.0", "5.9.0": "3.5.1", "5.23.0": "4.3.0"}
# Measured: transformers 5 computes these in another order; docs/operating.md, eras.
CHANGED = {dtype: {"zoo-mixtral"} if dtype is Dtype.FLOAT32 else {"zoo-gpt-j", "zoo-mixtral"} for dtype in Dtype}
SCRIPT = """
import hashlib, json, sys, torch, transformers
from tlbench import Dtype, catalogue
from tlbench.checkpoints import locate
from tlbench.reference.huggingface import load_model, tokens
torch.set_num_threads(1)
models = catalogue.load()
found = {}
for name in sys.argv[1:]:
    checkpoint = locate(models.get(name), models)
    for dtype in Dtype:
        with torch.inference_mode():
            logits = load_model(checkpoint.folder, dtype)(tokens(checkpoint, "natural")).logits
        found[f"{name} {dtype}"] = hashlib.sha256(logits.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
print("result", json.dumps([transformers.__version__, found]))
"""


@pytest.fixture(scope="module")
def digests():
    """From transformers' version to a hash of each model's logits at each dtype."""
    for name in ZOO:
        ensure(catalogue.load().get(name), catalogue.load())
    found = {}
    for release in RELEASES.values():
        python = lens_environment(release).python
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        words = [str(python), "-c", SCRIPT, *ZOO]
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        version, of_version = json.loads(done.stdout.split("result ")[1])
        found[version] = of_version
    return found


def test_each_era_has_its_own_transformers(digests):
    assert set(digests) == set(RELEASES)


@pytest.mark.parametrize("dtype", Dtype)
def test_huggingface_s_logits_are_the_same_bits_in_every_era(digests, dtype):
    differing = {name for name in ZOO if len({digests[version][f"{name} {dtype}"] for version in RELEASES}) > 1}
    assert differing == CHANGED[dtype]


READING = """
import json, sys, torch, transformers
from tlbench import Dtype, catalogue
from tlbench.checkpoints import locate
from tlbench.checkpoints.portable import misread_fields
from tlbench.reference.huggingface import load_model, tokens
torch.set_num_threads(1)
models = catalogue.load()
found = {}
for name in sys.argv[1:]:
    checkpoint = locate(models.get(name), models)
    with torch.inference_mode():
        logits = load_model(checkpoint.folder, Dtype.FLOAT32)(tokens(checkpoint, "natural")).logits
    found[name] = [misread_fields(checkpoint.folder), logits[:, ::9, ::37].flatten().tolist()]
print("result", json.dumps(found))
"""


def test_the_oldest_and_the_newest_era_read_what_hooked_transformer_loads_alike():
    for name in VARIANTS:
        ensure(catalogue.load().get(name), catalogue.load())
    found = []
    for release in (RELEASES["4.57.6"], RELEASES["5.23.0"]):
        words = [str(lens_environment(release).python), "-c", READING, *VARIANTS]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.split("result ")[1]))
    older, newer = found
    for name in VARIANTS:
        assert older[name][0] == newer[name][0] == []
        assert older[name][1] == pytest.approx(newer[name][1], abs=1e-4), name
