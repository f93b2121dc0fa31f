"""The self-check over many architectures: healthy models pass, a planted float32 rounding is refused.

``python -m tools.architectures [--draws 3] [--only NAME]`` draws the catalogue's models of a configuration anew, and prints
one line for each healthy model and for each rounding planted in it, then the counts and the ranges of what the self-check
measured. Exit status 1 if a healthy model was refused, a plant passed, HuggingFace's float32 is further from the golden than
rounding explains, or a healthy candidate in TransformerLens's place is accused. It takes some minutes, and is no part of the
tests.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from tlbench import catalogue
from tlbench.catalogue import Source
from tlbench.checkpoints import making
from tlbench.checkpoints.inputs import Inputs
from tlbench.exceptions import NotGolden
from tlbench.grid import Attention, Dtype
from tlbench.metrics.closeness import closeness, spread
from tlbench.metrics.golden_error import against_truth
from tlbench.metrics.hf_error import centred
from tlbench.metrics.verdict import Evidence, judge
from tlbench.reference import float64, golden, huggingface
from tlbench.reference.float64 import SelfCheck, assert_true_float64, true_float64
from tlbench.reference.golden import Weights
from tlbench.reference.soundness import ROUNDINGS
from tlbench.reference.variants import REVERSED, ReversedSums, variants

GAINS = (1.0, 0.7, 1.3)
"""By draw: by what matrices are multiplied. The larger, the more peaked is attention and the more rounding grows."""
FLOAT32 = 2.0**-24
FLOAT32_TIMES = 1000
"""How far HuggingFace's float32 may be from the golden, in its last bits times the model's amplification."""
NO_EFFECT = 10
"""A plant that moves the logits by no more than this many times float64's noise changes nothing that can be measured."""

EXCLUDED = {
    "gemma3n": "its vision tower is timm's, which transformers does not bring",
    "reformer": "attends by hashing, which jumps from bucket to bucket: no smooth function",
}
"""What is not drawn, with the reason."""
ROUNDS_ON_PURPOSE = {
    "zoo-falcon-alibi": ("its ALiBi bias to bfloat16", 2.0**-8),
}
"""Where HuggingFace's own float32 rounds more than float32 does, to which unit."""


def draw_model(name, draw, folder):
    """Make another draw of a catalogue entry, with matrices scaled by the draw's gain."""
    model = replace(catalogue.load().get(name), seed=f"architectures {draw}")
    make = making.make_zoo if model.source is Source.ZOO else making.make_from_config
    make(model, Path(folder))
    weights = Path(folder) / making.WEIGHTS
    tensors = load_file(weights)
    gain = GAINS[draw % len(GAINS)]
    scaled = {
        key: tensor * gain if tensor.ndim > 1 and tensor.is_floating_point() else tensor for key, tensor in tensors.items()
    }
    save_file(scaled, weights, metadata=making.METADATA)


def generator(*key):
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


# Planted roundings ---------------------------------------------------------------------------------------------------


def visible(values):
    """Through float32 by a cast that torch sees and true_float64 does not, as an extension in C++ would."""
    with torch._C.DisableTorchFunction():
        return values.to(torch.float32).to(torch.float64)


def invisible(values):
    """Through float32 where torch cannot see it."""
    return torch.from_numpy(values.numpy().astype(np.float32).astype(np.float64))


@contextmanager
def planted(module, rounding):
    """Within the block, what a module returns is rounded, if it is floating-point."""

    def rounded(value):
        return rounding(value) if isinstance(value, Tensor) and value.is_floating_point() else value

    handle = module.register_forward_hook(lambda module, inputs, output: tree_map(rounded, output))
    try:
        yield
    finally:
        handle.remove()


