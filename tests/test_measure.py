"""One measurement of a cell, on made-up models: what is not finite, padded or without an exact answer is told as such."""

import math
from types import SimpleNamespace

import pytest
import torch

from tlbench import Cell, catalogue
from tlbench import measure as measuring
from tlbench.checkpoints import ensure
from tlbench.exceptions import CellFailed, NoGolden, NonFiniteLogits
from tlbench.lens import Lens
from tlbench.measure import measure
from tlbench.reference import golden, huggingface
from tlbench.reference.golden import Golden, Precision
from tlbench.verdict import Verdict

D_VOCAB = 32


def logits(seed=0, d_vocab=D_VOCAB):
    return torch.randn(2, 4, d_vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


EXACT = logits()


class World:
    """HuggingFace's logits and the golden of one made-up model; both as they should be, until a test says otherwise."""

    h = EXACT.float()
    precision = Precision.FLOAT64

    has_experts = False

    def measure(self, t, dtype="float32", changed_weights=3):
        cell = Cell("zoo-gpt2", dtype, "fold_ln", "TransformerBridge")
        checkpoint = SimpleNamespace(has_experts=self.has_experts, model=SimpleNamespace(threads=1, name="made up"))
        return measure(cell, (checkpoint, Lens(lambda ids: t, changed_weights, None, steps=None, greedy=None, process=None)))


@pytest.fixture
def world(monkeypatch):
    made = World()
    monkeypatch.setattr(huggingface, "tokens", lambda checkpoint, name: torch.zeros(2, 4, dtype=torch.long))
    monkeypatch.setattr(
        huggingface, "reference_logits", lambda checkpoint, dtype, kind: {"natural": made.h, "origin": made.h}
    )
    monkeypatch.setattr(golden, "golden", lambda checkpoint, weights: Golden(EXACT, made.precision, torch.zeros(4)))
    return made


def test_huggingface_s_own_logits_are_exact(world):
    found = world.measure(world.h)
    assert found.verdict is Verdict.EXACT
    assert found.require_accuracy().logit.max == 0
    assert found.require_truth().error_ratio == 1


def test_an_option_that_changed_no_weight_is_a_no_op_even_where_logits_agree(world):
    assert world.measure(world.h, changed_weights=0).verdict is Verdict.NO_OP


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_nonfinite_logit_is_counted_and_broken(world, bad):
    t = world.h.clone()
    t[0, 0, :3] = bad
    found = world.measure(t)
    assert found.nonfinite == 6  # three in either prompt set
    assert found.verdict is Verdict.BROKEN
    assert found.severity == 4
    assert not found.lacks_golden
    with pytest.raises(NonFiniteLogits, match="TransformerLens returned 3 non-finite"):
        found.require_accuracy()


def test_where_huggingface_itself_is_not_finite_nothing_is_judged(world):
    world.h = world.h.clone()
    world.h[0, 0, 0] = math.nan
    found = world.measure(EXACT.float())
    assert found.nonfinite == 0
    assert found.verdict is Verdict.NOT_APPLICABLE
    with pytest.raises(NonFiniteLogits, match="HuggingFace returned 1 non-finite"):
        found.require_truth()


def test_a_vocabulary_that_one_side_pads_is_compared_where_both_have_tokens(world):
    padded = torch.cat([world.h, torch.full((2, 4, 8), -100.0)], -1)
    found = world.measure(padded)
    assert found.vocabulary == (D_VOCAB + 8, D_VOCAB)
    assert found.verdict is Verdict.EXACT
    world.h = padded
    assert world.measure(EXACT.float()).vocabulary == (D_VOCAB, D_VOCAB + 8)


def test_a_rounded_golden_that_is_the_original_s_file_is_read_once(world, monkeypatch):
    given = []
    truth = measuring.against_truth

    def noted(t, h, g, original, *args, **kwargs):
        given.append(original is g)
        return truth(t, h, g, original, *args, **kwargs)

    monkeypatch.setattr(measuring, "against_truth", noted)
    files = iter(["one", "one", "one", "another", "", ""])
    monkeypatch.setattr(
        golden, "golden", lambda checkpoint, weights: Golden(EXACT, world.precision, torch.zeros(4), next(files))
    )
    figures = [world.measure(world.h + 1e-3 * logits(1).float()).require_truth() for _ in range(3)]
    assert given == [True, False, False]
    assert figures[0] == figures[1] == figures[2]


def test_other_positions_are_a_failure(world):
    with pytest.raises(CellFailed, match="shape"):
        world.measure(logits()[:, :3])


def test_a_float32_golden_judges_16_bits_and_is_marked_and_does_not_judge_float32(world):
    world.precision = Precision.FLOAT32
    world.h = EXACT.half()
    found = world.measure(EXACT.half(), dtype="float16")
    assert found.require_truth().golden_precision == "float32"
    world.h = EXACT.float()
    found = world.measure(EXACT.float())
    assert found.lacks_golden
    assert found.require_accuracy().logit.max == 0
    with pytest.raises(NoGolden, match="too large for a float64 golden"):
        found.require_truth()


def test_a_measurement_without_an_exact_answer_keeps_its_accuracy(world, monkeypatch):
    def none(checkpoint, weights):
        raise NoGolden("its upcasts are not intercepted")

    monkeypatch.setattr(golden, "golden", none)
    found = world.measure(EXACT.float())
    assert found.require_accuracy().logit.max == 0
    assert found.no_truth == "its upcasts are not intercepted"
    assert found.verdict is Verdict.NOT_APPLICABLE


def test_a_token_that_a_mixture_of_experts_sends_elsewhere_is_no_alarm_and_in_another_model_it_is(world):
    t = EXACT.float()
    t[0, 1] += 2e-6 * logits(seed=2)[0, 1]
    assert world.measure(t).verdict.is_alarm
    world.has_experts = True
    found = world.measure(t)
    assert not found.verdict.is_alarm
    assert found.truth.has_experts


def test_of_the_zoo_only_mixtral_has_experts():
    models = catalogue.load()
    found = {model.name: ensure(model, models).has_experts for model in models.models if model.source == "zoo"}
    assert {name for name, has in found.items() if has} == {"zoo-mixtral"}
