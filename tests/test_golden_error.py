"""The formulas against the truth, on cases whose answer mathematics gives; and the verdict at each of its gates."""

import math
from dataclasses import replace

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbench.grid import Dtype
from tlbench.metrics.figures import RATIO_GATE, TAIL_SLACK, UNIT_ROUNDOFF, Closeness
from tlbench.metrics.golden_error import (
    FEWEST_SETTLED,
    TIE_ULPS,
    against_truth,
    bits_lost,
    correlation,
    kl_divergence,
    logit_differences,
    top1_changes,
)
from tlbench.metrics.verdict import (
    BROKEN_RATIO,
    SAME_CORRELATION,
    SAME_RATIO,
    Evidence,
    JudgedBy,
    Verdict,
    judge,
    judged_by,
    word_of,
)

F32, F16, BF16 = Dtype.FLOAT32, Dtype.FLOAT16, Dtype.BFLOAT16


def logits(*shape, seed=0, scale=3.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def truth_of(t, h, g, dtype=F32, settled=None):
    return against_truth(t, h, g, g, dtype, settled=settled)


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


def truth_with(**figures):
    usual = {"identical": False, "error_ratio": 1.5, "error_correlation": 0.0, "top1_unexplained": 0}
    usual |= {"typical_ratio": 1.0, "tail_ratio": 1.0}
    return replace(HEALTHY, **{**usual, **figures})


def verdict(dtype=F32, nonfinite=0, no_op=False, **figures):
    return judge(Evidence(dtype, nonfinite=nonfinite, no_op=no_op, truth=truth_with(**figures)))


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
        ({"has_experts": True, "tail_ratio": TAIL_SLACK * RATIO_GATE[F32]}, Verdict.BENIGN),
        ({"has_experts": True, "tail_ratio": beyond(TAIL_SLACK * RATIO_GATE[F32])}, Verdict.WORSE),
        ({"has_experts": True, "typical_ratio": 1.0, "settled_ratio": RATIO_GATE[F32]}, Verdict.BENIGN),
        ({"has_experts": True, "typical_ratio": 1.0, "settled_ratio": beyond(RATIO_GATE[F32])}, Verdict.WORSE),
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
    assert replace(everywhere, has_experts=True).judged_ratio == pytest.approx(3, rel=1e-6)
    assert replace(found, has_experts=True).judged_ratio < 1.1


@pytest.mark.parametrize("is_settled", [True, False])
@pytest.mark.parametrize("dtype", Dtype)
def test_a_fault_in_a_tenth_of_a_mixture_s_positions_is_seen(is_settled, dtype):
    g, e = logits(2, 64, 32), 1e-6 * logits(2, 64, 32, seed=1)
    settled = torch.full((2, 64), is_settled)
    faulty, elsewhere = e.clone(), e.clone()
    faulty.view(128, 32)[5:128:10] *= 20  # 13 of 128 positions
    elsewhere.view(128, 32)[7:128:32] *= 20  # the 4 that rounding may send to other experts
    found = truth_of(g + faulty, g - elsewhere, g, settled=settled)
    assert found.typical_ratio == pytest.approx(1, abs=0.05)
    assert judge(Evidence(dtype, truth=found)) is Verdict.WORSE
    healthy = truth_of(g + e, g - elsewhere, g, settled=settled & False)
    assert judge(Evidence(dtype, truth=healthy)) is Verdict.BENIGN
    healthy = truth_of(g + elsewhere, g - e, g, settled=settled & False)
    assert judge(Evidence(dtype, truth=healthy)) is Verdict.BENIGN


def test_a_fault_of_one_position_of_a_mixture_is_seen_where_no_rounding_can_send_it_elsewhere():
    g, e = logits(2, 64, 32), 1e-6 * logits(2, 64, 32, seed=1)
    faulty = e.clone()
    faulty[0, 40] *= 50
    found = truth_of(g + faulty, g - e, g, settled=torch.ones(2, 64, dtype=torch.bool))
    assert found.tail_ratio == pytest.approx(1, abs=0.05)
    assert judge(Evidence(F32, truth=found)) is Verdict.WORSE


def test_a_token_that_rounding_sends_to_other_experts_is_left_out_and_so_is_all_that_may_attend_to_it():
    g, e = logits(2, 32, 32), 1e-6 * logits(2, 32, 32, seed=1)
    settled = torch.ones(2, 32, dtype=torch.bool)
    settled[0, 20:] = False
    elsewhere = e.clone()
    elsewhere[0, 20:22] *= 20
    found = truth_of(g + elsewhere, g - e, g, settled=settled)
    assert found.settled_ratio == pytest.approx(1, abs=1e-6)
    assert found.settled_share == pytest.approx(52 / 64)
    assert judge(Evidence(F32, truth=found)) is Verdict.BENIGN


def test_a_ratio_over_a_few_settled_positions_is_not_taken():
    g, e = logits(1, 32, 32), 1e-6 * logits(1, 32, 32, seed=1)
    settled = torch.zeros(1, 32, dtype=torch.bool)
    settled[0, : FEWEST_SETTLED - 1] = True
    assert truth_of(g + e, g - e, g, settled=settled).settled_ratio is None
    settled[0, FEWEST_SETTLED - 1] = True
    assert truth_of(g + e, g - e, g, settled=settled).settled_ratio == pytest.approx(1, abs=1e-6)


# Constant logits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constant", [0.0, 5.0])
def test_constant_logits_have_figures_and_a_verdict(constant):
    g = torch.full((1, 4, 8), constant, dtype=torch.float64)
    same = truth_of(g, g, g)
    assert (same.bits_lost, same.error_ratio, same.kl_nats) == (0, 0, 0)
    assert judge(Evidence(F32, truth=same)) is Verdict.EXACT
    moved = truth_of(g + 0.1 * logits(1, 4, 8), g, g)
    assert math.isfinite(moved.bits_lost)
    assert moved.bits_lost > 10
    assert judge(Evidence(F32, truth=moved)) is Verdict.BROKEN


# Logit differences ----------------------------------------------------------------------------------------------------


def test_the_error_of_a_logit_difference_is_that_of_likely_tokens_and_its_tail_is_the_largest_hundredth():
    g = torch.zeros(1, 100, 12, dtype=torch.float64)
    g[..., :2] = 5.0  # the two likeliest, and ten others of which eight are looked at
    e = torch.zeros_like(g)
    e[0, :, 0], e[0, :, 1] = 1e-3, -1e-3
    found = logit_differences(e, g)
    assert found.shape == (1, 100, 45)
    assert sorted(set(found[0, 0].tolist())) == pytest.approx([0, 1e-3, 2e-3])
    figures = truth_of(g + e, g + e, g)
    # Of 45 pairs one is between the two (2e-3), 16 are between one of them and another token (1e-3).
    assert figures.difference_p99 == pytest.approx(2e-3)
    assert figures.difference_rms == pytest.approx(math.sqrt((4e-6 + 16e-6) / 45), rel=1e-9)


def test_a_vocabulary_of_one_token_has_no_differences():
    g = torch.ones(1, 3, 1, dtype=torch.float64)
    found = truth_of(g, g, g)
    assert (found.difference_rms, found.difference_p99) == (0, 0)


# Without a golden, or with a wrong reference --------------------------------------------------------------------------


def close(**figures):
    usual = dict.fromkeys(("distance_rms", "spread_rms", "typical_spread_rms"), 1e-6)
    usual |= {"identical": False, "widest": "reversed sums", "ratio": 1.0}
    return Closeness(**{**usual, "top1_unexplained": 0, **figures})


@pytest.mark.parametrize(
    ("figures", "word"),
    [
        ({}, Verdict.BENIGN),
        ({"identical": True, "spread_rms": 0.0, "ratio": 0.0}, Verdict.EXACT),
        ({"ratio": RATIO_GATE[F32]}, Verdict.BENIGN),
        ({"ratio": beyond(RATIO_GATE[F32])}, Verdict.WORSE),
        ({"ratio": BROKEN_RATIO}, Verdict.BROKEN),
        ({"top1_unexplained": 1}, Verdict.BROKEN),
        ({"spread_rms": 0.0, "ratio": math.inf}, Verdict.UNJUDGED),
    ],
)
def test_without_a_golden_a_cell_is_judged_by_what_huggingface_s_own_rounding_can_do(figures, word):
    evidence = Evidence(F32, closeness=close(**figures))
    assert judge(evidence) is word
    assert judged_by(evidence) is JudgedBy.HUGGINGFACE


def test_with_nothing_to_judge_by_a_cell_is_unjudged_and_a_nonfinite_logit_broken():
    assert judge(Evidence(F32)) is Verdict.UNJUDGED
    assert judged_by(Evidence(F32)) is JudgedBy.NOTHING
    assert judge(Evidence(F32, no_op=True)) is Verdict.UNJUDGED
    assert judge(Evidence(F32, nonfinite=2)) is Verdict.BROKEN


def test_where_huggingface_itself_overflows_nothing_is_blamed_on_transformerlens():
    assert judge(Evidence(F16, nonfinite=2, reference_nonfinite=3)) is Verdict.UNJUDGED
    assert judge(Evidence(F16, reference_nonfinite=3, truth=truth_with())) is Verdict.UNJUDGED


@pytest.mark.parametrize(
    ("closeness", "truth", "word"),
    [
        (close(ratio=1.0), truth_with(error_ratio=1.0), Verdict.BENIGN),  # as HuggingFace, wrong as that is
        (close(ratio=5e5), truth_with(error_rms=1e-6), Verdict.BENIGN),  # right, though HuggingFace is not
        (close(ratio=5e5), truth_with(error_rms=1.0, error_ratio=2.4), Verdict.UNJUDGED),
        # A token that went to another expert makes the errors of all positions large, and those of the median none.
        (close(ratio=5e5), truth_with(has_experts=True, error_rms=1.0, typical_rms=1e-6), Verdict.BENIGN),
        (close(ratio=5e5, spread_rms=1.0), truth_with(has_experts=True, error_rms=0.1, typical_rms=0.1), Verdict.UNJUDGED),
        (close(ratio=5e5), None, Verdict.UNJUDGED),
        (None, truth_with(error_ratio=1.0), Verdict.UNJUDGED),
    ],
)
def test_beside_a_reference_that_is_wrong_nothing_is_an_alarm_and_only_agreement_with_it_or_the_golden_passes(
    closeness, truth, word
):
    evidence = Evidence(F32, closeness=closeness, truth=truth, reference_fault="transformers misreads rope_parameters")
    assert judge(evidence) is word
    assert not judge(evidence).is_alarm


def test_no_verdict_is_both_right_and_wrong_and_unjudged_is_neither():
    assert not [word for word in Verdict if word.passes and word.is_alarm]
    assert {word for word in Verdict if word.passes} == {
        Verdict.EXACT,
        Verdict.SAME_ROUNDING,
        Verdict.BENIGN,
        Verdict.NO_OP,
    }
    assert not Verdict.UNJUDGED.passes
    assert not Verdict.UNJUDGED.is_alarm


def test_severity_grows_with_what_is_wrong():
    words = [Verdict.EXACT, Verdict.SAME_ROUNDING, Verdict.BENIGN, Verdict.UNJUDGED, Verdict.WORSE, Verdict.BROKEN]
    assert [word.severity for word in words] == [0, 1, 2, 2.5, 3, 4]
    assert [word_of(word.severity) for word in words] == words


def test_the_alarming_verdicts_are_those_worse_than_benign():
    assert {word for word in Verdict if word.is_alarm} == {Verdict.WORSE, Verdict.BROKEN, Verdict.FAILED}
