"""Whether errors belong to no machine: every zoo model computed on this processor and on emulated ones, bit by bit.

``python -m tools.processors [--cpu Haswell] [--cpu EPYC] [--model zoo-gpt2] [--folder KEPT]`` computes HuggingFace's logits
in three dtypes, the float64 logits and the logits of TransformerLens's two wrappers in the shared lane, here and under
Debian's ``qemu-x86_64`` (package ``qemu-user``), and prints a line a model; exit status 1 if any bit differs. With
``--trace`` the line of a difference names the first operator whose result differs, at twice the time. It takes an hour and
more, since an emulator needs minutes to import torch: what is computed stays in ``--folder``, and a second run goes on from
the model that the first was at. Progress goes to standard error.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zlib
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

from tlbench import arithmetic, catalogue
from tlbench.arithmetic import Lane
from tlbench.catalogue import Source
from tlbench.environments import lens_environment, reference_python
from tlbench.grid import Cell, Dtype, Option, Wrapper

ROOT = Path(__file__).resolve().parents[1]
NATIVE = "native"
REFERENCE = "reference"
WRAPPERS = {"2.18.0": Wrapper.HOOKED_TRANSFORMER, "4.3.0": Wrapper.TRANSFORMER_BRIDGE}
OPTIONS = (Option.UNPROCESSED, Option.ALL_OPTIONS)
THREADS = 2
TORCH = version("torch").split("+")[0]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu", action="append", help="a processor of qemu's; default: Haswell and EPYC")
    parser.add_argument("--model", action="append", help="a model of the catalogue; default: the whole zoo")
    parser.add_argument("--folder", type=Path, help="where results are kept, and read if they are there")
    parser.add_argument("--trace", action="store_true", help="name the operator that differs")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    zoo = [model.name for model in catalogue.load().models if model.source is Source.ZOO]
    models = asked.model = asked.model or zoo
    if asked.child:
        return child(*asked.child, models, with_operators=asked.trace)
    processors = [NATIVE, *(asked.cpu or ["Haswell", "EPYC"])]
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="tlbench-processors-"))
    folder.mkdir(parents=True, exist_ok=True)
    unset = {
        cpu: computed(folder, cpu, "probe", reference_python(Path(sys.executable)), Lane.NATIVE, asked)["probe"]
        for cpu in processors
    }
    pythons = {REFERENCE: reference_python(Path(sys.executable))} | {
        release: lens_environment(release).python for release in WRAPPERS
    }
    found = {
        cpu: {name: computed(folder, cpu, name, python, Lane.SHARED, asked) for name, python in pythons.items()}
        for cpu in processors
    }
    return report(processors, models, unset, found)


def computed(folder, cpu, what, python, lane, asked):
    """What a child computed on one processor, started if no earlier one has left its results."""
    path = folder / f"{cpu}-{what}-{lane}.json"
    if not path.exists():
        emulator = [] if cpu == NATIVE else ["qemu-x86_64", "-cpu", cpu]
        command = ["nice", "-n", "19", *emulator, str(python), "-m", "tools.processors", "--child", what, f"{path}.part"]
        command += [word for model in asked.model for word in ("--model", model)] + ["--trace"] * asked.trace
        environment = arithmetic.environment(lane, os.environ) | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        environment |= {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        progress(f"{cpu} {what} {lane}: starting")
        child = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for line in child.stderr:
            if "TCG doesn't support" not in line:
                progress(f"{cpu} {what} {lane}: {line.rstrip()}")
        if child.wait():
            raise SystemExit(f"{cpu} {what} {lane}: ended with status {child.returncode}")
        Path(f"{path}.part").rename(path)
    return json.loads(path.read_text())


def report(processors, models, unset, found):
    """One line a model, then the conclusion; the exit status."""
    different, compared, absent, failed = 0, 0, 0, 0
    for model in models:
        lines, equal, before = [], 0, different
        for name, site, ours in sites_of(found[NATIVE], model):
            reason = "" if "operators" in ours else ours["logits"]
            absent += reason.startswith("n/a")
            if reason.startswith("failed"):
                failed += 1
                lines.append(f"    {name} {site}: {reason}")
            for cpu in processors[1:]:
                theirs = found[cpu][name]["models"][model][site]
                if theirs["logits"] != ours["logits"]:
                    different += 1
                    lines.append(f"    {cpu}: {name} {site}: {first_difference(ours, theirs)}")
                elif not reason:
                    equal += 1
        compared += equal
        verdict = "different" if different > before else "equal"
        print(f"{model:<14} {verdict}: {equal} pairs of logits have the same bits", *lines, sep="\n")
    probes = {cpu: {results["probe"] for results in found[cpu].values()} for cpu in processors}
    print("the probe in the shared lane:", {cpu: " ".join(probe[:12] for probe in values) for cpu, values in probes.items()})
    print("the probe without the settings:", {cpu: probe[:12] for cpu, probe in unset.items()})
    agrees = set.union(*probes.values()) == {arithmetic.SHARED_PROBES[TORCH]}
    differs = len(set(unset.values())) > 1
    print(
        f"On {', '.join(processors)}: {compared} pairs of logits have the same bits and {different} have not; {absent} "
        f"cells do not exist, {failed} failed. In the shared lane the probe is {'' if agrees else 'not '}the pinned one "
        f"on each; without the settings it {'differs' if differs else 'does not differ'}."
    )
    return 0 if compared and not different and agrees and differs else 1


def sites_of(results, model):
    """Environment, site and digests of everything that one processor computed of a model."""
    return [(name, site, each) for name, one in results.items() for site, each in one["models"][model].items()]


def first_difference(ours, theirs):
    """The first operator whose result differs, or why there is none to compare."""
    if "operators" not in ours or "operators" not in theirs:
        return f"{ours['logits']} here, {theirs['logits']} there"
    pairs = zip(ours["operators"], theirs["operators"], strict=False)
    for i, (one, other) in enumerate(pairs):
        if one != other:
            name = one[0] if one[0] == other[0] else f"{one[0]} here, {other[0]} there"
            return f"operator {i} of {len(ours['operators'])}: {name}"
    return "no operator that was watched (run again with --trace)"


def progress(line):
    print(line, file=sys.stderr, flush=True)


def child(what, path, models, with_operators):
    """Compute in this process and write the digests; ``what`` is "probe", "reference" or a release of TransformerLens."""
    import torch

    from tlbench.files import write_json

    lane = arithmetic.establish()
    progress(f"torch computes with {torch.backends.cpu.get_cpu_capability()}, {lane.name}, probe {lane.probe[:12]}")
    result = {"probe": lane.probe, "models": {}}
    if Path(path).exists():  # an earlier run got so far
        result["models"] = json.loads(Path(path).read_text())["models"]
    if what != "probe":
        sites = reference_sites if what == REFERENCE else lens_sites
        for model in (model for model in models if model not in result["models"]):
            result["models"][model] = {site: digests(compute, with_operators) for site, compute in sites(model, what)}
            failed = [f"{site}: {d['logits']}" for site, d in result["models"][model].items() if "operators" not in d]
            progress(" ".join([model, *failed]))
            write_json(Path(path), result)
    write_json(Path(path), result)
    return 0


def reference_sites(name, _):
    """Names of what HuggingFace computes of a model, and functions that compute it."""
    import torch

    from tlbench.checkpoints import locate
    from tlbench.reference import golden, huggingface

    models = catalogue.load()
    checkpoint = locate(models.get(name), models)
    torch.set_num_threads(THREADS)

    def logits(dtype):
        model = huggingface.load_model(checkpoint.folder, dtype)
        with torch.inference_mode():
            return model(huggingface.tokens(checkpoint, "natural"), use_cache=False).logits

    for dtype in Dtype:
        yield f"HuggingFace {dtype}", lambda dtype=dtype: logits(dtype)
    yield "golden", lambda: golden.evaluate(checkpoint, golden.Weights.ORIGINAL, check=False).logits


def lens_sites(name, release):
    """Names of what TransformerLens computes of a model, and functions that compute it."""
    import torch

    from tlbench.questions.loading import forward, load_cell
    from tlbench.reference import huggingface

    def logits(cell):
        checkpoint, model = load_cell(cell)
        torch.set_num_threads(THREADS)
        return forward(model, huggingface.tokens(checkpoint, "natural"))

    for dtype in Dtype:
        for option in OPTIONS:
            cell = Cell(name, dtype, option, WRAPPERS[release])
            yield f"{cell.wrapper} {option} {dtype}", lambda cell=cell: logits(cell)


def digests(compute, with_operators):
    """Of the logits and, if asked for, of the result of every operator on the way; of what cannot be computed, why."""
    from tlbench.exceptions import NotApplicable

    try:
        with trace() if with_operators else nullcontext([]) as operators:
            logits = compute()
    except NotApplicable as reason:
        return {"logits": f"n/a: {reason}"}
    except Exception as error:
        return {"logits": f"failed: {type(error).__name__}: {error}"}
    return {"logits": digest(logits), "operators": operators}


def trace():
    """Within the block, each operator's name and a checksum of its first result are appended to a list."""
    from contextlib import contextmanager

    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Trace(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            first = next((leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)), None)
            # Memory that nothing has been written to holds anything.
            if first is not None and first.device.type == "cpu" and "empty" not in str(func):
                self.seen.append((str(func), zlib.crc32(content(first))))
            return result

    @contextmanager
    def traced():
        with Trace() as running:
            yield running.seen

    return traced()


def digest(values):
    return hashlib.sha256(content(values)).hexdigest()


def content(values):
    import torch

    flat = torch.empty(values.numel(), dtype=values.dtype).copy_(values.detach().reshape(-1))
    return flat.view(torch.uint8).numpy().tobytes()


if __name__ == "__main__":
    sys.exit(main())
