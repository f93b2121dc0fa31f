"""The suite that anyone would write first: each benchmark loads both models and runs both, under asv's defaults.

It measures what ``benchmarks/accuracy.py`` measures of one zoo model under TransformerBridge, with TransformerLens
issue 496's function written out, to be timed beside it and to have its numbers compared.
"""

import json
import os

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

FOLDER = os.environ["TLBENCH_PERF_FOLDER"]
FLAGS = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
NATURAL, ORIGIN = json.loads(os.environ["TLBENCH_PERF_PROMPTS"])


class Plain:
    params = [["float32", "float16", "bfloat16"], ["unprocessed", *FLAGS, "all_options"]]
    param_names = ["dtype", "option"]
    timeout = 600

    def logits(self, dtype, option, prompts):
        torch.set_num_threads(1)
        kind = getattr(torch, dtype)
        tokens = torch.tensor(prompts)
        hf = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=kind, attn_implementation="eager").eval()
        bridge = TransformerBridge.boot_transformers(FOLDER, device="cpu", dtype=kind)
        if option != "unprocessed":
            flags = {flag: option in (flag, "all_options") for flag in FLAGS}
            bridge.enable_compatibility_mode(disable_warnings=True, **flags)
        bridge.eval()
        with torch.inference_mode():
            return bridge(tokens, return_type="logits"), hf(tokens).logits

    def origin(self, dtype, option):
        t, h = self.logits(dtype, option, ORIGIN)
        return (torch.softmax(h, -1) - torch.softmax(t, -1)).abs()

    def probability(self, dtype, option):
        t, h = self.logits(dtype, option, NATURAL)
        return (torch.softmax(t.double(), -1) - torch.softmax(h.double(), -1)).abs()

    def logit(self, dtype, option):
        t, h = (z.double() - z.double().mean(-1, keepdim=True) for z in self.logits(dtype, option, NATURAL))
        return (t - h).abs()


def _track(space, statistic):
    def track(self, dtype, option):
        return getattr(getattr(self, space)(dtype, option), statistic)().item()

    return track


for _space in ("origin", "probability", "logit"):
    for _statistic in ("max", "mean", "median", "std"):
        setattr(Plain, f"track_{_space}_{_statistic}", _track(_space, _statistic))
