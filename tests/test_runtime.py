"""Ratios of times: against mathematics, a machine whose speed is made up, and memory whose size is known."""

import json
import math
import random
import statistics
import sys
import time
from dataclasses import replace

import pytest
import torch

from tlbench import BadInput, NotApplicable, device
from tlbench.costs import slowdown
from tlbench.costs.memory import Allocated, allocated
from tlbench.costs.registry import IMPORT, MEMORY, SCALING, SLOWDOWN
from tlbench.costs.scaling import depths_of
from tlbench.costs.slowdown import NAMES, located, measure_slowdown
from tlbench.costs.stack import with_room
from tlbench.costs.turns import Candidate, take_turns
from tlbench.execution.client import Server, beside
from tlbench.grid import Cell, RuntimeCell
from tlbench.metrics.paired import (
    FALSE_ALARMS,
    INTERPRETERS,
    PROCESSES,
    T_99,
    Change,
    Paired,
    is_inside,
    paired,
    slower,
    two_sided,
)
from tlbench.questions import answers
from tlbench.questions.registry import ACCURACY
from tlbench.records.costs import Cost, Memory, Scaling, Slowdown
from tlbench.records.serial import plain, restored
from tlbench.report.slowdowns import ChangedRow, CostRow

CELL = RuntimeCell("zoo-gpt2", "float32", "all_options", "TransformerBridge", "2x64", "cpu", "forward")