def leaves_of_a_middle_block(model, ids, rng):
    """The modules without children in a block that is neither first nor last, by name, that return numbers."""
    # The outermost list comes first: lists of experts lie inside the blocks. An encoder may have no middle.
    lists = (item for item in model.named_modules() if isinstance(item[1], torch.nn.ModuleList))
    prefix, blocks = next(item for item in lists if len(item[1]) > 2)
    number = int(rng.integers(1, len(blocks) - 1))
    called, handles = {}, []

    def watching(name):
        def watch(module, inputs, output):
            if any(isinstance(value, Tensor) and value.is_floating_point() for value in tree_leaves(output)):
                called[name] = module

        return watch

    for name, module in blocks[number].named_modules():
        if not any(True for _ in module.children()):
            handles.append(module.register_forward_hook(watching(f"{prefix}.{number}.{name}")))
    logits_of(model, ids)
    for handle in handles:
        handle.remove()
    return called


def logits_of(model, ids):
    with torch.inference_mode(), true_float64():
        return centred(model(ids, use_cache=False).logits)


# The run -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """What one check found: a word, whether it is right, and the figures."""

    what: str
    word: str
    right: bool
    figures: str = ""
    check: SelfCheck | None = None


def lines_of(name, draw, folder, plants):
    """Every check of one model."""
    draw_model(name, draw, folder)
    natural = json.loads((Path(folder) / "prompts.json").read_text())["natural"]
    inputs, ids = Inputs.of(Path(folder), natural), torch.tensor(natural)
    model = inputs.attached(golden.load_exact(Path(folder), Weights.ORIGINAL))
    try:
        check = assert_true_float64(model, ids)
    except NotGolden as error:
        yield Line("healthy", "REFUSED", False, str(error))
        return
    yield Line("healthy", "passes", True, figures_of(check), check)
    exact = logits_of(model, ids)
    yield from float32_lines(name, Path(folder), inputs, ids, exact, check)
    rng = generator(name, draw, "plants")
    leaves = leaves_of_a_middle_block(model, ids, rng)
    for where in rng.permutation(sorted(leaves))[:plants]:
        for rounding in (visible, invisible):
            yield planted_line(model, ids, exact, check, leaves[where], rounding, f"{rounding.__name__} in {where}")


def float32_lines(name, folder, inputs, ids, exact, check):
    """Whether HuggingFace's own float32 is as far from the golden as rounding explains, and what is said of it.

    A healthy candidate in TransformerLens's place is HuggingFace with its default attention, where it has another one, and
    with its sums reversed: neither may be accused, by the golden or, as if there were none, by HuggingFace's own rounding.
    """

    def run(kind=Attention.EAGER, mode=nullcontext):
        model = inputs.attached(huggingface.load_model(folder, Dtype.FLOAT32, kind))
        with torch.inference_mode(), mode():
            return model(ids, use_cache=False).logits

    float32 = run()
    _, unit = ROUNDS_ON_PURPOSE.get(name, ("", FLOAT32))
    error = rms(centred(float32) - exact) / rms(exact)
    times = error / (unit * max(1, check.amplification))
    near = times < FLOAT32_TIMES
    yield Line("float32", "near" if near else "FAR", near, f"{error:.1e} is {times:.2g} roundings, amplified")
    eager = inputs.attached(huggingface.load_model(folder, Dtype.FLOAT32))
    with torch.inference_mode():
        own = variants(lambda some: eager(some, use_cache=False).logits, ids)
    spread_of_own = max(one.rms for one in own.values())
    times = spread(float32, exact).rms / spread_of_own
    right = times <= ROUNDINGS or name in ROUNDS_ON_PURPOSE
    word = "right" if times <= ROUNDINGS else "rounds on purpose" if right else "ACCUSED"
    yield Line("HuggingFace", word, right, f"{times:.2g} times the spread of its variants from the golden")
    for what, t in (("attention", run(Attention.DEFAULT)), ("reversed", run(mode=ReversedSums))):
        by_golden = judge(Evidence(Dtype.FLOAT32, truth=against_truth(t, float32, exact, exact, Dtype.FLOAT32)))
        others = {key: one for key, one in own.items() if what != "reversed" or key != REVERSED}
        by_huggingface = judge(
            Evidence(Dtype.FLOAT32, closeness=closeness(t, float32, others, Dtype.FLOAT32, has_experts=False))
        )
        passes = by_golden.passes and not (what == "attention" and by_huggingface.is_alarm)
        if what == "attention" and spread(t, float32).rms > ROUNDINGS * spread_of_own:
            yield Line(
                f"candidate {what}", "another function", True, f"{spread(t, float32).rms:.2g} nats from eager attention"
            )
            continue
        yield Line(
            f"candidate {what}", "passes" if passes else "ACCUSED", passes, f"{by_golden}, without a golden {by_huggingface}"
        )


