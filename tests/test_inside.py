"""Hooks, readings, generation, gradients: on models made up so that each figure is known, and the references by formula."""

import json
import math
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from asv_runner.benchmarks.mark import SkipNotImplemented
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from benchmarks.cell import figure
from benchmarks.hooks import Hooks
from tests import independent
from tlbench import Cell, NotApplicable, catalogue
from tlbench.catalogue import Source, Task
from tlbench.checkpoints import ensure
from tlbench.components import Component
from tlbench.exceptions import CellFailed, NoGolden, NonFiniteLogits
from tlbench.grid import Dtype, Option
from tlbench.lens import Lens
from tlbench.metrics.golden_error import is_tie
from tlbench.metrics.relative_error import logit_difference
from tlbench.questions import generation, gradients, hooks, reading
from tlbench.questions.attempts import Attempts
from tlbench.records.inside import Generation, GradientError, Gradients, HookTruth, Pair, Reading
from tlbench.records.serial import plain, restored
from tlbench.reference import activations as inside
from tlbench.reference import golden, huggingface
from tlbench.reference.activations import Exact
from tlbench.reference.float64 import true_float64
from tlbench.reference.golden import Weights
from tlbench.reference.interventions import CHANGES, Edit
from tlbench.reference.sites import editing, watching

ZOO = [model.name for model in catalogue.load().models if model.source is Source.ZOO]
CELL = Cell("zoo-gpt2", "float32", "unprocessed", "TransformerBridge")
CHECKPOINT = SimpleNamespace(model=SimpleNamespace(name="made up"), folder=Path("no such folder"))
IDS = torch.tensor([[0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4]])
N_BLOCKS, WIDTH, VOCABULARY = 4, 8, 11
POINTS = ("hook_resid_pre", "attn.hook_pattern", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
U = 2.0**-24
"""Half the distance from 1 to the next float32, so that sums of a few of it are rounded in known ways."""


class Point:
    """A hook point as TransformerLens has it. Its hooks are given ``shown`` of what passes, so often as ``times`` says."""

    def __init__(self):
        self.fwd_hooks, self.bwd_hooks = [], []
        self.shown = lambda value: value
        self.hears = True
        self.times = 1

    def __call__(self, value):
        for _ in range(self.times):
            for hook in self.fwd_hooks:
                result = hook(self.shown(value), hook=self)
                value = result if self.hears and result is not None else value
        return value


class MadeUp(nn.Module):
    """Four blocks with TransformerLens's hook points and entrances. Each method stands for what a fault may replace."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.cfg = SimpleNamespace()
        self.blocks = range(N_BLOCKS)
        self.hook_dict = {f"blocks.{i}.{name}": Point() for i in range(N_BLOCKS) for name in POINTS}
        self.embedding = torch.randn(6, WIDTH, generator=generator)
        self.mixing, self.mapping = (torch.randn(N_BLOCKS, WIDTH, WIDTH, generator=generator) / 4 for _ in range(2))
        self.unembedding = torch.randn(WIDTH, VOCABULARY, generator=generator)
        self.refused, self.staying, self.cap = set(), set(), None

    def pattern(self, i, x):
        """Half of the attention stays, and half goes to the position before."""
        itself = torch.eye(x.shape[1])
        before = torch.cat([itself[:1], itself[:-1]])
        return ((itself + before) / 2).expand(len(x), 1, *itself.shape)

    def attention(self, i, pattern, x):
        return pattern[:, 0] @ x @ self.mixing[i]

    def mlp(self, i, x):
        return torch.tanh(x @ self.mapping[i])

    def add(self, i, pre, attn, mlp):
        return (pre + attn) + mlp

    def ln_final(self, x):
        return x / x.square().mean(-1, keepdim=True).sqrt()

    def unembed(self, x):
        return x @ self.unembedding

    def forward(self, value, return_type="logits", start_at_layer=0, stop_at_layer=None):
        x = value if start_at_layer else self.embedding[value]
        for i in range(start_at_layer, N_BLOCKS):
            if i == stop_at_layer:
                return x
            at = [self.hook_dict.get(f"blocks.{i}.{name}", lambda value: value) for name in POINTS]
            pre = at[0](x)
            attn = at[2](self.attention(i, at[1](self.pattern(i, pre)), pre))
            x = at[4](self.add(i, pre, attn, at[3](self.mlp(i, pre + attn))))
        logits = self.unembed(self.ln_final(x))
        return self.cap * torch.tanh(logits / self.cap) if self.cap else logits

    @contextmanager
    def hooks(self, fwd_hooks):
        for name, hook in fwd_hooks:
            if name in self.refused:
                raise ValueError(f"{name} is not computed unless it is asked for")
            self.hook_dict[name].fwd_hooks.append(hook)
        try:
            yield
        finally:
            for name, hook in fwd_hooks:
                if name not in self.staying:
                    self.hook_dict[name].fwd_hooks.remove(hook)

    def run_with_hooks(self, value, return_type, fwd_hooks):
        with self.hooks(fwd_hooks):
            return self(value)

    def run_with_cache(self, value, return_type):
        return self(value), {}


def lens_of(model, logits=None, steps=None, greedy=None):
    return Lens(logits or model, 0, model, steps, greedy, None)


def patched(x):
    """The first prompt's middle position becomes the second's."""
    half = x.shape[1] // 2
    return torch.stack([torch.cat([x[0, :half], x[1, half : half + 1], x[0, half + 1 :]]), x[1]])


EDITS = {
    "doubled_input": ("pre", lambda x: x + x),
    "no_attention": ("attn", lambda x: 0 * x),
    "no_mlp": ("mlp", lambda x: 0 * x),
    "patched": ("pre", patched),
}


def by_formula(model, edit=None):
    """The logits at the last position of the made-up model in float64, with an edit of its block 2."""
    where, change = EDITS.get(edit, ("", None))

    def of(i, name, value):
        return change(value) if (i, name) == (2, where) else value

    x = model.embedding[IDS].double()
    for i in range(N_BLOCKS):
        pre = of(i, "pre", x)
        attn = of(i, "attn", (torch.cat([pre[:, :1], pre[:, :-1]], 1) + pre) / 2 @ model.mixing[i].double())
        x = pre + attn + of(i, "mlp", torch.tanh((pre + attn) @ model.mapping[i].double()))
    last = x[:, -1]
    return last / last.square().mean(-1, keepdim=True).sqrt() @ model.unembedding.double()


def centred_rms(logits):
    return (logits - logits.mean(-1, keepdim=True)).square().mean().sqrt().item()


@pytest.fixture(autouse=True)
def one_thread():
    """For models so small, more only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def made_up(monkeypatch):
    """A healthy model, whose exact edits are known and whose HuggingFace reference is off by 2**-20."""
    model = MadeUp()
    edited = {edit: by_formula(model, edit) for edit in EDITS}
    exact = Exact({f"edited/{edit}": logits for edit, logits in edited.items()}, N_BLOCKS, centres=False)
    reference = SimpleNamespace(edited={edit: logits * (1 + 2**-20) for edit, logits in edited.items()})
    monkeypatch.setattr(huggingface, "tokens", lambda checkpoint, name: IDS)
    monkeypatch.setattr(hooks, "exact", lambda checkpoint, dtype: exact)
    monkeypatch.setattr(hooks, "huggingface_inside", lambda checkpoint, dtype: reference)
    return model


def hooks_of(model, checkpoint=CHECKPOINT):
    return hooks.measure_hooks(CELL, (checkpoint, lens_of(model)))


# Hooks that tell the truth, and that lie -----------------------------------------------------------------------------


def test_of_a_model_whose_hooks_tell_the_truth_every_figure_is_zero_or_rounding(made_up):
    found = hooks_of(made_up)
    assert found.additivity == found.pattern_rows == found.final == found.cached == found.hooked == found.disturbance == 0
    assert found.stop_at_layer == found.start_at_layer == found.leftover == 0
    assert found.silent == found.repeated == found.refused == ()
    assert found.n_hooks == N_BLOCKS * len(POINTS)
    assert found.edits.keys() == EDITS.keys()
    for pair in found.edits.values():
        assert pair.reference_error == pytest.approx(2**-20, rel=1e-9)
        assert 0 < pair.error < 100 * U
    assert found.reasons == {}


ORDERS = {
    "attention first": (lambda i, pre, attn, mlp: (pre + attn) + mlp, 1 - U),
    "attention and MLP together": (lambda i, pre, attn, mlp: pre + (attn + mlp), 1.0),
    "MLP first": (lambda i, pre, attn, mlp: (pre + mlp) + attn, 1 - 2 * U),
}


def rounding_three_ways(model):
    """1, -1.5 U and U: their float32 sum is another in each of the three orders. Only block 1 adds anything."""
    model.embedding = torch.ones_like(model.embedding)
    model.attention = lambda i, pattern, x: torch.full_like(x, -1.5 * U if i == 1 else 0)
    model.mlp = lambda i, x: torch.full_like(x, U if i == 1 else 0)


@pytest.mark.parametrize("order", ORDERS)
def test_an_output_that_is_the_sum_in_any_order_bit_for_bit_is_no_error(made_up, order):
    rounding_three_ways(made_up)
    made_up.add, rounded = ORDERS[order]
    assert made_up(IDS, stop_at_layer=2).unique().tolist() == [rounded]
    assert hooks_of(made_up).additivity == 0


def test_an_output_that_is_the_sum_in_no_order_has_the_relative_error_of_the_exact_sum(made_up):
    rounding_three_ways(made_up)
    made_up.add = lambda i, pre, attn, mlp: pre + 2 * U if i == 1 else pre
    found = hooks_of(made_up)
    assert found.additivity == pytest.approx(2.5 * U / (1 + 2 * U), rel=1e-12)
    assert found.additivity_block == 1


@pytest.mark.parametrize("block", range(N_BLOCKS))
def test_a_hook_that_shows_other_than_what_is_added_is_found_in_its_block(made_up, block):
    added, passed = [], []
    made_up.hook_dict[f"blocks.{block}.hook_mlp_out"].shown = lambda value: added.append(value) or 1.5 * value
    made_up.hook_dict[f"blocks.{block}.hook_resid_post"].shown = lambda value: passed.append(value) or value
    found = hooks_of(made_up)
    expected = added[0].double().norm() / 2 / passed[0].double().norm()
    assert found.additivity == pytest.approx(expected.item(), rel=1e-5)
    assert found.additivity_block == block


def test_one_wrong_entry_of_a_block_is_seen(made_up):
    def add(i, pre, attn, mlp):
        post = pre + attn + mlp
        if i == 3:
            post[1, 2, 5] += 2**-10
        return post

    made_up.add = add
    assert 1e-5 < hooks_of(made_up).additivity < 1e-3


def test_a_block_that_is_not_a_number_has_no_sum(made_up):
    made_up.mlp = lambda i, x: torch.full_like(x, math.nan if i == 3 else 1)
    found = hooks_of(made_up)
    assert (found.additivity, found.additivity_block) == (math.inf, 3)


@pytest.mark.parametrize("name", ["hook_resid_pre", "hook_attn_out", "hook_mlp_out"])
def test_where_a_hook_of_a_block_never_fires_additivity_is_not_applicable_and_the_hook_is_silent(made_up, name):
    made_up.hook_dict[f"blocks.2.{name}"].times = 0
    found = hooks_of(made_up)
    assert found.additivity is None
    assert found.reasons["sums"] == f"n/a: no hook fired for {name.removeprefix('hook_')}"
    assert found.silent == (f"blocks.2.{name}",)
    assert found.pattern_rows == 0


def test_where_there_is_no_such_hook_additivity_is_not_applicable_and_the_rest_is_measured(made_up):
    del made_up.hook_dict["blocks.2.hook_mlp_out"]
    found = hooks_of(made_up)
    assert found.additivity is None
    assert found.pattern_rows == 0
    assert found.reasons["sums"] == "n/a: this TransformerLens has no blocks.2.hook_mlp_out"
    assert found.hooked == found.final == found.stop_at_layer == 0


def test_the_row_of_a_pattern_that_is_furthest_from_one_is_told(made_up):
    def shown(pattern):
        pattern = pattern.clone()
        pattern[1, 0, 3, 0] += 2**-6
        pattern[0, 0, 2, 2] -= 2**-5
        return pattern

    made_up.hook_dict["blocks.1.attn.hook_pattern"].shown = shown
    assert hooks_of(made_up).pattern_rows == 2**-5


@pytest.mark.parametrize("block", range(N_BLOCKS))
def test_a_pattern_that_is_not_a_number_is_seen_in_any_block(made_up, block):
    made_up.hook_dict[f"blocks.{block}.attn.hook_pattern"].shown = lambda pattern: pattern * math.nan
    assert not math.isfinite(hooks_of(made_up).pattern_rows)


def test_a_negative_entry_of_a_pattern_is_told_where_the_rows_sum_to_one_all_the_same(made_up):
    def shown(pattern):
        pattern = pattern.clone()
        pattern[1, 0, 3, 0] -= 2**-6
        pattern[1, 0, 3, 3] += 2**-6
        return pattern

    made_up.hook_dict["blocks.1.attn.hook_pattern"].shown = shown
    assert hooks_of(made_up).pattern_rows == 2**-6


SINK = 0.25
"""What the sinks below take of each row."""


def with_sinks(pattern):
    """As in GPT-OSS: a sink takes a share of the probability by what the block reads, and has no column."""
    return lambda i, x: (1 - SINK * torch.sigmoid(x.sum(-1)))[:, None, :, None] * pattern(i, x)


def share_of_sinks(x):
    return SINK * torch.sigmoid(x.double().sum(-1))


@pytest.fixture
def sinking(made_up, monkeypatch):
    """The made-up model with sinks, and its exact inputs and patterns in float64."""
    plain, made_up.plain = made_up.pattern, made_up.pattern
    made_up.pattern = with_sinks(plain)
    exact = hooks.exact(CHECKPOINT, CELL.dtype)
    x, tensors = made_up.embedding[IDS].double(), {}
    for i in range(N_BLOCKS):
        tensors[f"blocks.{i}.resid_pre"] = x
        pattern = tensors[f"blocks.{i}.pattern"] = with_sinks(plain)(i, x)
        attn = pattern[:, 0] @ x @ made_up.mixing[i].double()
        x = x + attn + torch.tanh((x + attn) @ made_up.mapping[i].double())
    tensors[f"blocks.{N_BLOCKS - 1}.resid_post"] = x
    known = replace(exact, tensors={**exact.tensors, **tensors})
    monkeypatch.setattr(hooks, "exact", lambda checkpoint, dtype: known)
    return made_up


def test_rows_that_sum_to_less_than_one_are_right_where_the_exact_ones_do(sinking):
    rows = sinking.pattern(0, sinking.embedding[IDS]).sum(-1)
    assert rows.min() < 1 - SINK / 2
    assert hooks_of(sinking).pattern_rows < 8 * U


def test_sinks_that_are_dropped_are_told_by_the_largest_probability_that_they_should_have(sinking):
    exact = hooks.exact(CHECKPOINT, CELL.dtype)
    largest = max(share_of_sinks(exact.get(i, Component.RESID_PRE)).max().item() for i in range(N_BLOCKS))
    sinking.pattern = sinking.plain
    assert largest > SINK / 2
    assert hooks_of(sinking).pattern_rows == pytest.approx(largest, rel=1e-6)


def test_where_there_are_sinks_rows_of_one_block_are_not_blamed_for_what_the_blocks_before_it_do(sinking):
    mlp = sinking.mlp
    sinking.mlp = lambda i, x: 1.1 * mlp(i, x)
    assert hooks_of(sinking).pattern_rows < 8 * U


def test_a_pattern_of_another_shape_than_the_exact_one_with_sinks_is_no_figure(sinking):
    sinking.hook_dict["blocks.1.attn.hook_pattern"].shown = lambda pattern: pattern[:, 0]
    found = hooks_of(sinking)
    assert found.pattern_rows is None
    expected = "CellFailed: TransformerLens's pattern has rows of shape [2, 6], the golden's of shape [2, 1, 6]"
    assert found.reasons["patterns"] == expected


def test_sinks_without_an_exact_answer_are_not_applicable_and_are_known_by_the_checkpoints_weights(
    made_up, monkeypatch, tmp_path
):
    def none(checkpoint, dtype):
        raise NoGolden("too large")

    monkeypatch.setattr(hooks, "exact", none)
    checkpoint = SimpleNamespace(model=CHECKPOINT.model, folder=tmp_path)
    save_file({"model.layers.0.self_attn.q_proj.weight": torch.ones(1)}, tmp_path / "one.safetensors")
    assert hooks_of(made_up, checkpoint).pattern_rows == 0
    save_file({"model.layers.1.self_attn.sinks": torch.ones(1)}, tmp_path / "two.safetensors")
    found = hooks_of(made_up, checkpoint)
    assert found.pattern_rows is None
    expected = "n/a: a row sums to one minus its attention sink's probability, which is unknown here: too large"
    assert found.reasons["patterns"] == expected


def test_without_pattern_hooks_the_rows_are_skipped_and_additivity_is_measured(made_up):
    for i in range(N_BLOCKS):
        del made_up.hook_dict[f"blocks.{i}.attn.hook_pattern"]
    found = hooks_of(made_up)
    assert found.additivity == 0
    assert found.pattern_rows is None
    with pytest.raises(SkipNotImplemented):
        tracks_of(found).track_pattern_rows()


def test_the_hooked_stream_through_norm_and_unembedding_is_the_logits_with_a_soft_cap_too(made_up):
    made_up.cap = made_up.cfg.output_logits_soft_cap = 2.0
    assert hooks_of(made_up).final == 0
    made_up.cap = None
    assert hooks_of(made_up).final > 0.1


def test_a_last_hook_that_shows_another_stream_makes_other_logits(made_up):
    made_up.ln_final = lambda x: x
    made_up.hook_dict["blocks.3.hook_resid_post"].shown = lambda value: value * (1 + 2**-8)
    assert hooks_of(made_up).final == pytest.approx(2**-8, rel=1e-4)


def one_bit(logits):
    changed = logits.clone()
    changed[1, 2, 3] = torch.nextafter(changed[1, 2, 3], torch.tensor(math.inf))
    return changed


@pytest.mark.parametrize("when", ["hooked", "cached"])
def test_looking_at_the_model_that_changes_one_bit_of_one_logit_is_a_disturbance(made_up, when):
    run_with_hooks, run_with_cache = made_up.run_with_hooks, made_up.run_with_cache
    if when == "hooked":
        made_up.run_with_hooks = lambda *words, **named: one_bit(run_with_hooks(*words, **named))
    else:
        made_up.run_with_cache = lambda *words, **named: (one_bit(run_with_cache(*words, **named)[0]), {})
    found = hooks_of(made_up)
    plain = made_up(IDS).double()
    bit = (one_bit(made_up(IDS)).double() - plain).max().item()
    assert 0 < bit < 1e-6
    assert found.disturbance == getattr(found, when) == bit
    assert found.hooked + found.cached == bit


def test_logits_that_looking_makes_infinite_or_nan_are_an_infinite_disturbance(made_up):
    for bad in (math.inf, math.nan):
        made_up.run_with_cache = lambda value, return_type, bad=bad: (made_up(value) * bad, {})
        assert hooks_of(made_up).disturbance == math.inf


def test_logits_that_overflow_alike_with_and_without_hooks_are_no_disturbance(made_up):
    made_up.unembedding[:, 3] = math.inf
    made_up.unembedding[:, 4] = math.nan
    assert not made_up(IDS).isfinite().all()
    found = hooks_of(made_up)
    assert found.hooked == found.cached == 0


def test_silent_repeated_and_refused_hooks_are_named(made_up):
    made_up.hook_dict["blocks.0.attn.hook_pattern"].times = 0
    made_up.hook_dict["blocks.1.attn.hook_pattern"].times = 2
    made_up.hook_dict["blocks.2.asked_for"] = Point()
    made_up.refused = {"blocks.2.asked_for"}
    found = hooks_of(made_up)
    assert found.silent == ("blocks.0.attn.hook_pattern",)
    assert found.repeated == ("blocks.1.attn.hook_pattern",)
    assert found.refused == ("blocks.2.asked_for",)
    assert found.n_hooks == N_BLOCKS * len(POINTS) + 1
    assert found.reasons == {}


def test_hooks_that_stay_are_counted_once_for_a_point_of_two_names_and_those_from_before_are_not(made_up):
    made_up.hook_dict["blocks.3.hook_mlp_out"].fwd_hooks.append(lambda value, hook: None)
    made_up.hook_dict["another name"] = made_up.hook_dict["blocks.1.hook_mlp_out"]
    assert hooks_of(made_up).leftover == 0
    made_up.staying = {"blocks.1.hook_mlp_out"}
    # One by which it was asked whether the point takes hooks, and one identity.
    assert hooks_of(made_up).leftover == 2


def test_a_backward_hook_that_stays_is_counted(made_up):
    run_with_hooks, point = made_up.run_with_hooks, made_up.hook_dict["blocks.1.hook_mlp_out"]

    def leaving_one(*words, **named):
        point.bwd_hooks.append("a hook")
        return run_with_hooks(*words, **named)

    made_up.run_with_hooks = leaving_one
    assert hooks_of(made_up).leftover == 1


@pytest.mark.parametrize("argument", ["stop_at_layer", "start_at_layer"])
def test_a_layer_that_is_one_off_is_the_difference_of_the_two(made_up, argument):
    forward = made_up.forward
    residuals = [forward(IDS, stop_at_layer=i) for i in (1, 2)]

    def off(value, return_type="logits", start_at_layer=0, stop_at_layer=None):
        layers = {"start_at_layer": start_at_layer, "stop_at_layer": stop_at_layer}
        if layers[argument]:
            layers[argument] -= 1
        return forward(value, **layers)

    made_up.forward = off
    found = hooks_of(made_up)
    if argument == "stop_at_layer":
        difference, other = residuals[0] - residuals[1], found.start_at_layer
    else:
        difference, other = forward(residuals[1], start_at_layer=1) - forward(IDS), found.stop_at_layer
    assert getattr(found, argument) == pytest.approx(difference.abs().max().item(), rel=1e-6)
    assert getattr(found, argument) > 0.1
    assert other == 0


def test_where_forward_takes_no_layer_stopping_and_starting_are_not_applicable(made_up):
    forward = made_up.forward
    made_up.forward = lambda value, return_type="logits": forward(value)
    found = hooks_of(made_up)
    assert found.stop_at_layer is found.start_at_layer is None
    for argument in ("stop_at_layer", "start_at_layer"):
        assert found.reasons[argument] == f"n/a: this TransformerLens has no {argument}"


@pytest.mark.parametrize(
    ("name", "unheard"), [("hook_resid_pre", ("doubled_input", "patched")), ("hook_mlp_out", ("no_mlp",))]
)
def test_an_edit_that_is_not_taken_has_the_whole_effect_as_its_error(made_up, name, unheard):
    made_up.hook_dict[f"blocks.2.{name}"].hears = False
    found = hooks_of(made_up)
    plain = by_formula(made_up)
    for edit, pair in found.edits.items():
        exact = by_formula(made_up, edit)
        effect = centred_rms(plain - exact) / centred_rms(exact)
        assert effect > 1e-3
        assert pair.error == pytest.approx(effect, rel=1e-4) if edit in unheard else pair.error < 100 * U
    assert found.edit_ratio == pytest.approx(max(pair.error for pair in found.edits.values()) * 2**20, rel=1e-6)


def test_without_an_exact_answer_edits_are_not_applicable_and_the_rest_is_measured(made_up, monkeypatch):
    def none(checkpoint, dtype):
        raise NoGolden("too large")

    monkeypatch.setattr(hooks, "exact", none)
    found = hooks_of(made_up)
    assert found.edits == {}
    assert found.edit_ratio is None
    assert found.reasons == {"edits": "n/a: too large"}
    assert found.additivity == found.hooked == 0


def test_what_raises_leaves_its_reason_and_a_model_that_does_not_run_fails(made_up):
    def broken(*words, **named):
        raise RuntimeError("no cache today")

    made_up.run_with_cache = broken
    found = hooks_of(made_up)
    assert found.cached is None
    assert found.reasons == {"cache": "RuntimeError: no cache today"}
    made_up.forward = broken
    with pytest.raises(CellFailed, match="the forward pass raised RuntimeError: no cache today"):
        hooks_of(made_up)


# What of it becomes a benchmark's figure -----------------------------------------------------------------------------


def tracks_of(found):
    tracks = Hooks()
    tracks.measurement = found
    return tracks


def test_findings_keep_reasons_and_tell_what_cannot_exist_from_what_failed():
    def raising(error):
        def find():
            raise error

        return find

    attempts = Attempts()
    assert attempts.attempt("one", lambda: 1) == 1
    assert attempts.attempt("nothing", list) == []
    for error in (NotApplicable("a"), NoGolden("b"), NotImplementedError("c"), CellFailed("d"), ZeroDivisionError("e")):
        assert attempts.attempt(type(error).__name__, raising(error)) is None
    assert attempts.reasons == {
        "NotApplicable": "n/a: a",
        "NoGolden": "n/a: b",
        "NotImplementedError": "n/a: c",
        "CellFailed": "CellFailed: d",
        "ZeroDivisionError": "ZeroDivisionError: e",
    }


def test_what_makes_no_sense_for_a_task_is_not_attempted_and_says_why():
    attempts = Attempts(Task.MASKED)
    assert attempts.attempt("last_token", lambda: 1 / 0) is None
    assert attempts.attempt("given_logits", lambda: 1) == 1
    assert attempts.reasons == {"last_token": "n/a: a masked encoder attends to later tokens"}


def test_a_figure_is_a_number_or_skipped_or_failed():
    assert figure(3, "") == 3.0
    assert isinstance(figure(3, ""), float)
    assert figure(0.0, "n/a: of something else") == 0
    with pytest.raises(SkipNotImplemented, match="n/a: no such hook"):
        figure(None, "n/a: no such hook")
    for reason in ("", "RuntimeError: it raised", "it is n/a"):
        with pytest.raises(CellFailed):
            figure(None, reason)
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(NonFiniteLogits):
            figure(value, "")


def test_a_cache_that_raises_is_not_shown_as_one_that_disturbs_nothing(made_up):
    def broken(*words, **named):
        raise RuntimeError("no cache today")

    made_up.run_with_cache = broken
    with pytest.raises(CellFailed, match="no cache today"):
        tracks_of(hooks_of(made_up)).track_hook_disturbance()


# Edits and readings --------------------------------------------------------------------------------------------------


def test_the_patch_changes_one_position_of_the_first_prompt_and_no_tensor_in_place():
    residual = torch.arange(2.0 * 7 * 3).reshape(2, 7, 3)
    before = residual.clone()
    after = CHANGES[Edit.PATCHED].apply(residual)
    assert torch.equal(residual, before)
    changed = (after != residual).any(-1)
    assert changed.nonzero().tolist() == [[0, 3]]
    assert torch.equal(after[0, 3], residual[1, 3])


def test_edits_double_remove_and_patch_what_their_names_say_in_the_block_half_way():
    x = torch.tensor([[[1.0, -2.0]], [[3.0, 4.0]]])
    assert torch.equal(CHANGES[Edit.DOUBLED_INPUT].apply(x), x + x)
    for edit in (Edit.NO_ATTENTION, Edit.NO_MLP):
        assert not CHANGES[edit].apply(x).any()
    assert [CHANGES[edit].site(5) for edit in Edit] == [
        "blocks.2.resid_pre",
        "blocks.2.attn_out",
        "blocks.2.mlp_out",
        "blocks.2.resid_pre",
    ]


def test_a_logit_difference_is_of_the_last_position_of_each_prompts_own_tokens():
    logits = torch.zeros(2, 3, 5)
    logits[:, -1] = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0], [1.0, 3.0, 9.0, 27.0, 81.0]])
    tokens = torch.tensor([[4, 0], [1, 3]])
    assert logit_difference(logits, tokens).tolist() == [15, -24]
    assert logit_difference(logits[:, -1], tokens).tolist() == [15, -24]
    assert logit_difference(logits.half(), tokens).dtype is torch.float64


