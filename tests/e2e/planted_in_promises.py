"""Faults that ``planting.py`` adds to a copy of the release.

Each breaks one promise that `tlbench verify` asks about: causality, padding, the loss, a switch, backward hooks, a
decomposition, an accessor, or memory.
"""

import functools as _functools

import torch as _torch


def _louder(value):
    return 1.001 * value


def _future(bridge):
    """A block's attention reads a little of the next position."""

    def leak(_, inputs, output):
        first = output[0] if isinstance(output, tuple) else output
        mixed = first + 1e-3 * first.roll(-1, 1)
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

    bridge.blocks[1].attn.register_forward_hook(leak)


def _future_of_a_given_model(bridge):
    if bridge.__dict__.get("_is_given"):
        _future(bridge)


def _wrapped(name, change):
    """A method of the bridge, with its arguments or its result changed."""

    def plant(bridge):
        original = getattr(bridge, name)

        @_functools.wraps(original)
        def changed(*args, **kwargs):
            return change(original, *args, **kwargs)

        setattr(bridge, name, changed)

    return plant


def _without_mask(original, *args, attention_mask=None, **kwargs):
    return original(*args, **kwargs)


def _mask_of_ones(original, *args, **kwargs):
    if kwargs.get("attention_mask") is not None:
        kwargs["attention_mask"] = _torch.ones_like(kwargs["attention_mask"])
    return original(*args, **kwargs)


def _loss_over_padding(original, logits, tokens, attention_mask=None, **kwargs):
    return original(logits, tokens, **kwargs)


def _louder_result(original, *args, **kwargs):
    return _louder(original(*args, **kwargs))


def _unshifted_tokens(original, *args, per_token=False, **kwargs):
    loss = original(*args, per_token=per_token, **kwargs)
    return loss.roll(1, -1) if per_token else loss


def _switch_that_counts(name):
    """While the switch is on, the logits are others."""

    def plant(bridge):
        original = getattr(bridge, f"set_{name}")
        is_on = []
        bridge.unembed.register_forward_hook(lambda _, inputs, output: _louder(output) if is_on else None)

        def switch(value):
            original(value)
            is_on[:] = [value] if value else []

        setattr(bridge, f"set_{name}", switch)

    return plant


def _refactoring(original, *args, refactor_factored_attn_matrices=False, **kwargs):
    original(*args, refactor_factored_attn_matrices=refactor_factored_attn_matrices, **kwargs)
    if refactor_factored_attn_matrices:
        original.__self__.unembed.register_forward_hook(lambda _, inputs, output: _louder(output))


def _backward_hooks(original, *args, bwd_hooks=(), **kwargs):
    def louder(function):
        return lambda gradient, hook: function(_louder(gradient), hook=hook)

    return original(*args, bwd_hooks=[(name, louder(function)) for name, function in bwd_hooks], **kwargs)


def _cached_gradients(original, *args, incl_bwd=False, **kwargs):
    result, cache = original(*args, incl_bwd=incl_bwd, **kwargs)
    for name in list(cache.cache_dict) if incl_bwd else ():
        if name.endswith("_grad"):
            cache.cache_dict[name] = _louder(cache.cache_dict[name])
    return result, cache


def _of_the_cache(name):
    """What a method of every ActivationCache returns is a thousandth too large."""

    def plant(bridge):
        from transformer_lens import ActivationCache

        original = getattr(ActivationCache, name)
        setattr(ActivationCache, name, lambda *args, **kwargs: _louder(original(*args, **kwargs)))

    return plant


def _accessor(name, value):
    def plant(bridge):
        original = getattr(type(bridge), name)
        setattr(type(bridge), name, property(lambda self: value(self, original.__get__(self))))

    return plant


def _second_copy(bridge):
    bridge.__dict__["_copies"] = [parameter.clone() for parameter in bridge.original_model.parameters()]


def _kept_pattern(bridge):
    attention = bridge.blocks[1].attn

    def keep(_, inputs, output):
        attention.__dict__["_kept"] = output[0] if isinstance(output, tuple) else output

    attention.register_forward_hook(keep)


_FAULTS = {
    "future": _future,
    "future of a given model": _future_of_a_given_model,
    "mask ignored": _wrapped("forward", _mask_of_ones),
    "mask ignored by generate": _wrapped("generate", _without_mask),
    "loss over padding": _wrapped("loss_fn", _loss_over_padding),
    "louder loss": _wrapped("loss_fn", _louder_result),
    "loss at another token": _wrapped("loss_fn", _unshifted_tokens),
    **{
        f"switch {name}": _switch_that_counts(name)
        for name in ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in")
    },
    "refactoring": _wrapped("enable_compatibility_mode", _refactoring),
    "backward hooks": _wrapped("run_with_hooks", _backward_hooks),
    "cached gradients": _wrapped("run_with_cache", _cached_gradients),
    "accumulated": _of_the_cache("accumulated_resid"),
    "decomposed": _of_the_cache("decompose_resid"),
    "attributed": _of_the_cache("logit_attrs"),
    "keys for values": _accessor("W_V", lambda bridge, own: bridge.W_K),
    "transposed heads": _accessor("W_Q", lambda bridge, own: own.flip(1)),
    "another bias": _accessor("b_in", lambda bridge, own: own.roll(1, 0)),
    "another product": _accessor("OV", lambda bridge, own: bridge.QK),
    "scaled embedding rows": _accessor("W_E", lambda bridge, own: _torch.cat([own[:1], _louder(own[1:])])),
    "second copy": _second_copy,
    "pattern kept": _kept_pattern,
}
