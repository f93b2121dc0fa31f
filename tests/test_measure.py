"""One measurement of a cell, on made-up models: what is not finite, padded or without an exact answer is told as such."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from tlbench import Cell, catalogue
from tlbench.checkpoints import ensure
from tlbench.exceptions import CellFailed, NoGolden, NonFiniteLogits
from tlbench.lens import Lens
from tlbench.metrics.closeness import Spread
from tlbench.metrics.verdict import JudgedBy, Verdict
from tlbench.questions import accuracy as measuring
from tlbench.questions.accuracy import measure
from tlbench.records.measurement import Measurement
from tlbench.records.serial import plain, restored
from tlbench.reference import golden, huggingface, soundness
from tlbench.reference.golden import Golden, Precision

D_VOCAB = 32


def logits(seed=0, d_vocab=D_VOCAB):
    return torch.randn(2, 8, d_vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


EXACT = logits()


class World:
    """HuggingFace's logits and the golden of one made-up model; both as they should be, until a test says otherwise."""

    h = EXACT.float()
    precision = Precision.FLOAT64
    has_experts = False
    margins = torch.full((2, 8), math.inf).double()
    spread = 1e-6
    fault = other = ""

    def measure(self, t, dtype="float32", changed_weights=3):
        cell = Cell("zoo-gpt2", dtype, "fold_ln", "TransformerBridge")
        checkpoint = SimpleNamespace(has_experts=self.has_experts, model=SimpleNamespace(threads=1, name="made up"))
        return measure(cell, (checkpoint, Lens(lambda ids: t, changed_weights, None, steps=None, greedy=None, process=None)))


@pytest.fixture
def world(monkeypatch):
    made = World()
    monkeypatch.setattr(huggingface, "tokens", lambda checkpoint, name: torch.zeros(2, 8, dtype=torch.long))
    monkeypatch.setattr(
        huggingface, "reference_logits", lambda checkpoint, dtype, kind: {"natural": made.h, "origin": made.h}
    )
    monkeypatch.setattr(
        golden, "golden", lambda checkpoint, weights: Golden(EXACT, made.precision, torch.zeros(8), made.margins)
    )
    monkeypatch.setattr(soundness, "reference_fault", lambda checkpoint: made.fault)
    monkeypatch.setattr(soundness, "other_function", lambda checkpoint: made.other)
    monkeypatch.setattr(
        huggingface,
        "reference_variants",
        lambda checkpoint, dtype: {"reversed sums": Spread(torch.full((2, 8), made.spread**2), 4 * made.spread)},
    )
    return made


def no_golden(reason):
    def golden(checkpoint, weights):
        raise NoGolden(reason)

    return golden


def test_constants_and_another_attention_are_remarked_and_change_no_verdict(world):
    world.other = "HuggingFace is two functions"
    found = world.measure(world.h)
    assert (found.remark, found.verdict) == ("HuggingFace is two functions", Verdict.EXACT)


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
    assert (found.nonfinite, found.reference_nonfinite) == (0, 2)
    assert found.verdict is Verdict.UNJUDGED
    assert world.measure(world.h).verdict is Verdict.UNJUDGED  # TransformerLens overflows where HuggingFace does
    with pytest.raises(NonFiniteLogits, match="HuggingFace returned 1 non-finite"):
        found.require_truth()


def test_a_vocabulary_that_one_side_pads_is_compared_where_both_have_tokens(world):
    padded = torch.cat([world.h, torch.full((2, 8, 8), -100.0)], -1)
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
        golden,
        "golden",
        lambda checkpoint, weights: Golden(EXACT, world.precision, torch.zeros(8), torch.zeros(0), next(files)),
    )
    figures = [world.measure(world.h + 1e-3 * logits(1).float()).require_truth() for _ in range(3)]
    assert given == [True, False, False]
    assert figures[0] == figures[1] == figures[2]


def test_other_positions_are_a_failure(world):
    with pytest.raises(CellFailed, match="shape"):
        world.measure(logits()[:, :3])


