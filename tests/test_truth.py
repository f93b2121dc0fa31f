"""The formulas against the truth, on cases whose answer mathematics gives; and the verdict at each of its gates."""

import math
from dataclasses import replace

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbench.cells import Dtype
from tlbench.figures import RATIO_GATE, UNIT_ROUNDOFF
from tlbench.truth import (
    TIE_ULPS,
    against_truth,
    bits_lost,
    correlation,
    kl_divergence,
    top1_changes,
)
from tlbench.verdict import BROKEN_RATIO, SAME_CORRELATION, SAME_RATIO, Verdict, judge

F32, F16, BF16 = Dtype.FLOAT32, Dtype.FLOAT16, Dtype.BFLOAT16


def logits(*shape, seed=0, scale=3.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def truth_of(t, h, g, dtype=F32):
    return against_truth(t, h, g, g, dtype)


# The figures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [0.25, 1.0, 7.0])
def test_an_error_of_so_many_times_the_reference_s_has_that_ratio_and_full_correlation(times):
    g, e = logits(2, 8, 32), logits(2, 8, 32, seed=1, scale=1e-6)
    found = truth_of(g + times * e, g + e, g)
    assert found.error_ratio == pytest.approx(times, rel=1e-9)
    assert found.error_correlation == pytest.approx(1, abs=1e-9)


def test_errors_that_share_half_their_variance_correlate_by_one_half():
    g, common, one, other = logits(8, 64, 128), *(logits(8, 64, 128, seed=s, scale=1e-6) for s in (1, 2, 3))
    found = truth_of(g + common + one, g + common + other, g)
    assert found.error_correlation == pytest.approx(0.5, abs=0.01)


def test_an_opposite_error_correlates_by_minus_one_and_an_absent_one_by_zero():
    e = logits(2, 8, 32)
    assert correlation(e, -e) == pytest.approx(-1)
    assert correlation(e, 0 * e) == 0
    assert correlation(0 * e, 0 * e) == 1


def test_a_shift_of_every_position_is_no_error_and_has_no_spread():
    g, e = logits(2, 8, 32), logits(2, 8, 32, seed=1, scale=1e-3)
    shifted = truth_of(g + e + torch.arange(8.0, dtype=torch.float64).reshape(1, 8, 1) * 4, g + e, g)
    plain = truth_of(g + e, g + e, g)
    assert shifted.error_rms == pytest.approx(plain.error_rms, rel=1e-9)
    assert shifted.shift_spread == pytest.approx(plain.shift_spread, rel=1e-9)
    assert shifted.kl_nats == pytest.approx(plain.kl_nats, rel=1e-6)


def test_the_spread_is_the_worst_position_s():
    g = logits(1, 4, 64)
    t = g.clone()
    t[0, 2, :32] += 1e-3
    t[0, 2, 32:] -= 1e-3
    assert truth_of(t, t, g).shift_spread == pytest.approx(1e-3, rel=1e-9)


@pytest.mark.parametrize("dtype", Dtype)
def test_an_error_of_one_unit_roundoff_loses_one_bit_at_any_dtype(dtype):
    assert bits_lost(0.0, 3.0, dtype) == 0
    assert bits_lost(UNIT_ROUNDOFF[dtype] * 3.0, 3.0, dtype) == 1
    assert bits_lost(1023 * UNIT_ROUNDOFF[dtype] * 3.0, 3.0, dtype) == 10


@pytest.mark.parametrize("dtype", Dtype)
def test_the_unit_roundoff_is_half_of_torch_s_epsilon(dtype):
    assert UNIT_ROUNDOFF[dtype] == torch.finfo(getattr(torch, dtype)).eps / 2


def test_the_total_is_measured_from_the_weights_in_the_file():
    original, moved, e = logits(2, 4, 16), logits(2, 4, 16, seed=1, scale=1e-2), logits(2, 4, 16, seed=2, scale=1e-5)
    moved -= moved.mean(-1, keepdim=True)
    e -= e.mean(-1, keepdim=True)
    found = against_truth(original + moved + e, original + moved, original + moved, original, F16)
    assert found.weights_rms == pytest.approx(moved.square().mean().sqrt().item(), rel=1e-9)
    assert found.total_rms == pytest.approx((moved + e).square().mean().sqrt().item(), rel=1e-9)


# Divergence ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.floats(-20, 20), min_size=4, max_size=4),
    st.lists(st.floats(-1, 1), min_size=4, max_size=4),
    st.sampled_from([1e-12, 1e-9, 1e-5, 1e-2, 1.0, 30.0]),
)
def test_the_divergence_agrees_with_fifty_digits(z, direction, size):
    g = torch.tensor(z, dtype=torch.float64)
    t = g + size * torch.tensor(direction, dtype=torch.float64)
    with mpmath.workdps(50):
        log_p, log_q = (exact_log_softmax(v.tolist()) for v in (g, t))
        exact = sum(mpmath.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True))
    found = kl_divergence(g.reshape(1, 1, 4), t.reshape(1, 1, 4)).item()
    # t - g itself is rounded by about an ULP of z, and the divergence is of second order in it.
    ulp = 2.0**-52 * 32
    assert found == pytest.approx(float(exact), rel=1e-9, abs=4 * ulp * (size + ulp))


