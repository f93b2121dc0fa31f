"""What more statistics, more cells and a larger model cost."""

import json
import os
import subprocess
import sys
from statistics import median
from unittest.mock import patch

from tlbench import catalogue, spans
from tlbench.catalogue import CATALOGUE_VARIABLE
from tlbench.checkpoints import ensure
from tlbench.paths import CACHE_VARIABLE
from tlbench.spans import Category
from tools.perf.bench import ROOT, Bench, at_most, environment_python

ONE_CELL = r"\('zoo-gpt2 TransformerBridge', 'float32', 'all_options'"
DRAWS, GROWTH_ROUNDS, SMOLLM2_ROUNDS = 8, 3, 3
SMOLLM2 = "smollm2-135m"
NONE_FAILED = (0,)


def forwards_of_a_statistic_more(folder, commit):
    """The forwards of one cell with one track, and with every track of accuracy.py and truth.py."""
    counts = []
    for name, tracks in (("one", r"accuracy\.Logit\.track_max"), ("all", r"(accuracy|truth\.TransformerLens).*")):
        bench = Bench(folder / name)
        written = folder / f"{name}-spans"
        written.mkdir()
        bench.run(tracks + ONE_CELL, [commit], TLBENCH_REMEASURE="1", **{spans.PROFILE_VARIABLE: str(written)})
        counts.append(spans.read(written)[Category.FORWARD][1])
    yield at_most("forwards that all statistics of a cell cost beyond those of one", counts[1] - counts[0], "forwards", 0)


def growth_with_cells(bench, commit):
    """The cost of a cell among the last half of 4x as many, times that among the last half of 2x as many.

    The cells are of one kind: one architecture, drawn from several seeds. What is made for them is deleted with the folder.
    The machine's speed changes from one minute to the next by more than what is looked for, so what a run takes is
    counted in that same run's own unit: the time inside TransformerLens and HuggingFace for a cell, imports left out.
    """
    names = [f"gpt2-{seed}" for seed in range(DRAWS)]
    path = bench.folder / "models.toml"
    path.write_text(
        "\n".join(f'[[model]]\nname = "{n}"\nsource = "zoo"\nfamily = "gpt2"\nseed = "perf-{n}"\n' for n in names)
    )
    drawn = catalogue.load(path)
    with patch.dict(os.environ, {CATALOGUE_VARIABLE: str(path), CACHE_VARIABLE: str(bench.folder / "cache")}):
        for model in drawn.models:
            ensure(model, drawn)
        bench.run(cells_of(names), [commit], NONE_FAILED)
        rounds = [
            [one_size(bench, commit, names[: DRAWS // part], f"{k}-{part}") for part in (4, 2, 1)]
            for k in range(GROWTH_ROUNDS)
        ]
    for name, k in (("seconds", 0), ("cells' worth of models' code", 1)):
        print(name, [[round(found[k], 1) for found in sizes] for sizes in rounds], file=sys.stderr)
    one, two, four = (median(costs for _, costs in sizes) for sizes in zip(*rounds, strict=True))
    yield at_most(
        "cost of a cell from 2x to 4x the cells, times that from 1x to 2x", (four - two) / 2 / (two - one), "x", 1.1
    )
    ratio = median(sizes[2][0] / sizes[0][0] for sizes in rounds)
    yield at_most("wall time of 4x the cells, times that of 1x", ratio, "x", 4)


def one_size(bench, commit, names, folder):
    """A run of the models' cells: seconds, and the same in cells' worth of TransformerLens's and HuggingFace's own code."""
    written = bench.folder / folder
    written.mkdir()
    profiled = {"TLBENCH_REMEASURE": "1", spans.PROFILE_VARIABLE: str(written)}
    seconds = bench.run(cells_of(names), [commit], NONE_FAILED, **profiled)
    totals = spans.read(written)
    own = sum(totals[category][0] for category in (Category.LOAD, Category.PROCESS, Category.FORWARD))
    cells = totals[Category.LOAD][1]
    return seconds, seconds / (own / cells)


def cells_of(names):
    """asv's pattern for the models' cells in every dtype and option."""
    return rf"(accuracy|truth\.TransformerLens).*\('({'|'.join(names)}) TransformerBridge'"


BARE = """
import json, os, sys, time
sys.path.insert(0, {root!r})
os.environ["HF_HUB_OFFLINE"] = "1"
from tlbench.questions.preload import preload
preload()
import torch
from transformer_lens.model_bridge import TransformerBridge
folder, prompts, threads, flags = json.loads({given!r})
def cell(dtype, wanted):
    torch.set_num_threads(threads)
    bridge = TransformerBridge.boot_transformers(folder, device="cpu", dtype=getattr(torch, dtype))
    if wanted is not None:
        bridge.enable_compatibility_mode(disable_warnings=True, **wanted)
    bridge.eval()
    with torch.inference_mode():
        for ids in prompts:
            bridge(torch.tensor(ids), return_type="logits")
started = time.monotonic()
for dtype in ("float32", "float16", "bfloat16"):
    for wanted in flags:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                cell(dtype, wanted)
                status = 0
            finally:
                os._exit(status)
        if os.waitpid(pid, 0)[1]:
            raise SystemExit("a cell failed")
print(time.monotonic() - started)
"""


def smollm2_beside_bare_code(bench, commit):
    """SmolLM2's 18 cells by asv, from the command to its end, beside their loads, processing and forwards alone.

    Those are timed in a process that has imported everything, each cell in a fork of its own; the two take turns.
    """
    pattern = rf"(accuracy|truth\.TransformerLens).*\('{SMOLLM2} TransformerBridge'"
    bench.run(pattern, [commit], NONE_FAILED)
    pairs = [
        (bench.run(pattern, [commit], NONE_FAILED, TLBENCH_REMEASURE="1"), bare_seconds(bench.folder))
        for _ in range(SMOLLM2_ROUNDS)
    ]
    print("seconds", [[round(seconds, 1) for seconds in pair] for pair in pairs], file=sys.stderr)
    ratio = median(by_asv / bare for by_asv, bare in pairs)
    yield at_most("SmolLM2's 18 cells by asv, times their bare code", ratio, "x", 1.5)


def bare_seconds(folder):
    """What the loads, processing and forwards of SmolLM2's cells take."""
    models = catalogue.load()
    checkpoint = ensure(models.get(SMOLLM2), models)
    names = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    flags = [None, *({n: n == option for n in names} for option in names), dict.fromkeys(names, True)]
    prompts = [checkpoint.prompts.natural, checkpoint.prompts.origin]
    given = json.dumps([str(checkpoint.folder), prompts, checkpoint.model.threads, flags])
    code = BARE.format(root=str(ROOT), given=given)
    words = [environment_python(), "-c", code]
    done = subprocess.run(words, check=True, cwd=folder, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])