@pytest.fixture
def reading_of(made_up, monkeypatch):
    """Reads the made-up model with an error of 2**-8 nats in one logit of each prompt; HuggingFace has 2**-10."""
    torch.set_default_dtype(torch.float64)
    model = MadeUp()
    tokens = torch.tensor([[0, 1], [2, 3]])
    tensors = {"logits": model(IDS), "tokens": tokens, "edited/patched": by_formula(model, "patched")}
    off = torch.zeros(2, 1, VOCABULARY)
    off[0, 0, 0] = off[1, 0, 3] = 1.0
    edited = {Edit.PATCHED: tensors["edited/patched"]}

    def read(heads=None):
        exact = Exact(tensors | ({"heads": heads} if heads is not None else {}), N_BLOCKS, centres=False)
        monkeypatch.setattr(reading, "exact", lambda checkpoint, dtype: exact)
        lens = lens_of(model, lambda ids: model(ids) + off * 2**-8)
        return reading.measure_reading(CELL, (CHECKPOINT, lens))

    monkeypatch.setattr(reading, "huggingface_inside", lambda checkpoint, dtype: SimpleNamespace(edited=edited))
    monkeypatch.setattr(
        huggingface, "reference_logits", lambda checkpoint, dtype: {"natural": tensors["logits"] + off * 2**-10}
    )
    yield read
    torch.set_default_dtype(torch.float32)


