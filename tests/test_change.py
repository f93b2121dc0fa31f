"""The rule that says how a cell changed, line by line, and that nothing unknown passes for right."""

import math

import pytest

from tlbench.metrics.change import Change, State, change
from tlbench.metrics.verdict import Verdict

RIGHT = (Verdict.EXACT, Verdict.SAME_ROUNDING, Verdict.BENIGN, Verdict.NO_OP)


def state(verdict=Verdict.BENIGN, error=1e-6, fingerprint="", **more):
    return State(verdict, fingerprint or f"{verdict} {error}", error, **more)


def without_figures(verdict):
    return State(verdict)


def word(before, after):
    return change(before, after)[0]


def test_the_same_bits_are_silent_in_whatever_environment():
    here, there = (state(fingerprint="f", environment=name) for name in ("torch 1", "torch 2"))
    assert change(here, there) == (Change.SAME_BITS, 0.0)


def test_other_bits_in_another_environment_are_blamed_on_nobody_yet():
    before = state(environment="transformers 4")
    for after in (state(error=1.0, verdict=Verdict.BROKEN), State(Verdict.FAILED), state(error=2e-6)):
        moved = State(after.verdict, after.fingerprint, after.error, environment="transformers 5")
        assert word(before, moved) is Change.ENVIRONMENT


@pytest.mark.parametrize("factor", [2**0.49, 2**-0.49, 1.0000001])
def test_less_than_half_a_bit_is_other_rounding(factor):
    assert word(state(), state(error=1e-6 * factor, fingerprint="other")) is Change.OTHER_ROUNDING


@pytest.mark.parametrize(("factor", "expected"), [(2**0.51, Change.NOTICE), (2**-0.51, Change.BETTER)])
def test_half_a_bit_is_news_in_either_direction(factor, expected):
    found, bits = change(state(), state(error=1e-6 * factor))
    assert (found, bits) == (expected, pytest.approx(math.log2(factor)))


def test_below_the_floor_every_change_is_rounding_and_only_what_rises_above_it_counts():
    assert word(state(error=1e-9, floor=1e-6), state(error=9e-7, floor=1e-6)) is Change.OTHER_ROUNDING
    assert change(state(error=1e-9, floor=1e-6), state(error=4e-6, floor=1e-6)) == (Change.NOTICE, pytest.approx(2))


@pytest.mark.parametrize("before", RIGHT)
@pytest.mark.parametrize("after", RIGHT)
def test_a_right_cell_that_rounds_otherwise_is_no_alarm_whatever_its_word(before, after):
    assert word(state(before), state(after, fingerprint="other")) is Change.OTHER_ROUNDING


def test_from_and_to_an_exact_zero_is_rounding_if_both_are_right():
    exact = state(Verdict.EXACT, 0.0)
    assert word(exact, state()) is word(state(), exact) is Change.OTHER_ROUNDING


@pytest.mark.parametrize("before", [*RIGHT, Verdict.UNJUDGED])
@pytest.mark.parametrize("after", [Verdict.WORSE, Verdict.BROKEN])
def test_what_becomes_wrong_is_an_alarm_however_little_its_mean_moved(before, after):
    assert word(state(before), state(after, 1e-6 * 1.01)) is Change.ALARM


def test_worse_to_broken_is_an_alarm_and_back_is_better():
    worse, broken = state(Verdict.WORSE), state(Verdict.BROKEN)
    assert word(worse, broken) is Change.ALARM
    assert word(broken, worse) is Change.BETTER


@pytest.mark.parametrize("before", [state(), state(Verdict.BROKEN), State(Verdict.NOT_APPLICABLE)])
def test_failing_is_an_alarm_whatever_it_was(before):
    found = word(before, State(Verdict.FAILED))
    assert found is Change.NEWLY_FAILING
    assert found.is_alarm


@pytest.mark.parametrize("before", [state(), state(Verdict.BROKEN), State(Verdict.FAILED)])
def test_what_is_not_applicable_any_more_is_an_alarm(before):
    found = word(before, State(Verdict.NOT_APPLICABLE))
    assert found is Change.NEWLY_NOT_APPLICABLE
    assert found.is_alarm


@pytest.mark.parametrize("before", [state(Verdict.BROKEN, math.inf), state(Verdict.WORSE), State(Verdict.FAILED)])
def test_what_is_right_again_is_mended(before):
    assert word(before, state()) is Change.MENDED


def test_a_new_cell_is_news_and_an_alarm_if_it_is_wrong_from_the_start():
    absent = State(Verdict.NOT_APPLICABLE)
    assert word(absent, state()) is Change.NEWLY_APPLICABLE
    assert word(absent, state(Verdict.BROKEN)) is word(State(Verdict.FAILED), state(Verdict.BROKEN)) is Change.ALARM


def test_what_cannot_be_judged_any_more_is_a_notice_and_is_never_mended():
    assert word(state(), state(Verdict.UNJUDGED)) is Change.NOTICE
    assert word(state(Verdict.UNJUDGED), state()) is Change.BETTER
    assert word(state(Verdict.BROKEN), state(Verdict.UNJUDGED)) is Change.BETTER


@pytest.mark.parametrize("other", [state(), *map(State, (Verdict.FAILED, Verdict.NOT_APPLICABLE, Verdict.NOT_MEASURED))])
def test_what_was_not_measured_is_neither_right_nor_wrong(other):
    nobody = State(Verdict.NOT_MEASURED)
    assert word(nobody, other) is word(other, nobody) is Change.NOT_MEASURED
    assert not Change.NOT_MEASURED.is_news


def test_what_still_fails_or_is_still_not_applicable_is_said_so():
    assert word(State(Verdict.FAILED), State(Verdict.FAILED)) is Change.STILL_FAILING
    assert word(State(Verdict.NOT_APPLICABLE), State(Verdict.NOT_APPLICABLE)) is Change.STILL_NOT_APPLICABLE


MEASURED = (*RIGHT, Verdict.UNJUDGED, Verdict.WORSE, Verdict.BROKEN)


@pytest.mark.parametrize("before", MEASURED)
@pytest.mark.parametrize("after", MEASURED)
@pytest.mark.parametrize("factor", [0.5, 1.1, 2])
def test_a_change_and_its_reverse_are_never_both_for_the_worse_or_both_for_the_better(before, after, factor):
    pair = state(before, 1e-6), state(after, 1e-6 * factor)
    there, back = word(*pair), word(*pair[::-1])
    assert there.is_for_the_worse == (back in (Change.BETTER, Change.MENDED))
    assert (there is Change.OTHER_ROUNDING) == (back is Change.OTHER_ROUNDING)
