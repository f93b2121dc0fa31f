"""Added to the end of ``transformer_lens/model_bridge/__init__.py`` in a copy of the release: one fault, chosen by a file.

It stands for what goes wrong when a model is added to TransformerLens: the HuggingFace reference does not see it.
"""

import os as _os
import re as _re

import torch as _torch


def _first(pairs, pattern):
    return next((value for name, value in pairs if _re.search(pattern, name)), None)


def _head_scale(model, n_heads):
    weight = _first(model.named_parameters(), r"\.1\..*(o_proj|out_proj|c_proj|dense|attention\.dense)\b.*weight")
    width = max(weight.shape) // n_heads if weight.shape[0] == weight.shape[1] else 256
    columns = weight[:width] if "Conv1D" in _owners(model, weight) else weight[:, :width]
    columns.mul_(1.001)


def _owners(model, weight):
    return {type(module).__name__ for module in model.modules() if getattr(module, "weight", None) is weight}


def _epsilon(model, n_heads):
    for module in model.modules():
        for name in ("eps", "variance_epsilon"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 10 * getattr(module, name))


def _rotary_base(model, n_heads):
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq"):
            buffer.pow_(1.01)


def _dropped_bias(model, n_heads):
    _first(model.named_parameters(), r"\.2\..*bias$").zero_()


def _soft_cap(model, n_heads):
    for module in model.modules():
        for holder in (module, getattr(module, "config", None)):
            if getattr(holder, "final_logit_softcapping", None):
                holder.final_logit_softcapping = None


_FAULTS = {
    "head scale": _head_scale,
    "epsilon": _epsilon,
    "rotary base": _rotary_base,
    "dropped bias": _dropped_bias,
    "soft cap": _soft_cap,
}
_boot = TransformerBridge.boot_transformers  # noqa: F821


def _boot_with_fault(*args, **kwargs):
    bridge = _boot(*args, **kwargs)
    with open(_os.environ["TLBENCH_PLANTED"]) as file:
        fault = file.read()
    if fault:
        with _torch.no_grad():
            _FAULTS[fault](bridge.original_model, bridge.cfg.n_heads)
    return bridge


TransformerBridge.boot_transformers = staticmethod(_boot_with_fault)  # noqa: F821
