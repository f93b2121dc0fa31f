"""How much does the caller's depth change what a forward pass takes, where a chunk of Python's stack may end within it?"""

import json
import subprocess
import sys

from tlbench.environments import lens_environment
from tools.perf.bench import ROOT, at_least, at_most

RELEASE = "2.18.0"
MODEL = "zoo-llama"
DEPTHS = list(range(0, 200, 10))
"""Calls between the process's first and what is timed; one of these takes some 100 of a chunk's 16,384 bytes."""
SIDES = ("TransformerLens", "HuggingFace, eager")
BY_DEPTH = """
import gc, json, statistics, sys, time
sys.path.insert(0, {root!r})
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from tlbench.grid import RuntimeCell
from tlbench.questions.preload import preload
from tlbench.costs import turns
from tlbench.costs.slowdown import located, settle
cell = RuntimeCell({model!r}, "float32", "all_options", "HookedTransformer", "1x64", "cpu", "forward")
checkpoint = located(cell)
def called_at(depth, function):
    return called_at(depth - 1, function) if depth else function()
def medians(take_turns, depth):
    from tlbench.costs.operations import prepare
    settle(cell, checkpoint)
    candidates = prepare(cell, checkpoint).candidates[:2]
    gc.collect(); gc.freeze(); gc.disable()
    rounds = called_at(depth, lambda: take_turns(candidates, time.perf_counter, 0.4, 5, 2))
    return [1e3 * statistics.median(side) for side in zip(*rounds)]
def apart(function, *arguments):
    with ProcessPoolExecutor(1, get_context("fork")) as processes:
        return processes.submit(function, *arguments).result()
preload()
kinds = {{"plain": turns._take_turns, "roomy": turns.take_turns}}
print(json.dumps({{name: [apart(medians, kind, depth) for depth in {depths!r}] for name, kind in kinds.items()}}))
"""


def spread_over_depths(folder):
    """The slowest over the fastest depth, of both sides: as Python's stack is, and on a stack with room.

    The milliseconds go to standard error.
    """
    code = BY_DEPTH.format(root=str(ROOT), model=MODEL, depths=DEPTHS)
    words = [lens_environment(RELEASE).python, "-c", code]
    done = subprocess.run(words, check=True, cwd=folder, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    for i, side in enumerate(SIDES):
        plain, roomy = ([times[i] for times in found[kind]] for kind in ("plain", "roomy"))
        for name, times in (("as it is", plain), ("with room", roomy)):
            print(f"{side}, {name}: {min(times):.2f} to {max(times):.2f} ms", file=sys.stderr)
        yield at_least(f"{side} by depth as Python's stack is, slowest over fastest", max(plain) / min(plain), "x", 1.2)
        yield at_most(f"{side} by depth on a stack with room, slowest over fastest", max(roomy) / min(roomy), "x", 1.15)
    plain, roomy = ([tl / hf for tl, hf in found[kind]] for kind in ("plain", "roomy"))
    for name, ratios in (("as it is", plain), ("with room", roomy)):
        print(f"slowdown, {name}: {min(ratios):.3f} to {max(ratios):.3f}", file=sys.stderr)