class Machine:
    """A clock that moves on by what is run, times a speed that changes from round to round."""

    def __init__(self, speeds):
        self.now, self.speeds, self.ran = 0.0, speeds, []

    def clock(self):
        return self.now

    def candidate(self, name, seconds):
        def run(_):
            self.now += seconds * self.speeds[len(self.ran) // 2 % len(self.speeds)]
            self.ran.append(name)

        return Candidate(run)


def test_a_machine_that_slows_down_tenfold_moves_the_times_and_not_the_ratio():
    machine = Machine([1, 10, 3, 7])
    rounds = take_turns([machine.candidate("a", 0.2), machine.candidate("b", 0.1)], machine.clock, budget=0, fewest=8)
    tl, _ = zip(*rounds, strict=True)
    assert max(tl) > 9 * min(tl)
    assert paired([[rounds]] * INTERPRETERS, 1).ratio == pytest.approx(2, rel=1e-12)


def test_every_other_round_goes_backwards_and_the_first_ones_are_not_kept():
    machine = Machine([1])
    rounds = take_turns(
        [machine.candidate("a", 1.0), machine.candidate("b", 1.0)], machine.clock, budget=0, fewest=2, warm_up=2
    )
    assert "".join(machine.ran) == "abba" * 2
    assert len(rounds) == 2


def test_rounds_go_on_until_their_times_fill_the_budget():
    machine = Machine([1])
    rounds = take_turns([machine.candidate("a", 0.3), machine.candidate("b", 0.2)], machine.clock, budget=5, fewest=1)
    assert len(rounds) == 10


def test_what_prepares_a_run_and_what_lets_go_of_its_result_is_not_timed():
    now = [0.0]

    class Result:
        def __del__(self):
            now[0] += 1000

    def prepare():
        now[0] += 100

    def run(_):
        now[0] += 1
        return Result()

    assert take_turns([Candidate(run, prepare)], lambda: now[0], budget=0, fewest=3) == [(1.0,)] * 3


def student_cdf(t, freedom, steps=20_000):
    """By Simpson's rule over the density."""

    def density(x):
        scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
        return scale * (1 + x * x / freedom) ** (-(freedom + 1) / 2)

    h = t / steps
    inner = sum((4 if i % 2 else 2) * density(i * h) for i in range(1, steps))
    return 0.5 + h / 3 * (density(0) + inner + density(t))


def test_student_s_t_is_the_integral_of_its_density():
    assert student_cdf(T_99, INTERPRETERS - 1) == pytest.approx(0.995, abs=2e-5)


NIST = {1.415: 0.90, 1.895: 0.95, 2.365: 0.975, 2.998: 0.99, 3.499: 0.995, 4.785: 0.999}
"""Student's t for 7 degrees of freedom, by the probability below it: NIST/SEMATECH e-Handbook, 1.3.6.7.2."""


@pytest.mark.parametrize("t", NIST)
def test_the_probability_of_a_t_is_nists(t):
    assert two_sided(t) == two_sided(-t)
    assert two_sided(t) == pytest.approx(2 * (1 - NIST[t]), rel=2e-3)  # of t, three digits behind the point


@pytest.mark.parametrize("t", [0.0, 0.1, 1.0, 5.0, 8.0, 12.0])
def test_the_probability_of_a_t_is_what_the_integral_of_its_density_leaves(t):
    assert two_sided(t) == pytest.approx(2 * (1 - student_cdf(t, INTERPRETERS - 1)), rel=1e-6)


def test_ratio_and_interval_are_of_the_interpreters_not_of_their_processes():
    medians = ((1.0, 1.1), (1.2, 1.3), (1.4, 1.5), (1.6, 1.7)) * 2
    logs = [(math.log(one) + math.log(two)) / 2 for one, two in medians]
    found = Paired(medians)
    assert len(medians) == INTERPRETERS
    assert found.ratio == pytest.approx(math.prod(one * two for one, two in medians) ** (1 / 16))
    assert found.half_width == pytest.approx(3.499 * statistics.stdev(logs) * math.sqrt(2 / 8))
    assert is_inside(found, CostRow(CELL, found.ratio * math.exp(0.99 * found.half_width), 0))
    assert not is_inside(found, CostRow(CELL, found.ratio * math.exp(-1.01 * found.half_width), 0))


def test_a_process_is_the_median_of_its_rounds_and_the_default_has_a_ratio_of_its_own():
    rounds = [(1.0, 2.0, 4.0), (9.0, 2.0, 4.0), (1.5, 2.0, 4.0)]
    assert paired([[rounds, rounds]], 1).medians == ((0.75, 0.75),)
    assert paired([[rounds], [rounds]], 2).medians == ((0.375,), (0.375,))


def repeated(chance, between, within, slower=1.0):
    """A run as measure_slowdown makes it, where interpreters and their processes differ, with normal logarithms."""
    centres = [math.log(2.5 * slower) + chance.gauss(0, between) for _ in range(INTERPRETERS)]
    return Paired(tuple(tuple(math.exp(chance.gauss(centre, within)) for _ in range(PROCESSES)) for centre in centres))


@pytest.mark.slow
@pytest.mark.parametrize(("between", "within"), [(0.0, 0.003), (0.003, 0.008), (0.005, 0.02), (0.02, 0.005)])
def test_a_repeated_run_ends_in_the_interval_nearly_always(between, within):
    chance = random.Random(0)
    runs = [repeated(chance, between, within) for _ in range(2000)]
    inside = sum(is_inside(one, other) for one, other in zip(runs[::2], runs[1::2], strict=True))
    assert 0.97 < inside / 1000 < 1.0


def test_interpreters_that_agree_by_luck_have_the_interval_of_their_processes():
    """Each has one process a tenth above the other, so all have one mean, and the variance of a mean is d**2 / 4."""
    found = Paired(((1.0, 1.1), (1.1, 1.0)) * 4)
    assert found.log_error == pytest.approx(math.log(1.1) / 2)
    assert Paired(((1.0,), (1.1,)) * 4).log_error == pytest.approx(statistics.stdev([0, math.log(1.1)] * 4))


def test_a_slowdown_is_of_every_interpreter_by_turns(monkeypatch):
    started, asked = [], []

    def call(server, function, fields, before):
        assert (function, fields, before) == (slowdown.time_rounds, plain(CELL), slowdown.hash_checkpoint)
        asked.append(server.name)
        return [[len(asked), 2.0, 4.0]] * 3

    monkeypatch.setattr(slowdown, "located", lambda cell: None)
    monkeypatch.setattr(Server, "start", lambda server: started.append(server.name))
    monkeypatch.setattr(Server, "call", call)
    found = measure_slowdown(CELL)
    names = [beside(name).name for name in NAMES]
    assert sorted(started) == sorted(names)
    assert asked == names * PROCESSES
    assert found.eager.medians == tuple((first / 2, (first + INTERPRETERS) / 2) for first in range(1, INTERPRETERS + 1))
    assert found.default.medians[0] == (1 / 4, 9 / 4)
    assert (found.eager_seconds, found.default_seconds, found.rounds) == (2.0, 4.0, (3,) * 16)


def test_what_one_interpreter_cannot_measure_is_the_cell_s_outcome(monkeypatch):
    monkeypatch.setattr(slowdown, "located", lambda cell: None)
    monkeypatch.setattr(Server, "start", lambda server: None)

    def call(*_, before):
        raise NotApplicable("no such wrapper")

    monkeypatch.setattr(Server, "call", call)
    with pytest.raises(NotApplicable, match="no such wrapper"):
        measure_slowdown(CELL)


@pytest.mark.slow
def test_a_slowdown_of_ten_percent_is_flagged_and_unchanged_repeats_are_not():
    chance = random.Random(1)
    noise = (chance, 0.005, 0.01)
    unchanged = [Change.between(repeated(*noise), repeated(*noise)) for _ in range(1000)]
    planted = [Change.between(repeated(*noise), repeated(*noise, slower=1.1)) for _ in range(1000)]
    assert not any(change.is_slower(0.05) for change in unchanged)
    assert all(change.is_slower(0.05) for change in planted)


CELLS = 40
"""Cells that are compared at once."""
STILL = 0.0, 0.0


@pytest.mark.slow
@pytest.mark.parametrize(("later", "families"), [((0.02, 0.03), 100), (STILL, 500)])
def test_of_forty_unchanged_cells_none_is_called_slower_in_99_of_100_comparisons(later, families):
    """Without a threshold, so that only chance is tested. Where one side is still, the degrees of freedom are just 7."""
    chance = random.Random(3)
    noise = later if any(later) else (0.02, 0.0)
    compared = [
        [Change.between(repeated(chance, *noise), repeated(chance, *later)) for _ in range(CELLS)] for _ in range(families)
    ]
    assert sum(any(slower(changes, 0)) for changes in compared) <= FALSE_ALARMS * families
    if later == STILL:
        alone = sum(any(change.is_slower(0) for change in changes) for changes in compared)
        assert alone == pytest.approx((1 - 0.995**CELLS) * families, rel=0.2)


def test_among_forty_cells_the_one_that_slowed_down_is_named_and_so_are_all_if_all_did():
    chance = random.Random(4)
    noise = (chance, 0.005, 0.01)
    one = [Change.between(repeated(*noise), repeated(*noise, slower=1.2 if i == 7 else 1)) for i in range(CELLS)]
    assert [i for i, is_slower in enumerate(slower(one, 0.05)) if is_slower] == [7]
    every = [Change.between(repeated(*noise), repeated(*noise, slower=1.2)) for _ in range(CELLS)]
    assert all(slower(every, 0.05))


def change_of(p):
    """One that chance makes as often as ``p`` says: a factor of e, and a half-width by bisection."""
    low, high = 1e-6, 100.0
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if Change(math.e, middle).p_value < p else (low, middle)
    return Change(math.e, low)


def test_holm_s_correction_asks_less_of_each_next_cell_and_stops_at_the_first_that_fails():
    ps = [0.004, 0.0024, 0.0039, 0.009, 0.5]  # times 4, 5, 3 ... when sorted: .0024 * 5 > .01
    assert slower([change_of(p) for p in ps], 0.05) == [False] * 5
    ps = [0.0033, 0.0019, 0.0024, 0.0051, 0.5]  # .0019 * 5, .0024 * 4 and .0033 * 3 pass; .0051 * 2 does not
    assert slower([change_of(p) for p in ps], 0.05) == [True, True, True, False, False]


def test_a_single_cell_is_tested_by_its_own_interval_and_no_cell_by_none():
    assert slower([], 0.05) == []
    assert slower([Change(math.exp(0.1), 0.0999)], 0.05) == [True]
    assert slower([Change(math.exp(0.1), 0.1001)], 0.05) == [False]
    assert slower([Change(1.04, 0.001)], 0.05) == slower([Change(0.5, 0.001)], 0.05) == [False]


def test_without_any_spread_every_change_is_one():
    assert (Change(1.1, 0.0).p_value, Change(1.0, 0.0).p_value) == (0.0, 1.0)


def test_a_growth_within_chance_or_below_the_threshold_is_not_flagged():
    assert not Change(1.2, 0.3).is_slower(0.05)
    assert not Change(1.04, 0.001).is_slower(0.05)
    assert not Change(0.5, 0.001).is_slower(0.05)
    assert Change(1.06, 0.02).is_slower(0.05)


def test_the_interval_of_a_change_is_that_of_the_difference_of_two_means():
    earlier, later = Paired(((1.0,), (1.1,)) * 4), Paired(((1.0,), (1.02,)) * 4)
    errors = [one.log_error**2 / 8 for one in (earlier, later)]
    assert Change.between(earlier, later).half_width == pytest.approx(T_99 * math.sqrt(sum(errors)))


def called_at(depth, function):
    return called_at(depth - 1, function) if depth else function()


def seconds_of_calls():
    """The fastest of a few times that a function which does nothing is called often."""

    def nothing():
        pass

    def once():
        started = time.perf_counter()
        for _ in range(300):
            nothing()
        return time.perf_counter() - started

    return min(once() for _ in range(3))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="frames have been in chunks since Python 3.11")