def exact_log_softmax(z):
    values = [mpmath.mpf(x) for x in z]
    total = mpmath.log(sum(mpmath.exp(x) for x in values))
    return [x - total for x in values]


def test_the_divergence_of_a_tiny_error_is_not_lost_among_rounding_errors():
    g = torch.tensor([[[0.0, 0.0]]], dtype=torch.float64)
    t = torch.tensor([[[1e-9, -1e-9]]], dtype=torch.float64)
    assert kl_divergence(g, t).item() == pytest.approx(5e-19, rel=1e-9)  # p(1-p) (2e-9)^2 / 2


def test_the_divergence_of_logits_thousands_apart_is_finite():
    g, t = torch.tensor([[[0.0, 2000.0]]]), torch.tensor([[[2000.0, 0.0]]])
    assert kl_divergence(g, t).item() == pytest.approx(2000)


# Top tokens ----------------------------------------------------------------------------------------------------------


def pair(margin, at=16.0):
    """A golden whose second token is ``margin`` behind, and logits that prefer the second."""
    g = torch.tensor([[[at, at - margin, 0.0]]], dtype=torch.float64)
    t = torch.tensor([[[at, at + 1e-3, 0.0]]], dtype=torch.float64)
    return t, g


@pytest.mark.parametrize("dtype", Dtype)
def test_a_change_within_a_few_ulps_is_a_tie_and_beyond_a_flip(dtype):
    ulp = 2 * UNIT_ROUNDOFF[dtype] * 16
    tie, flip = pair(TIE_ULPS * ulp), pair(TIE_ULPS * ulp * 1.01)
    assert top1_changes(*tie, dtype).tolist() == [0.0]
    assert top1_changes(*flip, dtype).tolist() == [pytest.approx(TIE_ULPS * ulp * 1.01)]


def test_the_same_top_token_is_no_change():
    g = logits(3, 5, 16)
    assert top1_changes(g + 1e-9, g, F32).numel() == 0


def test_a_flip_that_the_reference_s_error_could_not_make_is_unexplained():
    g = torch.tensor([[[4.0, 3.0, 0.0, 0.0]]], dtype=torch.float64)
    h = g + torch.tensor([[[0.1, -0.1, 0.0, 0.0]]], dtype=torch.float64)
    t = torch.tensor([[[3.0, 4.0, 0.0, 0.0]]], dtype=torch.float64)
    assert truth_of(t, h, g).top1_unexplained == 1  # a margin of 1 where 2 * 2 * 0.1 can be explained
    assert truth_of(t, h, g, F16).top1_unexplained == 1  # 2 * 3 * 0.1
    h = g + torch.tensor([[[0.3, -0.3, 0.0, 0.0]]], dtype=torch.float64)
    assert truth_of(t, h, g).top1_unexplained == 0
    assert truth_of(t, h, g).top1_flips == 1


# The verdict ---------------------------------------------------------------------------------------------------------

HEALTHY = truth_of(logits(1, 4, 8) + 1e-6 * logits(1, 4, 8, seed=1), logits(1, 4, 8) + 1e-6, logits(1, 4, 8))


def verdict(dtype=F32, nonfinite=0, no_op=False, **figures):
    usual = {"identical": False, "error_ratio": 1.5, "error_correlation": 0.0, "top1_unexplained": 0}
    return judge(dtype, nonfinite=nonfinite, no_op=no_op, truth=replace(HEALTHY, **{**usual, **figures}))


def beyond(gate):
    return math.nextafter(gate, math.inf)


