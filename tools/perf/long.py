"""The memory of one accuracy cell of SmolLM2 at a long prompt, by the process's own counters."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil

from tlbench import catalogue
from tlbench.catalogue import CATALOGUE_VARIABLE
from tlbench.checkpoints import ensure, locate
from tlbench.checkpoints.prompts import FILE_NAME, Prompts, to_json
from tlbench.environments import lens_environment, reference_python
from tlbench.files import locked
from tlbench.paths import cache_dir
from tlbench.reference import golden, huggingface
from tlbench.reference.elsewhere import compute_elsewhere
from tlbench.reference.golden import Weights
from tlbench.reference.lengths import long_ids
from tools.perf.bench import at_most

ROOT = Path(__file__).resolve().parents[2]
TREE_VARIABLE = "TLBENCH_PERF_TREE"
"""Another tree of this repository whose arithmetic is measured, to compare two."""
LENGTHS = (2048, 8192)
BASE = "smollm2-135m"
RELEASE = "4.3.0"
GIB = 2**30
RESIDENT_GIB, ARITHMETIC_GIB = 16, 1
LEFT_FREE_BYTES = 3 * GIB

CELL = """
import json, resource, sys, threading, time
sys.path.insert(0, {root!r})
import torch
import tlbench.questions.accuracy as measuring
from tlbench.records.serial import plain
from tlbench import Cell
resource.setrlimit(resource.RLIMIT_DATA, ({limit}, {limit}))
def held():
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return {{name: int(fields[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS", "RssAnon")}}
phases = {{}}
def enter(name):
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # the peak resident size is counted from here
    now = held()
    phases[name] = {{"start_rss": now["VmRSS"], "start_anon": now["RssAnon"], "peak_rss": 0, "peak_anon": 0}}
def sample():
    now, phase = held(), list(phases.values())[-1]
    phase["peak_rss"] = max(phase["peak_rss"], now["VmHWM"])
    phase["peak_anon"] = max(phase["peak_anon"], now["RssAnon"])
def watch():
    while True:
        sample()
        time.sleep(0.002)
enter("load")
threading.Thread(target=watch, daemon=True).start()
cell = Cell({model!r}, "float32", "all_options", "TransformerBridge")
loaded = measuring.load_cell(cell)
forward, passes = measuring.forward, []
def watched_forward(model, ids):
    enter("forward") if not passes else None
    logits = forward(model, ids)
    passes.append(logits.nbytes)
    if len(passes) == 2:  # both prompt sets are through
        sample()
        enter("arithmetic")
    return logits
measuring.forward = watched_forward
out_of_memory, found = False, None
started = time.monotonic()
try:
    found = plain(measuring.measure(cell, loaded))
except (RuntimeError, MemoryError) as error:
    if "memory" not in str(error):
        raise
    out_of_memory = True
sample()
seconds = time.monotonic() - started
print(json.dumps({{"phases": phases, "out_of_memory": out_of_memory, "seconds": seconds, "found": found}}))
"""


def name_of(tokens):
    return f"{BASE}-{tokens}"


def make_checkpoints():
    """SmolLM2 again, with one natural prompt of each length, in a catalogue of their own, which is then in use."""
    models = catalogue.load()
    base = ensure(models.get(BASE), models)
    folder = cache_dir() / "long"
    with locked(cache_dir() / "locks" / "long.lock"):
        for tokens in LENGTHS:
            target = folder / name_of(tokens)
            target.mkdir(parents=True, exist_ok=True)
            for file in base.folder.iterdir():
                if file.name != FILE_NAME and not (target / file.name).exists():
                    (target / file.name).symlink_to(file)
            natural = tuple(map(tuple, long_ids(base, tokens).tolist()))
            (target / FILE_NAME).write_text(to_json(Prompts(natural, base.prompts.origin)))
        entry = '[[model]]\nname = "{0}"\nsource = "local"\npath = "{0}"\nthreads = 2\n'
        (folder / "models.toml").write_text("\n".join(entry.format(name_of(tokens)) for tokens in LENGTHS))
    os.environ[CATALOGUE_VARIABLE] = str(folder / "models.toml")
    models = catalogue.load()
    for model in models.models:
        ensure(model, models)


def make_references(tokens, python):
    """HuggingFace's logits and the exact ones of a float32 cell, where they are missing: minutes, and gigabytes on disk."""
    name = name_of(tokens)
    doing = f"computing the golden logits of {name}"
    compute_elsewhere(reference_python(Path(sys.executable)), compute_golden, name, doing=doing)
    request = ("logits", "eager", "float32", name)
    doing = f"computing HuggingFace's logits of {name}"
    compute_elsewhere(python, huggingface.compute_missing, *request, doing=doing)


def measured(tokens, python):
    """One cell in a fresh process that may not use more than what is free: its memory, in bytes, by what it was doing."""
    limit = psutil.virtual_memory().available - LEFT_FREE_BYTES
    code = CELL.format(root=os.environ.get(TREE_VARIABLE, str(ROOT)), model=name_of(tokens), limit=limit)
    done = subprocess.run([python, "-c", code], check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return {"tokens": tokens, "limit": limit, **json.loads(done.stdout.splitlines()[-1])}


def memory_of_long_prompts():
    """For each length: the tokens, for each phase of the cell its figures in GiB, and whether memory ran out in the last.

    The phases are `load`, `forward` (TransformerLens's, of both prompt sets) and `arithmetic`. All that the process found
    is written to standard error.
    """
    make_checkpoints()
    python = lens_environment(RELEASE).python
    for tokens in LENGTHS:
        make_references(tokens, python)
        found = measured(tokens, python)
        print(json.dumps(found), file=sys.stderr)
        phases = {name: {key: value / GIB for key, value in phase.items()} for name, phase in found["phases"].items()}
        yield tokens, phases, found["out_of_memory"]


def figures():
    """What one accuracy cell of SmolLM2 needs at a long prompt, and what of it is the error arithmetic's.

    The resident size counts the pages of mapped files (weights, references, goldens), which the kernel drops where memory is
    short; anonymous memory it cannot drop.
    """
    for tokens, phases, out_of_memory in memory_of_long_prompts():
        words = f"of one cell of SmolLM2 at {tokens} tokens"
        peak = max(phase["peak_rss"] for phase in phases.values())
        added = phases["arithmetic"]["peak_anon"] - phases["arithmetic"]["start_anon"]
        for figure in (
            at_most(f"peak resident size {words}", peak, "GiB", RESIDENT_GIB),
            at_most(f"anonymous memory that the error arithmetic {words} adds", added, "GiB", ARITHMETIC_GIB),
        ):
            yield replace(figure, ok=figure.ok and not out_of_memory)


def compute_golden(name):
    """Compute the goldens that a float32 cell needs, and no other, in this process."""
    models = catalogue.load()
    golden.compute(locate(models.get(name), models), wanted=(Weights.FLOAT32, Weights.ORIGINAL))
