"""Whether ignoring a flag of a configuration is seen and named: every flag that changes the arithmetic, planted in 4.3.0.

``python -m tools.flags [--only PATTERN]`` loads each model in a copy of TransformerLens that reads another value of one
flag, as an adapter that does not know the flag would, and once as it is. It prints the verdict, the size, and the block and
component that `tlbench where` names. Exit status 1 if a verdict is neither worse nor broken, if nothing is named, or
another component than that which uses the flag, or if anything is named in a healthy model.

``python -m tools.flags --healthy`` asks of every small model whether a right one has anything named.
"""

import argparse
import json
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.planting import Planted, tree_with_faults
from tlbench import catalogue
from tlbench.checkpoints import ensure
from tlbench.grid import Cell
from tlbench.questions.registry import ACCURACY, DEPTH
from tlbench.records.depth_profile import DepthProfile
from tlbench.records.outcome import Outcome

DEFAULT = {"rope_type": "default", "rope_theta": 10000.0}
FULL = ["full_attention"] * 4


HOOK_IS_WRONG = {"zoo-t5", "zoo-t5-gated", "zoo-mt5", "zoo-longt5", "zoo-longt5-global"}
"""Right models with a hook that is wrong: docs/findings/t5-hook-normalized.md."""


@dataclass(frozen=True)
class Flag:
    """A flag that one model of the zoo has.

    Attributes:
        what: in words.
        ignored: the values that whoever ignores it takes.
        named: the component that shows it first.
    """

    what: str
    model: str
    ignored: dict[str, Any]
    named: str


def rope(what: str, model: str, theta: float, **others: Any) -> Flag:
    """Rotary positions that are the plain ones to whoever ignores their scaling."""
    return Flag(what, model, {"rope_parameters": {"rope_type": "default", "rope_theta": theta, **others}}, "pattern")


