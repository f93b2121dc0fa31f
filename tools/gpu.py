"""True shapes on a GPU: verdicts in three dtypes beside the CPU's, the slowdown against HuggingFace, and what TF32 costs.

``python -m tools.gpu [--shape gpt2] [--shape mistral] [--lens 4.3.0=FOLDER] [--lens 4.2.0=FOLDER] [--out FOLDER] [--seconds
480]`` needs a GPU that torch can use and TransformerLens: in the running interpreter, or in the folder of each ``--lens``.
Weights are random, the same on every machine with the same torch; nothing is downloaded. Goldens are float64 on the CPU.
Figures are written to the folder as they come, so a run that is cut short leaves what it had. For each shape:

- ``SHAPE-LENS-cuda.json``, and for GPT-2 ``SHAPE-LENS-cpu.json``: the JSON of ``tlbench verify``;
- ``SHAPE-modes.json``: how far HuggingFace's own logits move under each of :data:`MODES`;
- ``SHAPE-LENS-slowdown.json``.

A step that would begin after ``--seconds`` is left out, and the output says so.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tlbench.environments.provenance import PACKAGE_VARIABLE

ROOT = Path(__file__).resolve().parents[1]
DTYPES = ("float32", "float16", "bfloat16")
OPTIONS = {"gpt2": ("unprocessed", "all_options"), "mistral": ("unprocessed",)}
"""Processed, TransformerBridge takes 82 GiB at Mistral-7B's size."""
WRAPPER = "TransformerBridge"
FORWARD = (("float32", "1x64"), ("bfloat16", "8x128"))
NATIVE = {"TLBENCH_ARITHMETIC": "native"}
MODES = {
    "TF32": ("float32", {"allow_tf32": True}),
    "sums in float16": ("float16", {"allow_fp16_accumulation": True}),
    "no reduced sums, float16": ("float16", {"allow_fp16_reduced_precision_reduction": False}),
    "no reduced sums, bfloat16": ("bfloat16", {"allow_bf16_reduced_precision_reduction": False}),
}
"""Ways to compute a matrix product on a GPU: a dtype, and what differs from tlbench's own settings, which are torch's
defaults: no TF32, products summed in float32, whose parts may be added in 16 bits. Source: torch's notes on numerical
accuracy."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", choices=SHAPES, help="by default gpt2")
    parser.add_argument("--lens", action="append", default=[], metavar="NAME=FOLDER", help="a TransformerLens to import")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="where figures are written")
    parser.add_argument("--seconds", type=float, default=480, help="no step begins later than this")
    parser.add_argument("--checkpoint", type=Path, default=Path("gpu-checkpoint"), help="where the checkpoints are made")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models of the same architectures, to try the script")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.child:
        return CHILDREN[wanted.child[0]](*wanted.child[1:])
    deadline = time.monotonic() + wanted.seconds
    wanted.out.mkdir(parents=True, exist_ok=True)
    if odd := [one for one in wanted.lens if not Path(one.partition("=")[2]).is_dir() or "=" not in one]:
        parser.error(f"--lens {odd[0]}: expected NAME=FOLDER, of a folder that exists")
    lenses = {one.partition("=")[0]: str(Path(one.partition("=")[2]).resolve()) for one in wanted.lens} or {"lens": ""}
    for name, step in steps(wanted, lenses, deadline).items():
        if time.monotonic() > deadline:
            print(f"{name}: left out, the time is over", flush=True)
            continue
        started = time.monotonic()
        status, text = step()
        print(f"{name}: exit status {status} after {time.monotonic() - started:.0f} s", flush=True)
        if name.endswith(".json") and text.strip():
            (wanted.out / name).write_text(text)
    report(wanted.out)
    return 0


def steps(wanted, lenses, deadline):
    """What to do, in order, by name: each returns an exit status and what it printed."""
    todo = {"machine.json": partial(child, "machine", wanted.device)}
    for shape in wanted.shape or ["gpt2"]:
        folder = (wanted.checkpoint / shape).resolve()
        todo[f"{shape}: checkpoint"] = partial(child, "checkpoint", shape, folder, wanted.tiny)
        for name, package in lenses.items():
            todo[f"{shape}-{name}-{wanted.device}.json"] = partial(verify, shape, folder, wanted.device, package)
        todo[f"{shape}-modes.json"] = partial(child, "modes", folder, wanted.device)
        for name, package in lenses.items():
            out = f"{shape}-{name}-slowdown.json"
            words = ("slowdown", folder, wanted.device, wanted.out.resolve() / out, deadline)
            todo[out] = partial(child, *words, package=package)
        if shape == "gpt2" and wanted.device != "cpu":
            for name, package in lenses.items():
                todo[f"{shape}-{name}-cpu.json"] = partial(verify, shape, folder, "cpu", package)
    return todo


def verify(shape, folder, device, package):
    """``tlbench verify`` of every dtype with and without all options."""
    words = [sys.executable, "-m", "tlbench.cli", "verify", str(folder), "--device", device, "--wrapper", WRAPPER, "--json"]
    words += ["--question", "logits"] + [word for dtype in DTYPES for word in ("--dtype", dtype)]
    words += [word for option in OPTIONS[shape] for word in ("--option", option)]
    return run(words, package)


def child(*words, package=""):
    return run([sys.executable, "-m", "tools.gpu", "--child", *map(str, words)], package)


def run(words, package):
    """Exit status and standard output of a command; its last lines of standard error are printed if it failed."""
    environment = {**os.environ, **NATIVE, **({PACKAGE_VARIABLE: package} if package else {})}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print("\n".join(done.stderr.strip().splitlines()[-3:]), flush=True)
    return done.returncode, done.stdout


def make_checkpoint(shape, folder, tiny):
    """A checkpoint of a true shape with random weights; a tiny one of the same architecture if ``tiny`` is "True"."""
    SHAPES[shape](Path(folder), tiny == "True")
    return 0


def make_gpt2(target, tiny):
    """GPT-2's configuration: gains about 1, matrices that keep activations' size."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, GPT2Config

    import tlbench  # noqa: F401  # before torch
    from tlbench.arithmetic.draws import normal
    from tlbench.checkpoints import byte_tokenizer, prompts

    target.mkdir(parents=True, exist_ok=True)
    size = {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 256, "vocab_size": 512} if tiny else {}
    config = GPT2Config(architectures=["GPT2LMHeadModel"], dtype="float32", **size)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tensors = {}
    for name, parameter in model.named_parameters():
        values = torch.from_numpy(normal(f"gpu/{name}", parameter.numel())).view(parameter.shape)
        if name.endswith(("wte.weight", "wpe.weight")):
            values *= 0.1
        elif parameter.dim() > 1:
            values *= parameter.shape[0] ** -0.5  # GPT-2 keeps its matrices as [in, out]
        elif name.endswith("weight"):
            values = 1 + 0.3 * values
        else:
            values *= 0.1
        tensors[name] = values.float()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    texts = {"config.json": config.to_json_string(), **byte_tokenizer.files()}
    texts[prompts.FILE_NAME] = prompts.to_json(prompts.tokenize(byte_tokenizer.encode))
    for name, text in texts.items():
        (target / name).write_text(text)