def test_where_a_chunk_of_the_stack_ends_calls_are_slow_and_with_room_none_are():
    plain = [called_at(depth, seconds_of_calls) for depth in range(300)]
    roomy = [called_at(depth, lambda: with_room(seconds_of_calls)) for depth in range(300)]
    assert max(plain) > 5 * statistics.median(plain)
    assert max(roomy) < 3 * statistics.median(roomy)


def test_what_takes_turns_has_room_too():
    found = []
    candidate = Candidate(lambda _: found.append(seconds_of_calls()))
    for depth in range(300):
        called_at(depth, lambda: take_turns([candidate], time.perf_counter, budget=0, fewest=1, warm_up=0))
    assert len(found) == 300
    assert max(found) < 3 * statistics.median(found)


def raise_not_applicable():
    raise NotApplicable("nothing like it")


def test_with_room_returns_what_the_function_returns_and_raises_what_it_raises():
    assert with_room(lambda: 5) == 5
    with pytest.raises(NotApplicable, match="nothing like it"):
        with_room(raise_not_applicable)


def test_what_of_a_change_is_huggingface_s_is_told_where_its_seconds_are_known():
    earlier, later = CostRow(CELL, 0.5, 0.01, 6.0), CostRow(CELL, 1.5, 0.01, 2.0)
    assert ChangedRow(earlier, later).reference_factor == pytest.approx(1 / 3)
    assert ChangedRow(replace(earlier, reference_seconds=None), later).reference_factor is None
    assert ChangedRow(earlier, None).reference_factor is None


