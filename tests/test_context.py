"""Long contexts: one exact pass serves every length, and what is too long is not run and says so."""

import math
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from tlbench import catalogue
from tlbench.checkpoints import ensure
from tlbench.exceptions import CellFailed, NoGolden
from tlbench.grid import Cell, Dtype
from tlbench.lens import Lens
from tlbench.records.inside import ContextLength
from tlbench.records.serial import plain, restored
from tlbench.reference import golden
from tlbench.reference import lengths as contexts
from tlbench.reference.blocked import EAGER, can_be_blocked, in_blocks
from tlbench.reference.float64 import true_float64
from tlbench.reference.golden import Weights
from tlbench.reference.lengths import Context, context, long_ids, longest, measure_lengths, positions_of, require_memory


def checkpoint(name):
    models = catalogue.load()
    return ensure(models.get(name), models)


@given(some.integers(1, 10_000))
def test_positions_are_ascending_within_the_length_and_have_the_last_of_each_octave(length):
    found = positions_of(length)
    assert found == sorted(set(found))
    assert found[0] == 0
    assert found[-1] == length - 1
    for k in range(length.bit_length()):
        octave = [p for p in found if 2**k <= p + 1 < 2 ** (k + 1)]
        assert 1 <= len(octave) <= contexts.PER_OCTAVE + 3 * contexts.BESIDE_AN_EDGE
        assert set(range(2**k - contexts.BESIDE_AN_EDGE, 2**k + contexts.BESIDE_AN_EDGE)) & set(range(length)) <= set(found)
        assert min(2 ** (k + 1), length + 1) - 2 in octave


def test_a_long_text_is_the_prompts_one_after_another_again_and_again():
    found = checkpoint("zoo-gpt2")
    once = [token for row in found.prompts.natural for token in row]
    assert long_ids(found, 200).tolist() == [(once + once)[:200]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zoo-gpt2", "zoo-mistral", "zoo-bloom", "zoo-gemma3"])
def test_the_exact_logits_of_the_longest_context_are_those_of_every_shorter_one(name):
    found = checkpoint(name)
    exact = context(found, Dtype.FLOAT32)
    assert exact.lengths[-1] == longest(found.folder)
    model = golden.load_exact(found.folder, Weights.FLOAT32)
    for length in (3, 40):
        with torch.inference_mode(), true_float64():
            z = model(long_ids(found, length), use_cache=False).logits[0]
        inside = [i for i, position in enumerate(exact.positions) if position < length]
        difference = (exact.logits[inside] - z[[exact.positions[i] for i in inside]]).abs().max()
        assert difference < 1e-12 * z.abs().max()


def small(lengths):
    logits = torch.zeros(8, 4, dtype=torch.float64)
    return Context(logits, list(range(8)), lengths)


def test_errors_are_root_mean_squares_of_centred_logits_by_position():
    z = torch.tensor([[1.0, -1.0, 1.0, -1.0], [2.0, -2.0, 2.0, -2.0], [12.0, 8.0, 12.0, 8.0], [7.0, 7.0, 7.0, 7.0]])
    assert small([4]).errors(z, 4) == {0: 1.0, 1: 2.0, 2: 2.0, 3: 0.0}


def test_a_lengths_error_is_that_of_all_its_logits():
    found = measure_lengths(small([4]), torch.zeros(1, 8, dtype=torch.long), lambda ids: noise(ids.shape[1]))
    z = noise(4)[0].double()
    assert found.errors == {4: pytest.approx((z - z.mean(-1, keepdim=True)).square().mean().sqrt().item(), rel=1e-14)}


def noise(length):
    return torch.randn(1, length, 4, generator=torch.Generator().manual_seed(0))


def test_which_lengths_are_run_in_16_bits_follows_from_the_model_alone():
    lengths = [2**k for k in range(14)]
    smollm2, tiny, huge = (SimpleNamespace(parameters=number) for number in (134_515_008, 200_000, 10**15))
    assert contexts._lengths_at(smollm2, lengths, Dtype.FLOAT32) == lengths
    assert contexts._lengths_at(smollm2, lengths, Dtype.BFLOAT16)[-1] == 1024
    assert contexts._lengths_at(tiny, lengths, Dtype.BFLOAT16) == lengths
    assert contexts._lengths_at(huge, lengths, Dtype.BFLOAT16) == [1]


def test_a_length_that_does_not_fit_is_a_failure_and_another_error_raised():
    def model(ids):
        if ids.shape[1] == 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return torch.ones(1, ids.shape[1], 4)

    ids = torch.zeros(1, 8, dtype=torch.long)
    with pytest.raises(CellFailed, match="4 tokens do not fit in memory"):
        measure_lengths(small([1, 2, 4, 8]), ids, model)

    def wrong(ids):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        measure_lengths(small([1, 2]), ids, wrong)


def test_a_context_whose_scores_do_not_fit_is_refused_and_not_shortened(monkeypatch):
    folder = checkpoint("zoo-gpt2").folder

    def fits(available, blocked):
        monkeypatch.setattr(golden, "available_bytes", lambda: available)
        require_memory(folder, 256, blocked=blocked)

    fits(4 * 8 * 4 * 256**2, blocked=False)
    fits(3 * 8 * 256**2, blocked=True)
    with pytest.raises(NoGolden, match="256 tokens need"):
        fits(4 * 8 * 4 * 256**2 - 1, blocked=False)
    with pytest.raises(NoGolden, match="256 tokens need"):
        fits(3 * 8 * 256**2 - 1, blocked=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zoo-gpt2", "zoo-mistral", "zoo-gemma2", "zoo-gpt-neo"])
def test_attention_in_blocks_is_the_same_function(name):
    found = checkpoint(name)
    model = golden.load_exact(found.folder, Weights.FLOAT32)
    ids = long_ids(found, 50)
    with torch.inference_mode(), true_float64():
        whole = model(ids, use_cache=False).logits
        with counted(model) as calls, in_blocks(model, queries=7):
            blocked = model(ids, use_cache=False).logits
        again = model(ids, use_cache=False).logits
    assert calls == ([7] * 7 + [1]) * model.config.num_hidden_layers * can_be_blocked(model)
    assert torch.equal(again, whole)
    assert (blocked - whole).abs().max() < 1e-14 * whole.abs().max()


@contextmanager
def counted(model):
    """How many queries each call of the model's own attention has."""
    calls = []
    modeling = sys.modules[type(model).__module__]
    whole = getattr(modeling, EAGER, None)

    def seen(module, query, *args, **kwargs):
        calls.append(query.shape[-2])
        return whole(module, query, *args, **kwargs)

    if whole:
        setattr(modeling, EAGER, seen)
    try:
        yield calls
    finally:
        if whole:
            setattr(modeling, EAGER, whole)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("zoo-gpt2", {"table_end": 252}),
        ("zoo-opt", {"table_end": 252}),
        ("zoo-gpt-neo", {"window": 32, "table_end": 252}),
        ("zoo-mistral", {"window": 32}),
        ("zoo-gemma2", {"window": 4096}),
        ("zoo-gpt-j", {}),
        ("zoo-qwen2", {}),
        ("zoo-bloom", {}),
    ],
)
def test_the_edges_are_those_of_the_architecture(name, found):
    assert contexts.edges(checkpoint(name).folder) == found