def test_a_float32_golden_is_marked_and_its_figures_are_not_kept(world):
    world.precision = Precision.FLOAT32
    world.h = EXACT.half()
    found = world.measure(EXACT.half(), dtype="float16")
    assert found.require_truth().golden_precision == "float32"
    assert "float32" in found.note
    assert not found.is_final
    world.precision = Precision.FLOAT64
    assert world.measure(EXACT.half(), dtype="float16").is_final


def test_a_cell_without_a_golden_keeps_its_accuracy_and_is_judged_by_huggingface_s_own_rounding(world, monkeypatch):
    monkeypatch.setattr(golden, "golden", no_golden("its upcasts are not intercepted"))
    found = world.measure(world.h + 1.5e-6)
    assert found.require_accuracy().logit.max < 2e-6
    assert (found.no_truth, found.note) == ("its upcasts are not intercepted",) * 2
    assert (found.verdict, found.judged_by) == (Verdict.BENIGN, JudgedBy.HUGGINGFACE)
    assert found.severity == 2
    assert not found.is_final
    with pytest.raises(NoGolden, match="not intercepted"):
        found.require_truth()


def test_a_fault_beyond_huggingface_s_own_rounding_does_not_pass_without_a_golden(world, monkeypatch):
    monkeypatch.setattr(golden, "golden", no_golden("too large"))
    t = world.h + 1e-3 * logits(seed=3).float()
    assert world.measure(t).verdict is Verdict.BROKEN
    world.spread = 1e-2
    assert world.measure(t).verdict is Verdict.BENIGN


def test_without_a_golden_and_with_variants_that_all_agree_nothing_is_judged_and_nothing_passes(world, monkeypatch):
    monkeypatch.setattr(golden, "golden", no_golden("too large"))
    world.spread = 0.0
    found = world.measure(world.h + 1e-6 * logits(seed=3).float())
    assert found.verdict is Verdict.UNJUDGED
    assert found.severity == 2.5
    assert world.measure(world.h).verdict is Verdict.EXACT


def test_without_a_golden_and_without_variants_nothing_passes(world, monkeypatch):
    def failing(checkpoint, dtype):
        raise CellFailed("HuggingFace cannot run it again")

    monkeypatch.setattr(golden, "golden", no_golden("too large"))
    monkeypatch.setattr(huggingface, "reference_variants", failing)
    assert world.measure(world.h + 1e-6 * logits(seed=3).float()).verdict is Verdict.UNJUDGED


def test_where_huggingface_itself_is_wrong_transformerlens_is_not_blamed_and_the_sentence_is_kept(world):
    world.fault = "transformers 4.57.6 misreads rope_parameters"
    world.h = (EXACT + logits(seed=4)).float()
    world.spread = 1e-6
    other = world.measure((EXACT + logits(seed=5)).float())
    assert (other.verdict, other.note) == (Verdict.UNJUDGED, world.fault)
    assert world.measure(EXACT.float()).verdict is Verdict.BENIGN  # right where HuggingFace is not
    same = world.measure(world.h)
    assert (same.verdict, same.judged_by) == (Verdict.EXACT, JudgedBy.HUGGINGFACE)


def test_a_measurement_that_was_not_judged_by_a_golden_survives_json(world, monkeypatch):
    monkeypatch.setattr(golden, "golden", no_golden("too large"))
    world.fault = "wrong"
    found = world.measure(world.h + 1e-6)
    assert found.closeness is not None
    assert restored(Measurement, json.loads(json.dumps(plain(found)))) == found


def test_a_token_that_a_mixture_of_experts_sends_elsewhere_is_no_alarm_and_in_another_model_it_is(world):
    t = EXACT.float()
    t[0, 1] += 2e-6 * logits(seed=2)[0, 1]
    assert world.measure(t).verdict.is_alarm
    world.has_experts = True
    world.margins = torch.full((2, 8), math.inf).double()
    world.margins[0, 1] = 1e-7
    found = world.measure(t)
    assert not found.verdict.is_alarm
    assert found.truth.has_experts
    assert found.truth.settled_share == 9 / 16


def test_of_the_zoo_only_mixtral_has_experts():
    models = catalogue.load()
    found = {model.name: ensure(model, models).has_experts for model in models.models if model.source == "zoo"}
    assert {name for name, has in found.items() if has} == {"zoo-mixtral"}