def make_mistral(target, tiny):
    """Mistral-7B's sizes, written shard by shard."""
    from tools.perf import mistral

    mistral.write_checkpoint(mistral.SMALL if tiny else mistral.MISTRAL_7B, target)


SHAPES = {"gpt2": make_gpt2, "mistral": make_mistral}


def describe(device):
    """The machine: GPU, driver, processor and libraries."""
    import torch

    import tlbench  # noqa: F401  # before torch
    from tlbench.environments import metadata

    found = metadata.collect()
    if device != "cpu":
        found["bfloat16 on this GPU"] = str(torch.cuda.is_bf16_supported())
    print(json.dumps(found, indent=1))
    return 0


def modes(folder, device):
    """How far HuggingFace's logits move under each mode, in nats."""
    import torch

    os.environ["TLBENCH_DEVICE"] = device
    from tlbench.cli.subject import prepared
    from tlbench.grid import Attention, Dtype
    from tlbench.metrics.closeness import spread
    from tlbench.reference.huggingface import placed_model, tokens

    rows = []
    with prepared(folder) as (checkpoint, _), torch.inference_mode():
        ids = tokens(checkpoint, "natural").to(device)
        for dtype in DTYPES:
            model = placed_model(checkpoint, Dtype(dtype), Attention.EAGER)
            plain = model(ids, use_cache=False).logits.cpu()
            for name, (of_dtype, settings) in MODES.items():
                if of_dtype == dtype:
                    with matrix_products(settings):
                        moved = spread(model(ids, use_cache=False).logits.cpu(), plain)
                    rows.append({"mode": name, "dtype": dtype, "rms": moved.rms, "max": moved.largest})
            del model
    print(json.dumps(rows, indent=1))
    return 0


