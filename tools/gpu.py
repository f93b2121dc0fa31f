"""GPT-2's true shape on a GPU: verdicts in three dtypes beside the CPU's, and the slowdown against HuggingFace.

``python -m tools.gpu [--out FOLDER] [--seconds 480]`` needs a TransformerLens beside tlbench in the running interpreter and
a GPU that torch can use. The weights are random, the same on every machine; nothing is downloaded. Figures are written to
the folder as they come, so a run that is cut short leaves what it had: ``cuda.json`` and ``cpu.json`` (the JSON of ``tlbench
verify``), ``slowdown.json``, ``machine.json``. A step that would begin after ``--seconds`` is left out, and the output says
so.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "gpt2-shape"
DTYPES = ("float32", "float16", "bfloat16")
OPTIONS = ("unprocessed", "all_options")
WRAPPER = "TransformerBridge"
SHAPES = ("1x64", "8x128")
NATIVE = {"TLBENCH_ARITHMETIC": "native"}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="where figures are written")
    parser.add_argument("--seconds", type=float, default=480, help="no step begins later than this")
    parser.add_argument("--checkpoint", type=Path, default=Path("gpu-checkpoint"), help="where the checkpoint is made")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny GPT-2, to try the script")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.child:
        return CHILDREN[wanted.child[0]](*wanted.child[1:])
    deadline = time.monotonic() + wanted.seconds
    wanted.out.mkdir(parents=True, exist_ok=True)
    folder = wanted.checkpoint.resolve()
    steps = {
        "checkpoint": lambda: child("checkpoint", folder, wanted.tiny),
        "machine.json": lambda: child("machine", wanted.device),
        f"{wanted.device}.json": lambda: verify(folder, wanted.device),
        "slowdown.json": lambda: child("slowdown", folder, wanted.device, wanted.out.resolve() / "slowdown.json", deadline),
        "cpu.json": lambda: verify(folder, "cpu"),
    }
    for name, step in steps.items():
        if time.monotonic() > deadline:
            print(f"{name}: left out, the time is over", flush=True)
            continue
        started = time.monotonic()
        status, text = step()
        print(f"{name}: exit status {status} after {time.monotonic() - started:.0f} s", flush=True)
        if name.endswith(".json") and text.strip():
            (wanted.out / name).write_text(text)
    report(wanted.out, wanted.device)
    return 0


def verify(folder, device):
    """``tlbench verify`` of every dtype with and without all options."""
    words = [sys.executable, "-m", "tlbench.cli", "verify", str(folder), "--device", device, "--wrapper", WRAPPER, "--json"]
    words += ["--question", "logits"] + [word for dtype in DTYPES for word in ("--dtype", dtype)]
    words += [word for option in OPTIONS for word in ("--option", option)]
    return run(words)


def child(*words):
    return run([sys.executable, "-m", "tools.gpu", "--child", *map(str, words)])


def run(words):
    """Exit status and standard output of a command; its last line of standard error is printed if it failed."""
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, **NATIVE}, capture_output=True, text=True, check=False)
    if done.returncode:
        print("\n".join(done.stderr.strip().splitlines()[-3:]), flush=True)
    return done.returncode, done.stdout


def make_checkpoint(folder, tiny):
    """A checkpoint of GPT-2's configuration with random weights: gains about 1, matrices that keep activations' size."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, GPT2Config

    import tlbench  # noqa: F401  # before torch
    from tlbench.arithmetic.draws import normal
    from tlbench.checkpoints import byte_tokenizer, prompts

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    size = {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 256, "vocab_size": 512} if tiny == "True" else {}
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
    return 0


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


def slowdown(folder, device, path, deadline):
    """The slowdown of forward passes, cell by cell, written as they come."""
    from tlbench.cli.subject import prepared
    from tlbench.costs.slowdown import measure_slowdown
    from tlbench.grid import RuntimeCell
    from tlbench.records.serial import plain

    rows = []
    with prepared(folder) as (checkpoint, _):
        for dtype, shape in (("float32", SHAPES[0]), ("bfloat16", SHAPES[1])):
            if time.monotonic() > float(deadline):
                break
            cell = RuntimeCell(checkpoint.model.name, dtype, "unprocessed", WRAPPER, shape, device, "forward")
            timed = measure_slowdown(cell)
            ratio = {"ratio": timed.eager.ratio, "half_width": timed.eager.half_width}
            rows.append({**plain(timed), **ratio})
            Path(path).write_text(json.dumps(rows, indent=1))
    print(json.dumps(rows, indent=1))
    return 0


def report(out, device):
    """What was found, as Markdown."""
    for name in (f"{device}.json", "cpu.json"):
        if (out / name).exists():
            found = json.loads((out / name).read_text())
            print(f"\n{name}: {found['conclusion']}\n\n| dtype | option | ratio | bits lost | max, nats | verdict |")
            print("|:--|:--|--:|--:|--:|:--|")
            for cell in found["cells"]:
                figures = [spelled(cell[key]) for key in ("ratio", "bits_lost", "max")]
                print(f"| {cell['dtype']} | {cell['option']} | {' | '.join(figures)} | {cell['verdict']} {cell['reason']} |")
    if (out / "slowdown.json").exists():
        print("\n| dtype | shape | slowdown | TransformerLens, ms | HuggingFace eager, ms |\n|:--|:--|--:|--:|--:|")
        for row in json.loads((out / "slowdown.json").read_text()):
            times = [f"{1e3 * row[key]:.2f}" for key in ("seconds", "eager_seconds")]
            cell = row["cell"]
            interval = f"{row['ratio']:.3f} ± {100 * row['half_width']:.1f} %"
            print(f"| {cell['dtype']} | {cell['shape']} | {interval} | {' | '.join(times)} |")


def spelled(value):
    return "" if value is None else f"{value:.3g}"


CHILDREN = {"checkpoint": make_checkpoint, "machine": describe, "slowdown": slowdown}

if __name__ == "__main__":
    sys.exit(main())
