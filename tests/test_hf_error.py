"""The formulas against mathematics and against independent computations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tlbench.exceptions import CellFailed, NonFiniteLogits
from tlbench.metrics import hf_error as errors


def logits(seed, dtype=torch.float32, shape=(2, 5, 11)):
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def calculate_error(logits1, logits2):
    """What TransformerLens's pull request 521 computes, written anew from its definition for comparison only."""
    first, second = (torch.nn.functional.softmax(z, -1) for z in (logits1, logits2))
    difference = (first - second).abs()
    return (difference.max(), difference.mean(), difference.median(), difference.std())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_origin_space_is_issue_496_to_the_letter(dtype):
    h, t = logits(1, dtype), logits(1, dtype) + 0.01 * logits(2, dtype)
    found = errors.origin_error(t, h)
    expected = [value.item() for value in calculate_error(h, t)]
    assert [found.max, found.mean, found.median, found.std] == expected
    assert found.max > 0


def test_probability_space_agrees_with_numpy_in_float64():
    t, h = logits(1), logits(2)

    def softmax(z):
        e = np.exp(z.double().numpy() - z.double().numpy().max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    error = np.abs(softmax(t) - softmax(h)).ravel()
    found = errors.probability_error(t, h)
    assert found.max == pytest.approx(error.max(), rel=1e-12)
    assert found.mean == pytest.approx(error.mean(), rel=1e-12)
    assert found.median == pytest.approx(np.sort(error)[(error.size - 1) // 2], rel=1e-12)
    assert found.std == pytest.approx(error.std(ddof=1), rel=1e-12)


def test_statistics_of_known_numbers():
    found = errors.whole_statistics(torch.tensor([[1.0, 2.0], [3.0, 6.0]], dtype=torch.float64))
    assert (found.max, found.mean, found.median) == (6.0, 3.0, 2.0)
    assert found.std == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3))


@given(st.integers(0, 1000), st.floats(-50, 50))
def test_a_constant_per_position_changes_no_error_and_is_reported_as_the_shift(seed, constant):
    h = logits(seed, torch.float64)
    offset = constant * torch.arange(1, 6, dtype=torch.float64)[None, :, None]
    assert errors.logit_error(h + offset, h).max < 1e-12
    shift = errors.removed_shift(h + offset, h)
    assert shift.max_abs == pytest.approx(5 * abs(constant), abs=1e-12)
    assert shift.raw_max == pytest.approx(5 * abs(constant), abs=1e-12)


def test_one_logit_moved_by_a_known_amount_gives_the_known_centred_error():
    h = torch.zeros(1, 1, 4, dtype=torch.float64)
    t = h.clone()
    t[0, 0, 2] = 1.0
    found = errors.logit_error(t, h)
    assert found.max == 0.75
    assert found.median == 0.25
    assert found.mean == pytest.approx(0.375)


def test_equal_logits_have_no_error_in_any_space():
    h = logits(3, torch.float16)
    for space in (errors.origin_error, errors.probability_error, errors.logit_error):
        found = space(h, h.clone())
        assert (found.max, found.mean, found.median, found.std) == (0, 0, 0, 0)


def test_error_arithmetic_is_float64_where_float32_would_see_nothing():
    h = torch.full((1, 1, 4), 1e4, dtype=torch.float64)
    t = h.clone()
    t[0, 0, 0] += 1e-6
    assert errors.logit_error(t, h).max == pytest.approx(0.75e-6, rel=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["TransformerLens", "HuggingFace"])
def test_a_non_finite_logit_is_refused_in_every_space_and_its_side_named(bad, side):
    t, h = logits(1), logits(1)
    (t if side == "TransformerLens" else h)[0, 0, 0] = bad
    for measure in (errors.origin_error, errors.probability_error, errors.logit_error, errors.removed_shift):
        with pytest.raises(NonFiniteLogits, match=f"{side} returned 1 non-finite"):
            measure(t, h)


def test_differing_shapes_are_refused():
    with pytest.raises(CellFailed, match="vocabulary"):
        errors.logit_error(logits(1), logits(1, shape=(2, 5, 12)))
