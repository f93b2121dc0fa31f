"""Long contexts: one exact pass serves every length, and what is too long is not run and says so."""

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from tlbench import catalogue
from tlbench.cells import Cell, Dtype
from tlbench.checkpoints import ensure
from tlbench.inside.records import ContextLength
from tlbench.reference import context as contexts
from tlbench.reference import golden
from tlbench.reference.context import Context, context, fitting, long_ids, longest, measure_lengths, positions_of
from tlbench.reference.float64 import true_float64
from tlbench.reference.golden import Weights


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
        assert 1 <= len(octave) <= contexts.PER_OCTAVE
        assert min(2 ** (k + 1), length + 1) - 2 in octave


def test_a_long_text_is_the_prompts_one_after_another_again_and_again():
    found = checkpoint("zoo-gpt2")
    once = [token for row in found.prompts.natural for token in row]
    assert long_ids(found, 200).tolist() == [(once + once)[:200]]


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


def test_errors_are_root_mean_squares_of_centred_logits_by_length_and_octave():
    z = torch.tensor([[1.0, -1.0, 1.0, -1.0], [2.0, -2.0, 2.0, -2.0], [12.0, 8.0, 12.0, 8.0], [7.0, 7.0, 7.0, 7.0]])
    error, octaves = small([4]).errors(z, 4)
    assert error == pytest.approx((9 / 4) ** 0.5, rel=1e-15)
    assert octaves == {0: 1.0, 1: 2.0, 2: 0.0}


def test_a_length_that_would_take_too_long_is_not_run(monkeypatch):
    now = iter([0.0, 0.1, 1.0, 17.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    found = measure_lengths(
        small([1, 2, 4]), torch.zeros(1, 8, dtype=torch.long), lambda ids: torch.ones(1, ids.shape[1], 4)
    )
    assert list(found.errors) == [1, 2]
    assert found.stopped == "4 tokens would take over 60 s here"


def test_a_length_that_does_not_fit_is_told_and_another_error_raised():
    def model(ids):
        if ids.shape[1] == 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return torch.ones(1, ids.shape[1], 4)

    ids = torch.zeros(1, 8, dtype=torch.long)
    found = measure_lengths(small([1, 2, 4, 8]), ids, model)
    assert (list(found.errors), found.stopped) == ([1, 2], "4 tokens do not fit in memory")

    def wrong(ids):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        measure_lengths(small([1, 2]), ids, wrong)


def test_the_context_is_halved_until_its_scores_fit():
    folder = checkpoint("zoo-gpt2").folder
    assert fitting(folder, 256, available_bytes=4 * 8 * 4 * 256**2) == 256
    assert fitting(folder, 256, available_bytes=4 * 8 * 4 * 256**2 - 1) == 128
    assert fitting(folder, 256, available_bytes=0) == 1


def test_the_growth_and_the_ratio_are_over_the_lengths():
    cell = Cell("zoo-gpt2", "float32", "unprocessed", "TransformerBridge")
    errors = {n: 1e-6 * n**0.5 for n in (1, 2, 4, 8)}
    reference = {1: 1e-6, 2: 1e-6, 4: 1e-6}
    found = ContextLength(cell, errors, reference, {}, {}, "", None, {})
    assert found.growth.exponent == pytest.approx(0.5, rel=1e-12)
    assert found.largest_ratio == pytest.approx(2.0, rel=1e-12)
    assert found.longest == 8
    assert ContextLength.from_json(found.to_json()) == found