@pytest.mark.parametrize(("name", "windowed"), [("zoo-gpt-neo", 1), ("zoo-mistral", 0)])
def test_the_window_is_the_first_position_that_does_not_see_the_first_token(name, windowed):
    """What is changed at the first position of a windowed block's input is seen at the window's positions and no other."""
    found = checkpoint(name)
    window = contexts.edges(found.folder)["window"]
    model = golden.load_exact(found.folder, Weights.FLOAT32)
    block = (model.model.layers if hasattr(model, "model") else model.transformer.h)[windowed]
    outputs = []

    def changed(_, inputs):
        x = inputs[0].clone()
        x[:, 0] *= 1 + len(outputs)
        x[:, 0, 0] += len(outputs)
        return x, *inputs[1:]

    block.register_forward_pre_hook(changed)
    block.register_forward_hook(lambda _, inputs, output: outputs.append(output[0] if isinstance(output, tuple) else output))
    for _ in range(2):
        with torch.inference_mode(), true_float64():
            model(long_ids(found, window + 8), use_cache=False)
    one, other = outputs
    assert ((one - other).abs().amax((0, -1)) > 0).tolist() == [position < window for position in range(window + 8)]


def attention(**parts):
    return SimpleNamespace(blocks=[SimpleNamespace(attn=SimpleNamespace(**parts))])


def test_a_rotary_table_is_an_edge_only_where_it_can_be_made_longer():
    """2.17 to 3.x has a method that does so, on every attention; only rotary models have a table."""
    table, longer = torch.zeros(2048, 4), lambda size: None

    def of(**parts):
        return Lens(None, 0, attention(**parts), steps=None, greedy=None, process=None).rotary_table()

    assert of(rotary_sin=table, _extend_rotary_embeddings=longer) == 2048
    assert of(rotary_sin=table) is of(_extend_rotary_embeddings=longer) is None


def test_the_growth_and_the_ratio_are_over_the_lengths():
    cell = Cell("zoo-gpt2", "float32", "unprocessed", "TransformerBridge")
    errors = {n: 1e-6 * n**0.5 for n in (1, 2, 4, 8)}
    reference = {1: 1e-6, 2: 1e-6, 4: 1e-6}
    found = ContextLength(cell, errors, reference, {}, {}, {}, "", None, {})
    assert found.growth.exponent == pytest.approx(0.5, rel=1e-12)
    assert found.largest_ratio == pytest.approx(2.0, rel=1e-12)
    assert found.longest == 8
    assert restored(ContextLength, plain(found)) == found


def test_an_error_that_is_no_number_is_not_hidden_by_a_finite_one():
    cell = Cell("zoo-gpt2", "float32", "unprocessed", "TransformerBridge")
    errors = {1: 1e-6, 2: math.nan, 4: 2e-6}
    found = ContextLength(cell, errors, dict.fromkeys(errors, 1e-6), {}, {}, {}, "", None, {})
    assert found.largest_ratio == math.inf


def test_the_error_at_an_edge_is_that_of_its_positions():
    cell = Cell("zoo-gpt2", "float32", "unprocessed", "TransformerBridge")
    positions = {0: 1.0, 1: 3.0, 2: 4.0, 3: 0.0, 4: 2.0, 5: 2.0, 6: 2.0, 7: 6.0}
    reference = dict.fromkeys(positions, 0.5)
    edges = {"window": 4, "table_end": 4, "rotary_table": 8}
    found = ContextLength(cell, {8: 1.0}, {8: 1.0}, positions, reference, edges, "", None, {})
    assert found.ratio_at("window") == pytest.approx((48 / 4) ** 0.5 / 0.5, rel=1e-15)
    assert found.ratio_at("table_end") == found.ratio_at("window")
    assert found.ratio_at("rotary_table") is None
    assert found.ratio_at("nothing") is None
    assert restored(ContextLength, plain(found)) == found
