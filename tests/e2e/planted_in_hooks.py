"""Faults that ``planting.py`` adds to a copy of the release.

The function from tokens to logits stays what it is, but in the last of them: what lies are hooks, caches and gradients.
"""

import functools as _functools

import torch as _torch


def _between(bridge, name, wrap):
    """Every hook that is added to a hook point from now on becomes what ``wrap`` makes of it."""
    point = bridge.hook_dict[name]
    add = point.add_hook
    point.add_hook = lambda function, *args, **kwargs: add(wrap(function), *args, **kwargs)


def _shown(scale):
    """Hooks are shown other than what passes by, which goes on as it is unless a hook replaces it."""

    def wrap(function):
        def hooked(value, hook):
            seen = scale(value)
            result = function(seen, hook=hook)
            return None if result is seen else result

        return hooked

    return wrap


def _louder(value):
    return 1.001 * value


def _disturbing_hook(bridge):
    """What a hook returns is not quite what goes on."""

    def wrap(function):
        def hooked(value, hook):
            result = function(value, hook=hook)
            return None if result is None else result * (1 + 1e-6)

        return hooked

    _between(bridge, "blocks.1.hook_attn_out", wrap)


def _disturbing_cache(bridge):
    run = bridge.run_with_cache

    def run_with_cache(*args, **kwargs):
        logits, cache = run(*args, **kwargs)
        return logits * (1 + 1e-6), cache

    bridge.run_with_cache = run_with_cache


def _deaf_hook(bridge):
    """What a hook returns is thrown away."""

    def wrap(function):
        def hooked(value, hook):
            function(value, hook=hook)

        return hooked

    _between(bridge, "blocks.2.hook_resid_pre", wrap)


def _silent_hook(bridge):
    _between(bridge, "blocks.1.mlp.hook_in", lambda function: lambda value, hook: None)


def _repeated_hook(bridge):
    def wrap(function):
        def hooked(value, hook):
            function(value, hook=hook)
            return function(value, hook=hook)

        return hooked

    _between(bridge, "blocks.1.mlp.hook_in", wrap)


def _hook_that_stays(bridge):
    remove, point = bridge._remove_temporary_hook, bridge.hook_dict["blocks.1.mlp.hook_in"]

    def remove_all_but_one(where, direction, handle):
        if where is not point:
            remove(where, direction, handle)

    bridge._remove_temporary_hook = remove_all_but_one


def _one_layer_early(argument):
    def plant(bridge):
        forward = bridge.forward

        @_functools.wraps(forward)
        def early(*args, **kwargs):
            layer = kwargs.get(argument)
            return forward(*args, **({**kwargs, argument: layer - 1} if layer else kwargs))

        bridge.forward = early

    return plant


def _reading_the_cache(do):
    """Before the HuggingFace model computes with a key-value cache, something is done to it or to the arguments."""

    def plant(bridge):
        def before(_, args, kwargs):
            cache = kwargs.get("past_key_values")
            if cache is None or not cache.get_seq_length():
                return None
            return args, do(cache, kwargs)

        bridge.original_model.register_forward_pre_hook(before, with_kwargs=True)

    return plant


def _scaled_keys(cache, kwargs):
    """The newest key of block 1 grows once it is in the cache."""
    keys = cache.layers[1].keys
    cache.layers[1].keys = _torch.cat([keys[..., :-1, :], _louder(keys[..., -1:, :])], -2)
    return kwargs


def _no_offset(cache, kwargs):
    """Each new token, one at a time, is at the first position again."""
    return {**kwargs, "position_ids": _torch.zeros(1, 1, dtype=_torch.long)}


def _another_token(bridge):
    """One token of a continuation, the eighth from its end, is another."""
    generate = bridge.generate

    def generate_another(*args, **kwargs):
        tokens = generate(*args, **kwargs).clone()
        tokens[0, -8] = (tokens[0, -8] + 1) % bridge.cfg.d_vocab
        return tokens

    bridge.generate = generate_another


class _LouderBackwards(_torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.view_as(value)

    @staticmethod
    def backward(ctx, gradient):
        return _louder(gradient)


def _scaled_gradient(bridge):
    bridge.blocks[1].mlp.register_forward_hook(lambda _, inputs, output: _LouderBackwards.apply(output))


def _scaled_directions(bridge):
    directions = bridge.tokens_to_residual_directions
    bridge.tokens_to_residual_directions = lambda tokens: _louder(directions(tokens))


def _scaled_logits(bridge):
    """A wrong function, which hooks and caches may tell the truth about."""
    bridge.unembed.register_forward_hook(lambda _, inputs, output: 1.1 * output)


_FAULTS = {
    "disturbing hook": _disturbing_hook,
    "disturbing cache": _disturbing_cache,
    "deaf hook": _deaf_hook,
    "silent hook": _silent_hook,
    "repeated hook": _repeated_hook,
    "hook that stays": _hook_that_stays,
    "other MLP shown": lambda bridge: _between(bridge, "blocks.1.hook_mlp_out", _shown(_louder)),
    "other pattern shown": lambda bridge: _between(bridge, "blocks.1.attn.hook_pattern", _shown(_louder)),
    "other output shown": lambda bridge: _between(bridge, "blocks.3.hook_resid_post", _shown(lambda x: x + x.roll(1, -1))),
    "other norm's scale shown": lambda bridge: _between(bridge, "ln_final.hook_scale", _shown(_louder)),
    "stop one layer early": _one_layer_early("stop_at_layer"),
    "start one layer early": _one_layer_early("start_at_layer"),
    "scaled keys": _reading_the_cache(_scaled_keys),
    "no position offset": _reading_the_cache(_no_offset),
    "another token": _another_token,
    "scaled gradient": _scaled_gradient,
    "scaled directions": _scaled_directions,
    "scaled logits": _scaled_logits,
}