def test_errors_of_a_logit_difference_and_of_a_patchs_effect_are_those_that_were_put_there(reading_of):
    found = reading_of()
    assert found.logit_difference == Pair(pytest.approx(2**-8, rel=1e-12), pytest.approx(2**-10, rel=1e-12))
    # The hooked run has no error here, so the effect lacks what the plain run has too much.
    assert found.patch_effect == Pair(pytest.approx(2**-8, rel=1e-9), pytest.approx(2**-10, rel=1e-9))
    model = MadeUp()
    truth = by_formula(model, "patched")[0] - by_formula(model)[0]
    assert found.exact_patch_effect == pytest.approx((truth[0] - truth[1]).item(), rel=1e-9)


def test_where_no_head_has_a_part_of_its_own_or_there_is_no_attribution_it_is_not_applicable(reading_of):
    assert reading_of().reasons["head_attribution"].startswith("n/a: a norm sits between the heads")
    found = reading_of(heads=torch.zeros(2, N_BLOCKS, 1))
    assert found.head_attribution is None
    assert found.reasons["head_attribution"] == "n/a: this TransformerLens has no ActivationCache.logit_attrs"


def test_what_processing_moves_out_of_the_heads_is_taken_from_what_each_should_add():
    heads, biases, folded = (torch.full((2, 3, 4), value, dtype=torch.float64) for value in (16.0, 1.0, 4.0))
    exact = Exact({"heads": heads, "value_biases": biases, "folded_value_biases": folded}, 3, centres=True)
    left = {option: exact.head_attribution(option).unique().tolist() for option in Option}
    moved = {Option.FOLD_VALUE_BIASES: [15.0], Option.ALL_OPTIONS: [12.0]}
    assert left == {option: moved.get(option, [16.0]) for option in Option}
    assert Exact({}, 3, centres=True).head_attribution(Option.UNPROCESSED) is None


