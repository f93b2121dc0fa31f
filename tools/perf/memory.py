"""What the questions that look inside need beyond the loaded model."""

import json
import subprocess
import sys

from tlbench.environments import lens_environment
from tools.perf.bench import ROOT, at_most

RELEASE = "4.3.0"

MEMORY = """
import json, sys
sys.path.insert(0, {root!r})
import torch
from tlbench.grid import Cell
from tlbench.questions.loading import load_cell
from tlbench.questions.registry import QUESTIONS
from tlbench.reference import huggingface
cell = Cell({model!r}, "float32", "all_options", "TransformerBridge")
loaded = checkpoint, lens = load_cell(cell)
ids = huggingface.tokens(checkpoint, "natural")
with torch.inference_mode():
    lens.logits(ids)
def resident(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name + ":"))
grown = {{}}
for name in ("depth", "hooks", "reading", "gradients"):
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # the peak is counted from here
    before = resident("VmRSS")
    QUESTIONS[name].measurer_function()(cell, loaded)
    grown[name] = resident("VmHWM") - before
with torch.inference_mode():
    _, cache = lens.run_with_cache(ids)
stores = {{value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in cache.values()}}
print(json.dumps([max(grown.values()), sum(stores.values()), grown]))
"""


def memory_inside(folder):
    """What depth, hooks, reading and gradients need beyond the loaded model, in units of all its activations.

    By the process's largest resident size, which Linux counts. The zoo's activations are too small for that: SmolLM2's.
    """
    model = "smollm2-135m"
    code = MEMORY.format(root=str(ROOT), model=model)
    python = lens_environment(RELEASE).python
    subprocess.run([python, "-c", code], check=True, cwd=folder, capture_output=True)
    done = subprocess.run([python, "-c", code], check=True, cwd=folder, capture_output=True, text=True)
    grown, activations, by_question = json.loads(done.stdout.splitlines()[-1])
    print({name: round(needed / activations, 2) for name, needed in by_question.items()}, file=sys.stderr)
    yield at_most(
        f"memory of depth, hooks, reading and gradients of {model}, times its activations", grown / activations, "x", 2
    )