FLAGS = (
    Flag("parallel blocks", "zoo-stablelm-parallel", {"use_parallel_residual": False}, "mlp_out"),
    Flag("sequential blocks", "zoo-gpt_neox-sequential", {"use_parallel_residual": True}, "ln2"),
    Flag("residual after the norm", "zoo-bloom-12", {"apply_residual_connection_post_layernorm": False}, "ln2"),
    Flag("query and key norms", "zoo-cohere-qk-norm", {"use_qk_norm": False}, "pattern"),
    Flag("query and key norms", "zoo-stablelm-parallel", {"qk_layernorm": False}, "pattern"),
    Flag("query and key norms", "zoo-glm4_moe", {"use_qk_norm": False}, "pattern"),
    Flag("query and key norms", "zoo-llama4", {"use_qk_norm": False}, "pattern"),
    Flag("attention biases", "zoo-llama-biases", {"attention_bias": False}, "pattern"),
    Flag("MLP biases", "zoo-llama-biases", {"mlp_bias": False}, "mlp_out"),
    Flag("tied", "zoo-llama-tied", {"tie_word_embeddings": False}, "logits"),
    Flag("ALiBi", "zoo-falcon-alibi", {"alibi": False}, "pattern"),
    rope("partial rotary", "zoo-glm", 10000.0, partial_rotary_factor=1.0),
    rope("partial rotary", "zoo-minimax_m2", 5000000.0, partial_rotary_factor=1.0),
    rope("linear rotary", "zoo-llama-linear", 10000.0),
    rope("dynamic rotary", "zoo-llama-dynamic", 10000.0),
    rope("dynamic rotary with alpha", "zoo-hunyuan_v1_dense", 10000.0),
    rope("llama3 rotary", "zoo-llama-llama3", 500000.0),
    rope("yarn rotary", "zoo-llama-yarn", 1000000.0),
    rope("longrope rotary", "zoo-llama-longrope", 10000.0),
    Flag(
        "linear rotary in full attention",
        "zoo-gemma3-scaled",
        {
            "rope_parameters": {
                "sliding_attention": DEFAULT,
                "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
            }
        },
        "pattern",
    ),
    Flag("no rotary in some layers", "zoo-smollm3", {"no_rope_layers": [1] * 4}, "pattern"),
    Flag("windows", "zoo-mixtral-window", {"sliding_window": None}, "pattern"),
    Flag("windows in some layers", "zoo-qwen2-window", {"layer_types": FULL}, "pattern"),
    Flag("windows in some layers", "zoo-gpt_neo-local", {"attention_layers": ["global"] * 4}, "pattern"),
    Flag("windows with rotary, full without", "zoo-cohere2", {"layer_types": FULL}, "pattern"),
    Flag("chunks", "zoo-llama4", {"attention_chunk_size": 8192}, "pattern"),
    Flag("temperature by position", "zoo-llama4", {"attn_temperature_tuning": False}, "pattern"),
    Flag("soft cap of scores", "zoo-gemma2-window", {"attn_logit_softcapping": None}, "pattern"),
    Flag("soft cap of logits", "zoo-gemma2-window", {"final_logit_softcapping": None}, "logits"),
    Flag("soft cap of logits", "zoo-nanochat", {"final_logit_softcapping": 1000.0}, "logits"),
    Flag("scale of scores", "zoo-gemma2-window", {"query_pre_attn_scalar": 24}, "pattern"),
    Flag("scale of scores by layer", "zoo-gpt2-inverse-layer", {"scale_attn_by_inverse_layer_idx": False}, "pattern"),
    Flag("clip_qkv", "zoo-olmo", {"clip_qkv": None}, "pattern"),
    Flag("clip_qkv", "zoo-olmoe", {"clip_qkv": None}, "pattern"),
    Flag("number of experts", "zoo-qwen2_moe", {"num_experts_per_tok": 1}, "mlp_out"),
    Flag("normalised weights of experts", "zoo-qwen3_moe", {"norm_topk_prob": False}, "mlp_out"),
    Flag("weights of experts not normalised", "zoo-olmoe", {"norm_topk_prob": True}, "mlp_out"),
    Flag("scale of routed experts", "zoo-deepseek_v3", {"routed_scaling_factor": 1.0}, "mlp_out"),
    Flag("groups of experts", "zoo-deepseek_v2", {"n_group": 1, "topk_group": 1}, "mlp_out"),
    Flag("groups of experts", "zoo-deepseek_v3", {"n_group": 1, "topk_group": 1}, "mlp_out"),
    Flag("correction bias of the router", "zoo-deepseek_v3", {"zero": "e_score_correction_bias"}, "mlp_out"),
    Flag("shared experts", "zoo-deepseek_v3", {"zero": "shared_experts"}, "mlp_out"),
    Flag("shared experts", "zoo-qwen2_moe", {"zero": r"shared_expert\."}, "mlp_out"),
    Flag("attention sinks", "zoo-gpt_oss", {"zero": "sinks"}, "pattern"),
    Flag("multiplier of the embedding", "zoo-granite", {"embedding_multiplier": 1.0}, "embed"),
    Flag("multiplier of scores", "zoo-granite", {"attention_multiplier": 24**-0.5}, "pattern"),
    Flag("multiplier of the residual", "zoo-granite", {"residual_multiplier": 1.0}, "attn_out"),
    Flag("scale of logits", "zoo-granite", {"logits_scaling": 1.0}, "logits"),
    Flag("scale of logits", "zoo-cohere", {"logit_scale": 1.0}, "logits"),
    Flag("latent attention, interleaved", "zoo-deepseek_v3", {"rope_interleave": False}, "pattern"),
    Flag("state space: bias of the convolution", "zoo-mamba", {"use_conv_bias": False}, "mixer_out"),
    Flag("state space: biases of the projections", "zoo-mamba-biases", {"use_bias": False}, "mixer_out"),
    Flag("state space: decay", "zoo-mamba2", {"zero": "A_log"}, "mixer_out"),
    Flag("state space: time step", "zoo-bamba", {"zero": "dt_bias"}, "mixer_out"),
    Flag("linear attention: decay", "zoo-qwen3_next", {"zero": "A_log"}, "mixer_out"),
    Flag("linear attention: time step", "zoo-qwen3_5", {"zero": "dt_bias"}, "mixer_out"),
    Flag("linear recurrence: window beside it", "zoo-recurrent_gemma", {"attention_window_size": 2048}, "resid_post"),
    Flag("multiplier of the embedding", "zoo-falcon_h1", {"embedding_multiplier": 1.0}, "embed"),
    Flag("multiplier of keys", "zoo-falcon_h1", {"key_multiplier": 1.0}, "pattern"),
    Flag("multiplier of attention", "zoo-falcon_h1", {"attention_out_multiplier": 1.0}, "ln2"),
    Flag("multiplier of the state space", "zoo-falcon_h1", {"ssm_out_multiplier": 1.0}, "ln2"),
    Flag("multipliers of the MLP", "zoo-falcon_h1", {"mlp_multipliers": [1.0, 1.0]}, "mlp_out"),
    Flag("scale of logits", "zoo-falcon_h1", {"lm_head_multiplier": 1.0}, "logits"),
)