# Gradients -----------------------------------------------------------------------------------------------------------


def along(*components):
    """A gradient at the last position only. ``[2, 6, 8]``"""
    gradient = torch.zeros(2, IDS.shape[1], WIDTH, dtype=torch.float64)
    gradient[:, -1, : len(components)] = torch.tensor(components, dtype=torch.float64)
    return gradient


@pytest.fixture
def gradients_of(made_up, monkeypatch):
    """Of a model that unembeds its embeddings: the gradient is the difference of two columns at the last position."""
    made_up.attention = lambda i, pattern, x: 0 * x
    made_up.mlp = lambda i, x: 0 * x
    made_up.ln_final = lambda x: x
    tokens = torch.tensor([[7, 2], [7, 2]])

    def measure(direction, g, reference):
        made_up.unembedding[:, 7] = made_up.unembedding[:, 2] = 0
        made_up.unembedding[: len(direction), 7] = torch.tensor(direction)
        exact = SimpleNamespace(tokens=tokens, gradient=lambda block: g)
        monkeypatch.setattr(gradients, "exact", lambda checkpoint, dtype: exact)
        monkeypatch.setattr(gradients, "huggingface_inside", lambda c, d: SimpleNamespace(gradients=reference))
        return gradients.measure_gradients(CELL, (CHECKPOINT, lens_of(made_up)))

    return measure


