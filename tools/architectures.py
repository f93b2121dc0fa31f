"""The self-check over many architectures: healthy models pass, a planted float32 rounding is refused.

``python -m tools.architectures [--draws 3] [--only NAME]`` draws small random models of the causal language models that
transformers has, and prints one line for each healthy model and for each rounding planted in it, then the counts and the
ranges of what the self-check measured. Exit status 1 if a healthy model was refused, a plant passed, HuggingFace's float32
is further from the golden than rounding explains, or a healthy candidate in TransformerLens's place is accused. It takes
some minutes, and is no part of the tests.
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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

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

GAINS = (1.5, 1.0, 2.0)
"""By draw: how large matrices are, times 1 / sqrt(width). At 2 attention is nearly one-hot and rounding grows most."""
FLOAT32 = 2.0**-24
FLOAT32_TIMES = 1000
"""How far HuggingFace's float32 may be from the golden, in its last bits times the model's amplification."""
NO_EFFECT = 10
"""A plant that moves the logits by no more than this many times float64's noise changes nothing that can be measured."""

SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "dff", "n_inner", "ffn_hidden_size"), 96),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), 256),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 32),
    "vocab_size": 512,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rotary_dim": 8,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "n_group": 1,
    "topk_group": 1,
    "state_size": 8,
    "time_step_rank": 8,
}
"""Sizes by the name that a configuration has for them; each architecture takes those that it knows."""
LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
}
LATENT_OF = dict.fromkeys(("deepseek_v2", "deepseek_v3", "minicpm3"), LATENT)
MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_ssm": 128,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_chunk_size": 16,
    "mamba_dt_rank": 8,
    "use_mamba_kernels": False,
}
# Twelve heads: the slopes of eight or fewer are powers of two, and bfloat16 holds every value of so short a bias.
ALIBI = {
    "hidden_size": 96,
    "num_attention_heads": 12,
    "alibi": True,
    "new_decoder_architecture": False,
    "multi_query": True,
    "parallel_attn": False,
    "bias": True,
}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
PLAIN = """
    afmoe apertus arcee bamba biogpt bloom codegen cohere cohere2 ctrl deepseek_v2 deepseek_v3 diffllama doge ernie4_5
    ernie4_5_moe exaone4 exaone_moe falcon_h1 falcon_mamba flex_olmo gemma gemma2 gemma3_text glm glm4 glm4_moe gpt2
    gpt_bigcode gpt_neox gpt_oss gptj granite granitemoe granitemoehybrid granitemoeshared helium hunyuan_v1_dense
    hunyuan_v1_moe internlm3 jais2 jamba lfm2 llama llama4_text mamba minicpm3 minimax minimax_m2 ministral mistral mixtral
    modernbert-decoder mpt nanochat nemotron olmo olmo2 olmo3 olmoe openai-gpt opt persimmon phi phi3 phimoe qwen2 qwen2_moe
    qwen3 qwen3_5_text qwen3_moe qwen3_next recurrent_gemma rwkv seed_oss smollm3 stablelm starcoder2 vaultgemma xglm xlstm
""".split()  # noqa: SIM905
ARCHITECTURES = {name: (name, {}) for name in PLAIN} | {
    "falcon-alibi": ("falcon", ALIBI),
    "falcon-rotary": ("falcon", {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": False}),
    "gpt_neo": ("gpt_neo", {"attention_types": [[["global", "local"], 2]], "window_size": 16}),
    "mamba2": ("mamba2", {"num_heads": 8, "n_groups": 2, "chunk_size": 16}),
    "dbrx": (
        "dbrx",
        {
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 64},
        },
    ),
}
"""What is drawn: the ``model_type``, and what its configuration has besides :data:`SIZES`."""
EXCLUDED = {
    "zamba2": "its list of layers is checked against a default of 54 layers, so no small one is accepted",
    "zamba": "its shared layers are tied by a rule that a small model breaks: 'your definition of tie_weights_keys'",
    "mimo_v2_flash": "a small one fails in its own attention: 'size of tensor a (4) must match the size of tensor b (0)'",
    "longcat_flash": "its smallest has 275 million parameters: sizes that its configuration does not take",
    "lfm2_moe": "its layer types have no default, and the ones that it derives are None",
    "gemma3n_text": "a small one shares the cache of layers that it does not have",
    "reformer": "attends by hashing, which jumps from bucket to bucket: no smooth function",
    "bitnet": "rounds its activations to 8 bits by design when it is quantized; unquantized it is a Llama",
}
"""What cannot be drawn small, with the reason."""
ROUNDS_ON_PURPOSE = {
    "falcon-alibi": ("its ALiBi bias to bfloat16", 2.0**-8),
}
"""Where HuggingFace's own float32 rounds more than float32 does, to which unit."""


def configuration(name):
    """The small configuration of an architecture."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type, particular = ARCHITECTURES[name]
    made = CONFIG_MAPPING[model_type]
    known = {field.name: field.default for field in dataclasses.fields(made)}
    sizes = {key: value for key, value in {**SIZES, **LATENT_OF.get(name, {}), **MAMBA, **LINEAR}.items() if key in known}
    if known.get("sliding_window") is not None:
        sizes["sliding_window"] = 8
    return made(**{**sizes, **particular})


def draw_model(name, draw, folder):
    """Save a checkpoint of an architecture with ``prompts.json``, as ``cases/make.py`` writes them.

    Every parameter is drawn from a counter-based generator (Philox) keyed by its own name and the draw. One-dimensional
    ones move by 0.2 from what they are initialised to, so that no norm's gain or bias is neutral.
    """
    from transformers import AutoModelForCausalLM

    torch.manual_seed(draw)  # what is left of the initialisation: 1 for a gain, 0 for a bias, a state's own decay
    model = AutoModelForCausalLM.from_config(configuration(name)).float().eval()
    for key, parameter in model.named_parameters():
        noise = torch.from_numpy(generator(name, draw, key).standard_normal(tuple(parameter.shape), dtype=np.float32))
        if parameter.ndim == 1 or key.endswith("A_log"):
            parameter.data += 0.2 * noise
        else:
            scale = 1.0 if "emb" in key or "wte" in key else GAINS[draw % len(GAINS)] / parameter.shape[-1] ** 0.5
            parameter.data = scale * noise
    model.save_pretrained(folder)
    ids = generator(name, draw, "prompts").integers(1, SIZES["vocab_size"], 2 * 64 + 4 * 4)
    prompts = {"natural": ids[: 2 * 64].reshape(2, 64).tolist(), "origin": ids[2 * 64 :].reshape(4, 4).tolist()}
    (Path(folder) / "prompts.json").write_text(json.dumps(prompts))


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
    # The outermost list comes first: lists of experts lie inside the blocks.
    prefix, blocks = next(item for item in model.named_modules() if isinstance(item[1], torch.nn.ModuleList))
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
    ids = torch.tensor(json.loads((Path(folder) / "prompts.json").read_text())["natural"])
    model = golden.load_exact(Path(folder), Weights.ORIGINAL)
    try:
        check = assert_true_float64(model, ids)
    except NotGolden as error:
        yield Line("healthy", "REFUSED", False, str(error))
        return
    yield Line("healthy", "passes", True, figures_of(check), check)
    exact = logits_of(model, ids)
    yield from float32_lines(name, Path(folder), ids, exact, check)
    rng = generator(name, draw, "plants")
    leaves = leaves_of_a_middle_block(model, ids, rng)
    for where in rng.permutation(sorted(leaves))[:plants]:
        for rounding in (visible, invisible):
            yield planted_line(model, ids, exact, check, leaves[where], rounding, f"{rounding.__name__} in {where}")


def float32_lines(name, folder, ids, exact, check):
    """Whether HuggingFace's own float32 is as far from the golden as rounding explains, and what is said of it.

    A healthy candidate in TransformerLens's place is HuggingFace with its default attention, where it has another one, and
    with its sums reversed: neither may be accused, by the golden or, as if there were none, by HuggingFace's own rounding.
    """

    def run(kind=Attention.EAGER, mode=nullcontext):
        model = huggingface.load_model(folder, Dtype.FLOAT32, kind)
        with torch.inference_mode(), mode():
            return model(ids, use_cache=False).logits

    float32 = run()
    _, unit = ROUNDS_ON_PURPOSE.get(name, ("", FLOAT32))
    error = rms(centred(float32) - exact) / rms(exact)
    times = error / (unit * max(1, check.amplification))
    near = times < FLOAT32_TIMES
    yield Line("float32", "near" if near else "FAR", near, f"{error:.1e} is {times:.2g} roundings, amplified")
    eager = huggingface.load_model(folder, Dtype.FLOAT32)
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
    for name in wanted.only or sorted(ARCHITECTURES):
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
