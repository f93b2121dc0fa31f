"""What asv itself takes for 120 models: to check the suite, to run it where no cell has to be measured, and on the disk."""

import json
import math
import os
import random
import subprocess
import time
from unittest.mock import patch

from asv.util import write_json

from tlbench.catalogue import CATALOGUE_VARIABLE
from tools.perf.bench import BIN, ROOT, at_most

N_MODELS, N_HOOKED = 120, 26
BEFORE_THE_BRIDGE = "v2.18.0"
"""A release without TransformerBridge, where the cells of models without a name in HookedTransformer are not applicable."""
ERRORS = r"^(?!runtime|truth\.HuggingFace)"


def asv_beside_the_cells(bench, commit):
    """Of a catalogue whose models nobody has made: 26 of them for HookedTransformer too, but for the run."""
    with patch.dict(os.environ, {CATALOGUE_VARIABLE: catalogue(bench.folder / "all.toml", N_HOOKED)}):
        started = time.monotonic()
        words = [BIN / "asv", "check", "-E", f"existing:{BIN / 'python'}"]
        subprocess.run(words, cwd=bench.folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
        yield at_most("asv check, 120 models", time.monotonic() - started, "s", 10)
    with patch.dict(os.environ, {CATALOGUE_VARIABLE: catalogue(bench.folder / "bridge.toml", 0)}):
        bench.run("accuracy.Logit.track_max.*model-000", [commit])  # builds and installs the release
        before = os.times()
        bench.run(ERRORS, [commit])
        after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    name = "processor time of asv run, every question about errors, 120 models, no cell applicable"
    yield at_most(name, seconds, "s", 60)
    yield at_most(
        "benchmarks.json, 120 models", (bench.folder / "results" / "benchmarks.json").stat().st_size / 1e6, "MB", 2
    )
    yield at_most("results of a commit, 120 models, every cell with a figure", full_size(bench, commit) / 1e6, "MB", 2)


def catalogue(path, n_hooked):
    """The address of a catalogue of small GPT-2s."""
    hooked = ["hooked_name = 'gpt2'\n" if i < n_hooked else "" for i in range(N_MODELS)]
    path.write_text(
        "".join(f"[[model]]\nname = 'model-{i:03}'\nsource = 'zoo'\nfamily = 'gpt2'\n{of}" for i, of in enumerate(hooked))
    )
    return str(path)


def full_size(bench, commit):
    """The bytes of a file of results in which every cell has a figure, as long as those of a double are."""
    stored, draw = bench.stored(commit), random.Random(0)
    result = stored["result_columns"].index("result")
    for columns in stored["results"].values():
        columns[result] = [draw.random() if math.isnan(value) else value for value in columns[result]]
    path = bench.folder / "full.json"
    write_json(str(path), stored, compact=True)
    assert json.loads(path.read_text())["results"].keys() == stored["results"].keys()
    return path.stat().st_size
