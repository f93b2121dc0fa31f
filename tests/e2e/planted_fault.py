"""Faults that ``planting.py`` adds to a copy of the release.

It stands for what goes wrong when a model is added to TransformerLens: the HuggingFace reference does not see it.
"""


def _head_scale(bridge):
    """The first head of block 1 writes a thousandth too much."""
    out = bridge.blocks[1].attn.o.original_component
    transposed = type(out).__name__ == "Conv1D"
    (out.weight if transposed else out.weight.T)[: bridge.cfg.d_head].mul_(1.001)


def _epsilon(bridge):
    """Every norm has ten times its epsilon, which the bridge reads from its own configuration or from the module."""
    bridge.cfg.eps = 10 * bridge.cfg.eps
    for module in bridge.original_model.modules():
        for name in ("eps", "variance_epsilon"):
            if isinstance(module.__dict__.get(name), float):
                setattr(module, name, 10 * getattr(module, name))


def _rotary_base(bridge):
    for name, buffer in bridge.original_model.named_buffers():
        if name.endswith("inv_freq"):
            buffer.pow_(1.01)


def _dropped_bias(bridge):
    """The MLP of block 2 writes no bias."""
    biases = [
        p for name, p in bridge.blocks[2].mlp.named_parameters() if name.endswith("bias") and len(p) == bridge.cfg.d_model
    ]
    biases[-1].zero_()


def _soft_cap(bridge):
    for module in bridge.original_model.modules():
        if getattr(getattr(module, "config", None), "final_logit_softcapping", None):
            module.config.final_logit_softcapping = None


_FAULTS = {
    "head scale": _head_scale,
    "epsilon": _epsilon,
    "rotary base": _rotary_base,
    "dropped bias": _dropped_bias,
    "soft cap": _soft_cap,
}