def test_each_figure_of_a_gradient_is_that_of_the_tensors_that_were_put_there(gradients_of):
    d = 2.0**-10
    reference = [along(1, d), along(1, -d), along(1, 0, 3 * d), along(1)]
    found = gradients_of([1.0, d], along(1), reference).blocks
    assert [one.error for one in found] == [d] * N_BLOCKS
    assert [one.reference_error for one in found] == [d, d, 3 * d, 0]
    assert [one.correlation for one in found] == [pytest.approx(1), pytest.approx(-1), 0, 0]
    assert [one.one_less_cosine for one in found] == [pytest.approx(1 - 1 / math.hypot(1, d), rel=1e-6)] * N_BLOCKS


def test_a_gradient_of_the_right_direction_and_another_length_has_an_error_and_no_angle(gradients_of):
    found = gradients_of([3.0, 4.0], along(6, 8), [along(6, 8)] * N_BLOCKS)
    assert [one.error for one in found.blocks] == [0.5] * N_BLOCKS
    assert found.worst.one_less_cosine == pytest.approx(0, abs=1e-15)
    opposite = gradients_of([-6.0, -8.0], along(6, 8), [along(6, 8)] * N_BLOCKS)
    assert opposite.worst.one_less_cosine == pytest.approx(2)
    assert opposite.worst.error == 2


def test_an_angle_is_never_negative_by_rounding(gradients_of):
    for seed in range(20):
        direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)).tolist()
        exact = along(*torch.tensor(direction).tolist())
        assert 0 <= gradients_of(direction, exact, [exact] * N_BLOCKS).worst.one_less_cosine < 1e-15


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_has_neither_a_finite_error_nor_an_angle(gradients_of, bad):
    found = gradients_of([1.0, bad], along(1), [along(1)] * N_BLOCKS)
    assert found.worst_ratio == found.worst.error == math.inf
    assert not math.isfinite(found.worst.one_less_cosine)


@pytest.mark.parametrize("block", range(N_BLOCKS - 1))
def test_a_backward_pass_that_is_cut_fails_the_cell(gradients_of, made_up, block):
    made_up.add = lambda i, pre, attn, mlp: pre.detach() if i == block else pre + attn + mlp
    with pytest.raises(CellFailed, match="no gradient reaches the input of block 0"):
        gradients_of([1.0], along(1), [along(1)] * N_BLOCKS)


def test_a_block_whose_input_is_not_hooked_fails_the_cell(gradients_of, made_up):
    made_up.hook_dict["blocks.3.hook_resid_pre"].times = 0
    with pytest.raises(CellFailed, match="no gradient reaches the input of block 3"):
        gradients_of([1.0], along(1), [along(1)] * N_BLOCKS)


def test_the_worst_gradient_is_that_of_the_largest_error_and_the_worst_ratio_over_one_rounding_at_least():
    def one(error, reference_error):
        return GradientError(error, reference_error, correlation=0.5, one_less_cosine=error)

    found = Gradients(CELL, (one(8 * U, 2 * U), one(9 * U, 9 * U), one(3 * U, U / 100)))
    assert found.worst == one(9 * U, 9 * U)
    assert found.worst_ratio == 4
    assert Gradients(CELL, (one(8 * U, 0.0), one(0.0, 0.0))).worst_ratio == 8
    half = replace(found, cell=replace(CELL, dtype="float16"))
    assert half.worst_ratio == 9 * U / 2**-11


# Generation ----------------------------------------------------------------------------------------------------------


START, TOKENS = 16, 32
LAST_BIT = 2.0**-23
"""The distance of float32 numbers from 1 to 2."""
UP_AND_DOWN = torch.eye(VOCABULARY, dtype=torch.float64)[3] - torch.eye(VOCABULARY, dtype=torch.float64)[4]
"""A change of the logits that centring leaves as it is."""