MEGABYTE = 1 << 20


def test_the_peak_is_the_most_that_was_held_at_once():
    def run():
        first = torch.empty(MEGABYTE, dtype=torch.uint8)
        second = torch.empty(2 * MEGABYTE, dtype=torch.uint8)
        del first
        third = torch.empty(MEGABYTE // 2, dtype=torch.uint8)
        del second, third

    found = allocated(run)
    assert (found.peak, found.kept) == (3 * MEGABYTE, 0)


def test_what_a_run_keeps_is_a_leak():
    kept = []
    found = allocated(lambda: kept.append(torch.empty(MEGABYTE, dtype=torch.uint8)))
    assert (found.peak, found.kept) == (MEGABYTE, MEGABYTE)


def test_memory_that_is_freed_below_what_was_there_before_is_no_peak():
    assert vars(Allocated([-5, 3])) == {"peak": 0, "kept": -2}


@pytest.mark.parametrize(("power", "kind"), [(1.0, "time"), (2.0, "time"), (2.0, "memory")])
def test_an_exponent_is_of_the_largest_sizes_whatever_a_call_costs(power, kind):
    sizes = [2**k for k in range(11)]
    costs = {n: Cost(1e-3 + 1e-4 * n**power, None, 64 + int(n**power), None) for n in sizes}
    growth = getattr(Scaling(CELL, costs, {}, {}, {}), kind)("length")
    assert growth.exponent == pytest.approx(power, abs=0.05)
    assert growth.points == 4


SLOW = Slowdown(CELL, Paired(((1.0,), (2.0, 2.5))), Paired(((3.0,), (4.0,))), 0.1, 0.05, 0.04, (5, 6))
RECORDS = [
    (SLOWDOWN, SLOW),
    (SLOWDOWN, replace(SLOW, default=None, default_seconds=None)),
    (IMPORT, replace(SLOW, cell=None)),
    (MEMORY, Memory(CELL, 10, 20, 30, 0.5)),
    (SCALING, Scaling(CELL, {1: Cost(0.1, 0.2, 3, 4)}, {}, {2: Cost(0.1, None, 3, None)}, {"depth": "why"})),
]


@pytest.mark.parametrize(("question", "record"), RECORDS)
def test_a_record_survives_json(question, record):
    assert restored(question.record, json.loads(json.dumps(plain(record)))) == record


def test_times_are_measured_anew_by_every_run_and_errors_are_kept(monkeypatch):
    monkeypatch.setattr(answers, "setting", lambda: {})
    assert answers.kept_path(SLOWDOWN, CELL) is None
    assert answers.kept_path(ACCURACY, Cell("zoo-gpt2", "float32", "fold_ln", "TransformerBridge")) is not None


@pytest.mark.parametrize("field", ["dtype", "option", "wrapper", "shape", "device", "operation"])
def test_a_word_that_does_not_exist_is_told(field):
    with pytest.raises(BadInput, match="'nothing'"):
        replace(CELL, **{field: "nothing"})


def test_a_shape_is_sequences_by_tokens():
    assert (CELL.batch, CELL.length) == (2, 64)
    assert CELL.cell == Cell("zoo-gpt2", "float32", "all_options", "TransformerBridge")


def test_on_a_gpu_the_clock_waits_for_it(monkeypatch):
    waited = []
    monkeypatch.setattr(device, "current", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(True))
    assert device.synchronized_clock() <= device.synchronized_clock()
    assert len(waited) == 2
    monkeypatch.setattr(device, "current", lambda: "cpu")
    device.synchronized_clock()
    assert len(waited) == 2


def test_on_a_gpu_memory_is_what_cuda_counts(monkeypatch):
    """The counter that torch keeps of a GPU, made up: 100 bytes were there, 700 at most, 130 are there after it."""
    held, most = [100], [0]

    def run():
        held[0], most[0] = 130, 700

    monkeypatch.setattr(device, "current", lambda: "cuda")
    for name, found in (
        ("synchronize", lambda: None),
        ("memory_allocated", lambda: held[0]),
        ("max_memory_allocated", lambda: most[0]),
        ("reset_peak_memory_stats", lambda: None),
    ):
        monkeypatch.setattr(torch.cuda, name, found)
    found = allocated(run)
    assert (found.peak, found.kept) == (600, 30)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_no_failure():
    with pytest.raises(NotApplicable, match="cannot use the device 'cuda'"):
        located(replace(CELL, device="cuda"))


def test_a_model_of_few_blocks_has_depths_enough_for_a_line():
    assert depths_of(4) == [1, 2, 3]
    assert depths_of(30) == [1, 2, 4, 8, 16]