def place(depth: Outcome[DepthProfile]) -> tuple[str, str]:
    """The component that is named, and where; "" and why if none is."""
    profile = depth.record
    if profile is None:
        return "", depth.reason[:110]
    wrong = profile.first_wrong()
    if wrong is None:
        return "", "nothing"
    return wrong.component, wrong.component if wrong.block is None else f"{profile.name_of(wrong.block)} {wrong.component}"


def main() -> int:
    """Plant each flag and print what was seen. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="only flags or models in whose name this pattern is")
    parser.add_argument(
        "--healthy", action="store_true", help="only whether anything is named in a right model; of every one"
    )
    asked = parser.parse_args()
    models = catalogue.load()
    flags = [flag for flag in FLAGS if not asked.healthy and re.search(asked.only, f"{flag.what} {flag.model}")]
    small = [model.name for model in models.every if model.source.is_zoo and re.search(asked.only, model.name)]
    healthy = small if asked.healthy else sorted({flag.model for flag in flags})
    for name in healthy:
        ensure(models.get(name), models)
    folder = Path(tempfile.mkdtemp(prefix="tlbench-flags-"))
    chosen = folder / "fault"
    chosen.write_text("")
    planted = Planted(tree_with_faults(folder / "tree", folder), "planted_flags", chosen)
    plants = [(json.dumps(flag.ignored), flag.model) for flag in flags] + [("", name) for name in healthy]
    cases = [(fault, Cell(model, "float32", "unprocessed", "TransformerBridge")) for fault, model in plants]
    missed = 0
    for flag, answers in zip([*flags, *[None] * len(healthy)], planted.answers((ACCURACY, DEPTH), cases), strict=True):
        accuracy = answers.outcomes[ACCURACY.name]
        component, where = place(answers.outcomes[DEPTH.name])
        word = accuracy.record.verdict if accuracy.record else f"{accuracy.kind}: {accuracy.reason[:110]}"
        is_wrong = accuracy.record is not None and accuracy.record.verdict.is_alarm
        size = f"{accuracy.record.accuracy.logit.mean:.3g} nats" if is_wrong else ""
        is_right = is_wrong == bool(component) or (component == "ln_final" and answers.cell.model in HOOK_IS_WRONG)
        is_right = is_right and (not flag or (is_wrong and flag.named == component))
        missed += not is_right
        what = flag.what if flag else "healthy"
        print(f"{'ok' if is_right else 'NOT OK'} | {answers.cell.model} | {what} | {word} {size} | {where}", flush=True)
    print(f"{len(cases) - missed} of {len(cases)} as they should be")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