@pytest.fixture
def generation_of(monkeypatch):
    """Measures a model that steps and continues as it is told; HuggingFace takes token 0 always, with a logit of 1.5."""
    ids = torch.arange(2 * 20).reshape(2, 20) % VOCABULARY
    full = torch.randn(2, 20, VOCABULARY, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    greedy = torch.cat([ids[:, :START], torch.zeros(2, TOKENS, dtype=torch.long)], -1)
    logits = torch.zeros(2, TOKENS, VOCABULARY)
    logits[..., 0] = 1.5
    reference = SimpleNamespace(steps=[0.25, 0.5, 0.125], greedy=greedy, greedy_logits=logits)
    monkeypatch.setattr(huggingface, "tokens", lambda checkpoint, name: ids)
    monkeypatch.setattr(generation, "huggingface_inside", lambda checkpoint, dtype: SimpleNamespace(generated=reference))

    def measure(off=lambda i: 0.0, other=(), answer=lambda tokens: tokens):
        """``off``: what a step adds to the logits; ``other``: (prompt, step, how far below the top) of each other token."""
        found = greedy.clone()
        for prompt, step, margin in other:
            found[prompt, START + step] = 1
            logits[prompt, step, 1] = 1.5 - margin

        def steps(tokens):
            return (full[:, i] + off(i) for i in range(20))

        def continued(start, n):
            assert torch.equal(start, ids[:, :START])
            assert n == TOKENS
            return answer(found)

        return generation.measure_generation(CELL, (CHECKPOINT, Lens(lambda ids: full, 0, None, steps, continued, None)))

    return measure


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_each_step_has_the_difference_that_was_put_there_and_their_growth_is_its_power(generation_of, exponent):
    found = generation_of(lambda i: UP_AND_DOWN * 2**-16 * (i + 1) ** exponent)
    assert found.steps == pytest.approx([2**-16 * (i + 1) ** exponent for i in range(20)], rel=1e-9)
    assert found.cache_error == found.steps[-1]
    assert found.growth.exponent == pytest.approx(exponent, abs=1e-9)
    assert found.growth.points == 20
    assert max(found.reference_steps) == 0.5


def test_a_constant_at_every_token_is_no_error_of_the_cache(generation_of):
    assert generation_of().cache_error == 0
    assert generation_of().growth is None
    assert generation_of(lambda i: 7.0).cache_error < 1e-14
    assert generation_of(lambda i: 7.0 * UP_AND_DOWN).cache_error == pytest.approx(7)


@pytest.mark.parametrize("step", [0, 7, 19])
def test_a_step_that_is_not_a_number_is_seen_wherever_it_is(generation_of, step):
    found = generation_of(lambda i: math.nan if i == step else 0.0)
    assert not math.isfinite(found.cache_error)


def test_steps_that_raise_or_have_another_shape_leave_a_reason_and_tokens_are_compared(generation_of):
    def broken(i):
        if i == 3:
            raise RuntimeError("the cache is full")
        return 0.0

    found = generation_of(broken)
    assert found.steps == ()
    assert found.cache_error is found.growth is None
    assert found.reasons == {"steps": "RuntimeError: the cache is full"}
    assert found.wrong_tokens == 0
    wide = generation_of(lambda i: torch.zeros(2, 1, 1, dtype=torch.float64))
    assert wide.reasons["steps"].startswith("CellFailed: a step with the key-value cache returned logits of shape [2, 2, ")


def test_a_continuation_that_is_huggingfaces_has_no_wrong_token(generation_of):
    found = generation_of()
    assert (found.diverged, found.tie, found.wrong_tokens) == (None, None, 0)
    assert found.n_tokens == TOKENS


def test_tokens_after_a_divergence_are_wrong_unless_the_margin_was_a_few_last_bits(generation_of):
    tie = generation_of(other=[(1, 5, 4 * LAST_BIT), (1, 20, 1.0)])
    assert (tie.diverged, tie.tie, tie.wrong_tokens) == (5, True, 0)
    wrong = generation_of(other=[(1, 5, 5 * LAST_BIT), (0, 20, 0.0)])
    assert (wrong.diverged, wrong.tie, wrong.wrong_tokens) == (5, False, TOKENS - 5)
    assert generation_of(other=[(0, 0, 1.0)]).wrong_tokens == TOKENS
    assert generation_of(other=[(0, TOKENS - 1, 1.0)]).wrong_tokens == 1


def test_a_tie_of_one_prompt_hides_no_wrong_token_of_another(generation_of):
    assert generation_of(other=[(0, 3, 0.0), (1, 10, 1.0)]).wrong_tokens == TOKENS - 10


def test_without_a_continuation_there_are_no_tokens_to_be_right_or_wrong(generation_of):
    def broken(tokens):
        raise RuntimeError("no")

    found = generation_of(answer=broken)
    assert found.wrong_tokens is None
    assert found.reasons == {"greedy": "RuntimeError: no"}
    for answer, what in ((lambda tokens: tokens[:, :-1], r"[2, 47]"), (lambda tokens: "text", "str")):
        found = generation_of(answer=answer)
        assert found.wrong_tokens is None
        assert found.reasons["greedy"] == f"n/a: generate returned {what}: expected token ids of shape [2, 48]"


@pytest.mark.parametrize(("dtype", "last_bit"), [("float32", 2**-23), ("float16", 2**-10), ("bfloat16", 2**-7)])
def test_a_tie_is_within_four_units_in_the_last_place_of_the_larger_logit(dtype, last_bit):
    def tie(margin, largest):
        pair = (torch.tensor(value, dtype=torch.float64) for value in (margin, largest))
        return bool(is_tie(*pair, Dtype(dtype)))

    below_two = math.nextafter(2.0, 0.0)
    for largest in (1.0, 1.5, below_two):
        assert tie(4 * last_bit, largest)
        assert not tie(math.nextafter(4 * last_bit, 1.0), largest)
    # From 2 on the last place is worth twice as much, and below 1 half.
    assert tie(8 * last_bit, 2.0)
    assert not tie(8 * last_bit, below_two)
    assert not tie(math.nextafter(8 * last_bit, 1.0), 2.0)
    assert not tie(4 * last_bit, math.nextafter(1.0, 0.0))
    assert tie(0.0, 1.0)


# Records -------------------------------------------------------------------------------------------------------------


def hook_truth(**changes):
    one = HookTruth(
        cell=CELL,
        additivity=0.0,
        additivity_block=0,
        pattern_rows=0.0,
        final=0.0,
        cached=0.0,
        hooked=0.0,
        n_hooks=20,
        refused=(),
        silent=(),
        repeated=(),
        leftover=0,
        stop_at_layer=0.0,
        start_at_layer=0.0,
        edits={},
        reasons={},
    )
    return replace(one, **changes)


@pytest.mark.parametrize(("dtype", "roundoff"), [("float32", 2**-24), ("float16", 2**-11), ("bfloat16", 2**-8)])
def test_the_edit_ratio_is_the_largest_over_huggingfaces_error_and_over_one_rounding_at_least(dtype, roundoff):
    def ratio(*pairs):
        edits = {str(i): Pair(*pair) for i, pair in enumerate(pairs)}
        return hook_truth(cell=replace(CELL, dtype=dtype), edits=edits).edit_ratio

    assert ratio((6 * roundoff, 2 * roundoff), (8 * roundoff, 8 * roundoff)) == 3
    assert ratio((6 * roundoff, 0.0)) == ratio((6 * roundoff, roundoff / 2)) == ratio((6 * roundoff, roundoff)) == 6
    assert ratio((0.0, 0.0)) == 0
    assert ratio((roundoff, roundoff), (math.inf, roundoff)) == math.inf
    assert ratio() is None


def test_the_disturbance_is_the_larger_of_two_and_is_not_told_without_both():
    assert hook_truth(cached=1.0, hooked=2.0).disturbance == 2
    assert hook_truth(cached=3.0, hooked=2.0).disturbance == 3
    assert hook_truth(cached=None, hooked=2.0).disturbance is None
    assert hook_truth(cached=None, hooked=None).disturbance is None


NUMBERS = st.floats(allow_nan=False)
SOME = st.none() | NUMBERS
PAIRS = st.builds(Pair, NUMBERS, NUMBERS)
NAMES = st.lists(st.text()).map(tuple)
COUNTS = st.integers(0, 1000)
REASONS = st.dictionaries(st.text(), st.text())
RECORDS = {
    HookTruth: {
        **dict.fromkeys(
            ("additivity", "pattern_rows", "final", "cached", "hooked", "stop_at_layer", "start_at_layer"), SOME
        ),
        "additivity_block": st.none() | COUNTS,
        **dict.fromkeys(("n_hooks", "leftover"), COUNTS),
        **dict.fromkeys(("refused", "silent", "repeated"), NAMES),
        "edits": st.dictionaries(st.text(), PAIRS),
        "reasons": REASONS,
    },
    Reading: {
        **dict.fromkeys(("logit_difference", "patch_effect"), st.none() | PAIRS),
        **dict.fromkeys(("exact_patch_effect", "head_attribution", "largest_head_attribution"), SOME),
        "reasons": REASONS,
    },
    Gradients: {"blocks": st.lists(st.builds(GradientError, *[NUMBERS] * 4)).map(tuple)},
    Generation: {
        **dict.fromkeys(("steps", "reference_steps"), st.lists(NUMBERS).map(tuple)),
        "n_tokens": COUNTS,
        "diverged": st.none() | COUNTS,
        "tie": st.none() | st.booleans(),
        "reasons": REASONS,
    },
}


@pytest.mark.parametrize("kind", RECORDS)
def test_through_json_a_record_loses_no_bit(kind):
    @given(st.builds(kind, cell=st.just(CELL), **RECORDS[kind]))
    def holds(record):
        assert restored(kind, json.loads(json.dumps(plain(record)))) == record

    holds()


# The references: exact and HuggingFace's own -------------------------------------------------------------------------


def checkpoint(name):
    models = catalogue.load()
    return ensure(models.get(name), models)


@lru_cache
def load(name):
    point = checkpoint(name)
    model = golden.load_exact(point.folder, Weights.ORIGINAL)
    return model, huggingface.tokens(point, "natural")


@lru_cache
def exactly(name):
    """Everything that is kept of a checkpoint's exact function; several tests look at it, and none changes it."""
    with true_float64():
        return inside._exactly(*load(name), is_whole=True)


def gpt2_heads(weights, i):
    at = f"transformer.h.{i}.attn"
    return (
        weights[f"{at}.c_attn.weight"][:, -64:].reshape(64, 4, 16),
        weights[f"{at}.c_attn.bias"][-64:].reshape(4, 16),
        weights[f"{at}.c_proj.weight"].reshape(4, 16, 64),
        weights[f"{at}.c_proj.bias"],
    )


def neox_heads(weights, i):
    at = f"gpt_neox.layers.{i}.attention"
    # Query, key and value of a head lie together.
    return (
        weights[f"{at}.query_key_value.weight"].reshape(4, 3, 16, 64)[:, 2].transpose(2, 0, 1),
        weights[f"{at}.query_key_value.bias"].reshape(4, 3, 16)[:, 2],
        weights[f"{at}.dense.weight"].T.reshape(4, 16, 64),
        weights[f"{at}.dense.bias"],
    )


def llama_heads(weights, i):
    at = f"model.layers.{i}.self_attn"
    values = weights[f"{at}.v_proj.weight"].T.reshape(64, -1, 16)
    n_values = values.shape[1]
    return (
        np.repeat(values, 4 // n_values, axis=1),
        np.repeat(weights.get(f"{at}.v_proj.bias", np.zeros(n_values * 16)).reshape(-1, 16), 4 // n_values, axis=0),
        weights[f"{at}.o_proj.weight"].T.reshape(4, 16, 64),
        np.zeros(64),
    )


FAMILIES = {
    "zoo-gpt2": (gpt2_heads, "transformer.h.{}.ln_1", "transformer.ln_f", "transformer.wte", "layer_norm_epsilon"),
    "zoo-gpt-neox": (
        neox_heads,
        "gpt_neox.layers.{}.input_layernorm",
        "gpt_neox.final_layer_norm",
        "embed_out",
        "layer_norm_eps",
    ),
    **dict.fromkeys(
        ("zoo-llama-gqa", "zoo-qwen2"),
        (llama_heads, "model.layers.{}.input_layernorm", "model.norm", "lm_head", "rms_norm_eps"),
    ),
}
"""For each, what gives ``W_V [d_model, head, d_head]``, ``b_V [head, d_head]``, ``W_O [head, d_head, d_model]`` and ``b_O``;
and the names of the norm before the attention, the final norm, the unembedding and the norms' epsilon."""


class Decomposition:
    """A checkpoint's logit difference by what is added to the residual stream, from its file and numpy."""

    def __init__(self, name, exact=None, **more_weights):
        self.exact = {key: value.detach().numpy() for key, value in (exact or exactly(name)).items()}
        self.heads_of, self.ln1, final, unembedding, epsilon = FAMILIES[name]
        config, weights = independent.read_checkpoint(checkpoint(name).folder, lambda weight: weight)
        self.weights = {**weights, **more_weights}
        self.epsilon = config[epsilon]
        self.centres = f"{final}.bias" in self.weights
        tokens = self.exact["tokens"]
        rows = self.weights[f"{unembedding}.weight"]
        difference = rows[tokens[:, 0]] - rows[tokens[:, 1]]
        last = self.centred(self.exact["blocks.3.resid_post"][:, -1])
        scale = np.sqrt(np.mean(last**2, axis=-1, keepdims=True) + self.epsilon)
        self.direction = difference * self.weights[f"{final}.weight"] / scale
        self.rest = difference @ self.weights[f"{final}.bias"] if self.centres else 0.0

    def centred(self, x):
        return x - x.mean(axis=-1, keepdims=True) if self.centres else x

    def part(self, added):
        """Of what is added at the last position, ``[batch, ..., d_model]``, its part of the difference ``[batch, ...]``."""
        return np.einsum("b...d,bd->b...", self.centred(added), self.direction)

    def normed(self, i):
        """What a block's attention reads. ``[batch, pos, d_model]``"""
        x, gain = self.exact[f"blocks.{i}.resid_pre"], self.weights[self.ln1.format(i) + ".weight"]
        if self.centres:
            return independent.layer_norm(x, gain, self.weights[self.ln1.format(i) + ".bias"], self.epsilon)
        return independent.rms_norm(x, gain, self.epsilon)


def close(found, expected, tolerance=1e-10):
    """Whether two arrays agree relative to the larger one's largest entry."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("name", FAMILIES)
def test_heads_embedding_mlps_and_biases_add_up_to_the_logit_difference(name):
    by = Decomposition(name)
    tokens = by.exact["tokens"]
    last = by.exact["logits"][:, -1]
    parts = by.part(by.exact["blocks.0.resid_pre"][:, -1]) + by.rest
    for i in range(N_BLOCKS):
        bias = by.part(np.tile(by.heads_of(by.weights, i)[3], (2, 1)))
        of_heads = by.exact["heads"][:, i].sum(-1)
        assert close(of_heads + bias, by.part(by.exact[f"blocks.{i}.attn_out"][:, -1]))
        parts = parts + of_heads + bias + by.part(by.exact[f"blocks.{i}.mlp_out"][:, -1])
    difference = np.take_along_axis(last, tokens, -1) @ [1, -1]
    assert (difference > 0).all()
    assert close(parts, difference)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_heads_part_is_what_numpy_makes_of_its_pattern_values_and_output_matrix(name):
    by = Decomposition(name)
    for i in range(N_BLOCKS):
        values, bias, output, _ = by.heads_of(by.weights, i)
        pattern = by.exact[f"blocks.{i}.pattern"][:, :, -1]
        z = np.einsum("bhk,bkhe->bhe", pattern, np.einsum("bkd,dhe->bkhe", by.normed(i), values) + bias)
        assert close(by.exact["heads"][:, i], by.part(np.einsum("bhe,hed->bhd", z, output)))


def constants(by, i):
    """What value biases alone, and with what the norm's bias makes of values, add to the difference. ``[batch, head]``"""
    values, bias, output, _ = by.heads_of(by.weights, i)
    of_norm = np.einsum("d,dhe->he", by.weights.get(by.ln1.format(i) + ".bias", np.zeros(64)), values)
    for constant in (bias, bias + of_norm):
        added = np.einsum("he,hed->hd", constant, output)
        yield by.part(np.stack([added, added]))


@pytest.mark.parametrize("name", FAMILIES)
def test_what_value_biases_add_is_what_numpy_computes_and_the_norms_bias_belongs_to_it_where_that_is_folded(name):
    by = Decomposition(name)
    for i in range(N_BLOCKS):
        biases, folded = constants(by, i)
        assert close(by.exact["value_biases"][:, i], biases)
        assert close(by.exact["folded_value_biases"][:, i], folded)
        assert biases.any() == (name != "zoo-llama-gqa")
        assert close(biases, folded) == (not by.centres)


def test_query_heads_of_one_group_share_the_bias_of_their_value_head():
    """No checkpoint of the zoo has both, so that one is given biases here."""
    point = checkpoint("zoo-llama-gqa")
    model = golden.load_exact(point.folder, Weights.ORIGINAL)
    generator = torch.Generator().manual_seed(0)
    added = {}
    for i, layer in enumerate(model.model.layers):
        bias = torch.randn(2 * 16, generator=generator, dtype=torch.float64)
        layer.self_attn.v_proj.bias = nn.Parameter(bias)
        added[f"model.layers.{i}.self_attn.v_proj.bias"] = bias.numpy()
    with true_float64():
        exact = inside._exactly(model, huggingface.tokens(point, "natural"), is_whole=True)
    by = Decomposition("zoo-llama-gqa", exact, **added)
    for i in range(N_BLOCKS):
        biases, folded = constants(by, i)
        assert close(by.exact["value_biases"][:, i], biases)
        assert close(by.exact["folded_value_biases"][:, i], folded)
        assert close(by.exact["heads"][:, i].sum(-1), by.part(by.exact[f"blocks.{i}.attn_out"][:, -1]))


@pytest.mark.parametrize("name", ["zoo-gemma2", "zoo-olmo2"])
def test_where_a_norm_follows_the_attention_no_head_has_a_part(name):
    assert exactly(name).keys().isdisjoint({"heads", "value_biases", "folded_value_biases"})


@pytest.mark.parametrize("name", FAMILIES)
def test_the_tokens_are_the_two_most_likely_at_the_last_position(name):
    last = exactly(name)["logits"][:, -1].numpy()
    assert exactly(name)["tokens"].tolist() == np.argsort(-last, axis=-1)[:, :2].tolist()


@pytest.mark.parametrize("block", range(N_BLOCKS))
@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_the_slope_of_the_exact_logit_difference_along_any_direction(name, block):
    model, ids = load(name)
    direction = torch.randn(*ids.shape, 64, generator=torch.Generator().manual_seed(block), dtype=torch.float64)
    gradient = exactly(name)[f"gradient/{block}"]
    # As steep as it is random, so that the slope is no small difference of large parts.
    direction += gradient / gradient.square().mean().sqrt()
    step = 1e-5

    def difference(along):
        with true_float64(), torch.no_grad(), editing(model, block, Component.RESID_PRE, lambda x: x + along * direction):
            last = model(ids, use_cache=False).logits[:, -1]
        return (last.gather(-1, exactly(name)["tokens"]) @ torch.tensor([1.0, -1.0], dtype=torch.float64)).sum().item()

    slope = (difference(step) - difference(-step)) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-6)


def seen_under(model, ids, component, edit):
    """What the blocks compute and the logits, with an edit of block 2."""
    seen = {}

    def keep(key, value):
        seen[key] = value.clone()

    with torch.no_grad(), editing(model, 2, component, edit), watching(model, keep):
        seen["logits"] = model(ids, use_cache=False).logits
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_an_edit_is_felt_where_it_is_made_and_the_identity_nowhere_in_every_architecture(name):
    point = checkpoint(name)
    model, ids = huggingface.load_model(point.folder, Dtype.FLOAT32), huggingface.tokens(point, "natural")
    with torch.no_grad():
        plain = model(ids, use_cache=False).logits
    for component in (Component.RESID_PRE, Component.ATTN_OUT, Component.MLP_OUT):
        untouched = seen_under(model, ids, component, lambda value: value)
        assert torch.equal(untouched["logits"], plain)
        seen = seen_under(model, ids, component, torch.zeros_like)
        assert not torch.equal(seen["logits"], plain)
        before = [key for key in untouched if key.startswith(("blocks.0", "blocks.1"))]
        assert all(torch.equal(seen[key], untouched[key]) for key in before)
        parts = {key: seen[f"blocks.2.{key}"] for key in ("resid_pre", "attn_out", "mlp_out")} | {component: 0}
        assert close(seen["blocks.2.resid_post"], sum(parts.values()), 16 * U)
    with torch.no_grad():
        assert torch.equal(model(ids, use_cache=False).logits, plain)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_patch_is_felt_by_the_first_prompt_alone_and_the_other_edits_by_both(name):
    plain = exactly(name)["logits"][:, -1]
    for edit in Edit:
        changed = (exactly(name)[f"edited/{edit}"] != plain).any(-1).tolist()
        assert changed == [True, edit is not Edit.PATCHED]


@lru_cache
def huggingface_generated(name):
    """HuggingFace's float32 model, its prompts, and what it makes with its key-value cache."""
    point = checkpoint(name)
    model, ids = huggingface.load_model(point.folder, Dtype.FLOAT32), huggingface.tokens(point, "natural")
    return model, ids, inside._generated(model, ids)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_huggingfaces_steps_with_the_cache_are_its_full_forward_pass_but_for_float32_rounding(name):
    model, ids, generated = huggingface_generated(name)
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits
    assert generated["steps"].shape == (ids.shape[1],)
    # A logit is a sum of 64 products: its roundings are a few dozen units of its last place at most.
    assert 0 < generated["steps"].max() < 64 * U * logits.abs().max()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_greedy_continuation_is_the_most_likely_token_of_a_full_forward_pass_each_time(name):
    model, ids, generated = huggingface_generated(name)
    greedy = generated["greedy"]
    assert greedy.shape == (2, inside.GREEDY_START + inside.GREEDY_TOKENS)
    assert torch.equal(greedy[:, : inside.GREEDY_START], ids[:, : inside.GREEDY_START])
    with torch.no_grad():
        logits = model(greedy, use_cache=False).logits[:, inside.GREEDY_START - 1 : -1]
    assert torch.equal(greedy[:, inside.GREEDY_START :], logits.argmax(-1))
    assert torch.equal(generated["greedy_logits"].argmax(-1), logits.argmax(-1))
    assert (generated["greedy_logits"] - logits).abs().max() < 64 * U * logits.abs().max()