@pytest.mark.parametrize(
    ("case", "word"),
    [
        ({"identical": True, "error_ratio": 1.0, "error_correlation": 1.0}, Verdict.EXACT),
        ({"error_ratio": 1.0, "error_correlation": 1.0}, Verdict.SAME_ROUNDING),
        ({"error_ratio": SAME_RATIO, "error_correlation": SAME_CORRELATION}, Verdict.SAME_ROUNDING),
        ({"error_ratio": 1 / SAME_RATIO, "error_correlation": SAME_CORRELATION}, Verdict.SAME_ROUNDING),
        ({"error_ratio": beyond(SAME_RATIO), "error_correlation": 1.0}, Verdict.BENIGN),
        ({"error_ratio": 0.9, "error_correlation": 1.0}, Verdict.BENIGN),
        ({"error_ratio": 1.0, "error_correlation": math.nextafter(SAME_CORRELATION, 0)}, Verdict.BENIGN),
        ({"error_ratio": 0.01}, Verdict.BENIGN),
        ({"error_ratio": RATIO_GATE[F32]}, Verdict.BENIGN),
        ({"error_ratio": beyond(RATIO_GATE[F32])}, Verdict.WORSE),
        ({"error_ratio": RATIO_GATE[F16], "dtype": F16}, Verdict.BENIGN),
        ({"error_ratio": beyond(RATIO_GATE[F16]), "dtype": F16}, Verdict.WORSE),
        ({"error_ratio": RATIO_GATE[BF16], "dtype": BF16}, Verdict.BENIGN),
        ({"error_ratio": beyond(RATIO_GATE[BF16]), "dtype": BF16}, Verdict.WORSE),
        ({"error_ratio": math.nextafter(BROKEN_RATIO, 0)}, Verdict.WORSE),
        ({"error_ratio": BROKEN_RATIO}, Verdict.BROKEN),
        ({"top1_unexplained": 1, "error_ratio": 1.0}, Verdict.BROKEN),
        ({"nonfinite": 1, "identical": True}, Verdict.BROKEN),
        ({"no_op": True}, Verdict.NO_OP),
        ({"no_op": True, "identical": True}, Verdict.NO_OP),
        ({"no_op": True, "error_ratio": 50.0}, Verdict.WORSE),
        ({"no_op": True, "error_ratio": 500.0}, Verdict.BROKEN),
        ({"has_experts": True, "error_ratio": 50.0, "typical_ratio": RATIO_GATE[F32]}, Verdict.BENIGN),
        ({"has_experts": True, "error_ratio": 1.5, "typical_ratio": beyond(RATIO_GATE[F32])}, Verdict.WORSE),
        ({"has_experts": True, "top1_unexplained": 1, "typical_ratio": 1.0}, Verdict.BENIGN),
        ({"has_experts": True, "top1_unexplained": 1, "typical_ratio": 2.5}, Verdict.BROKEN),
        ({"has_experts": True, "error_ratio": BROKEN_RATIO, "typical_ratio": 1.0}, Verdict.BROKEN),
    ],
)
def test_the_verdict_at_each_gate(case, word):
    assert verdict(**case) is word


def test_the_typical_ratio_does_not_see_a_token_that_went_to_another_expert_and_sees_an_error_everywhere():
    g, e = logits(2, 16, 32), 1e-4 * logits(2, 16, 32, seed=1)
    elsewhere = e.clone()
    elsewhere[0, 3] *= 100
    found = truth_of(g + elsewhere, g - e, g)
    assert found.typical_ratio == pytest.approx(1, abs=0.01)
    assert found.error_ratio > 10
    everywhere = truth_of(g + 3 * e, g - e, g)
    assert everywhere.typical_ratio == pytest.approx(3, rel=1e-6)
    assert everywhere.judged_ratio == everywhere.error_ratio
    assert replace(everywhere, has_experts=True).judged_ratio == everywhere.typical_ratio


def test_without_a_golden_nothing_is_judged_but_a_nonfinite_logit():
    assert judge(F32, nonfinite=0, no_op=False, truth=None) is Verdict.NOT_APPLICABLE
    assert judge(F32, nonfinite=0, no_op=True, truth=None) is Verdict.NO_OP
    assert judge(F32, nonfinite=2, no_op=False, truth=None) is Verdict.BROKEN


def test_severity_grows_with_what_is_wrong():
    words = [Verdict.EXACT, Verdict.SAME_ROUNDING, Verdict.BENIGN, Verdict.WORSE, Verdict.BROKEN]
    assert [word.severity for word in words] == [0, 1, 2, 3, 4]


def test_the_alarming_verdicts_are_those_worse_than_benign():
    assert {word for word in Verdict if word.is_alarm} == {Verdict.WORSE, Verdict.BROKEN, Verdict.FAILED}