@contextmanager
def matrix_products(settings):
    """Within the block, torch multiplies matrices on GPUs by these settings."""
    import torch

    switches = torch.backends.cuda.matmul
    before = {name: getattr(switches, name) for name in settings}
    for name, value in settings.items():
        setattr(switches, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(switches, name, value)


def slowdown(folder, device, path, deadline):
    """The slowdown of forward passes, cell by cell, written as they come."""
    from tlbench.cli.subject import prepared
    from tlbench.costs.slowdown import measure_slowdown
    from tlbench.grid import RuntimeCell
    from tlbench.records.serial import plain

    rows = []
    with prepared(folder) as (checkpoint, _):
        for dtype, shape in FORWARD:
            if time.monotonic() > float(deadline):
                break
            cell = RuntimeCell(checkpoint.model.name, dtype, "unprocessed", WRAPPER, shape, device, "forward")
            timed = measure_slowdown(cell)
            ratio = {"ratio": timed.eager.ratio, "half_width": timed.eager.half_width}
            rows.append({**plain(timed), **ratio})
            Path(path).write_text(json.dumps(rows, indent=1))
    print(json.dumps(rows, indent=1))
    return 0


def report(out):
    """What was found, as Markdown."""
    for path in sorted(out.glob("*.json")):
        found = json.loads(path.read_text())
        kind = path.stem.rpartition("-")[-1]
        if kind == "modes":
            print(f"\n{path.stem}\n\n| mode | dtype | rms, nats | max, nats |\n|:--|:--|--:|--:|")
            for row in found:
                print(f"| {row['mode']} | {row['dtype']} | {row['rms']:.3g} | {row['max']:.3g} |")
        elif kind == "slowdown":
            print(f"\n{path.stem}\n\n| dtype | shape | slowdown | TransformerLens, ms | HuggingFace eager, ms |")
            print("|:--|:--|--:|--:|--:|")
            for row in found:
                times = [f"{1e3 * row[key]:.2f}" for key in ("seconds", "eager_seconds")]
                interval = f"{row['ratio']:.3f} ± {100 * row['half_width']:.1f} %"
                print(f"| {row['cell']['dtype']} | {row['cell']['shape']} | {interval} | {' | '.join(times)} |")
        elif "cells" in found:
            print(f"\n{path.stem}: {found['conclusion']}\n\n| dtype | option | ratio | bits lost | max, nats | verdict |")
            print("|:--|:--|--:|--:|--:|:--|")
            for cell in found["cells"]:
                figures = [spelled(cell[key]) for key in ("ratio", "bits_lost", "max")]
                print(f"| {cell['dtype']} | {cell['option']} | {' | '.join(figures)} | {cell['verdict']} {cell['reason']} |")


def spelled(value):
    return "" if value is None else f"{value:.3g}"


CHILDREN = {"checkpoint": make_checkpoint, "machine": describe, "modes": modes, "slowdown": slowdown}

if __name__ == "__main__":
    sys.exit(main())