def planted_line(model, ids, exact, check, module, rounding, what):
    with planted(module, rounding):
        moved = rms(logits_of(model, ids) - exact) / rms(exact)
        effect = f"moves the logits by {moved:.1e}; "
        measured, refusal = measured_by(model, ids)
    if refusal:
        return Line(what, "refused", True, effect + refusal, measured)
    harmless = moved <= NO_EFFECT * check.noise
    return Line(what, "no effect" if harmless else "PASSED", harmless, effect + figures_of(measured), measured)


def measured_by(model, ids):
    """The self-check's figures, where it came so far, and in a few words why it refused, or ""."""
    found, measure = [], float64._measure
    float64._measure = lambda *given: found.append(measure(*given)) or found[-1]
    try:
        assert_true_float64(model, ids)
    except NotGolden as error:
        return (found[0], figures_of(found[0])) if found else (None, str(error).split(": ", 1)[1][:70])
    finally:
        float64._measure = measure
    return found[0], ""


def figures_of(check):
    growth = f", growth {check.growth:.1f}" if math.isfinite(check.growth) else ""
    return (
        f"noise {check.noise:.1e}, difference {check.difference:.1e}, {check.excess:.1e} times the noise{growth}, "
        f"amplification {check.amplification:.2g}"
    )


def rms(values):
    return values.square().mean().sqrt().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--only", action="append", help="only this architecture; default: all")
    parser.add_argument("--plants", type=int, default=1, help="how many modules of each model are rounded, one at a time")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    words, ranges, wrong, start = Counter(), defaultdict(list), [], time.monotonic()
    for name in wanted.only or [model.name for model in catalogue.load().every if model.source is Source.CONFIG]:
        for draw in range(wanted.draws):
            for line in lines_of_safely(name, draw, wanted.plants):
                kind = line.what.split()[0]
                words[kind, line.word] += 1
                if line.check:
                    ranges[kind, line.word].append(line.check)
                if not line.right:
                    wrong.append((name, draw, line.what))
                print(f"{name} {draw}: {line.what}: {line.word}: {line.figures}", flush=True)
    report(words, ranges, wrong)
    print(f"{time.monotonic() - start:.0f} s")
    return 1 if wrong else 0


def lines_of_safely(name, draw, plants):
    """The lines of one model; what raises is a line too, so that one architecture does not end the run."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield from lines_of(name, draw, folder, plants)
        except Exception as error:
            yield Line("run", "FAILED", False, f"{type(error).__name__}: {str(error).splitlines()[0]}")


def report(words, ranges, wrong):
    print("\nnot drawn:")
    for name, reason in EXCLUDED.items():
        print(f"  {name}: {reason}")
    for name, (what, _) in ROUNDS_ON_PURPOSE.items():
        print(f"HuggingFace rounds on purpose: {name}, {what}")
    for (kind, word), count in sorted(words.items()):
        print(f"{kind}: {word}: {count}")
    for (kind, word), checks in sorted(ranges.items()):
        print(f"{kind}, {word}: {', '.join(range_of(checks, field.name) for field in dataclasses.fields(SelfCheck))}")
    for name, draw, what in wrong:
        print(f"WRONG: {name} {draw}: {what}")


def range_of(checks, figure):
    values = [getattr(check, figure) for check in checks]
    return f"{figure} {min(values):.1e} to {max(values):.1e}"


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    sys.exit(main())
