"""HuggingFace beside itself: what its own rounding can do, whether it is right, and where rounding changes the experts."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.test_golden import checkpoint
from tlbench.exceptions import NoGolden
from tlbench.grid import Attention, Dtype
from tlbench.metrics.closeness import closeness, spread
from tlbench.metrics.verdict import Evidence, Verdict, judge
from tlbench.reference import golden, huggingface, routing, soundness, variants
from tlbench.reference.golden import Golden, Precision, Weights

F32 = Dtype.FLOAT32


def logits(*shape, seed=0, scale=3.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


# Closeness ------------------------------------------------------------------------------------------------------------


def test_two_independent_roundings_of_one_size_are_as_far_apart_as_the_variants_are():
    g, t, h, v = logits(4, 32, 64), *(1e-6 * logits(4, 32, 64, seed=seed) for seed in (1, 2, 3))
    found = closeness(g + t, g + h, {"v": spread(g + v, g + h)}, F32, has_experts=False)
    assert found.ratio == pytest.approx(1, rel=0.05)
    assert found.distance_rms == pytest.approx(found.spread_rms, rel=0.05)
    assert (found.widest, found.identical, found.top1_unexplained) == ("v", False, 0)


def test_the_widest_variant_counts_and_a_constant_a_position_is_no_distance():
    g, e = logits(2, 8, 32), 1e-6 * logits(2, 8, 32, seed=1)
    wide, narrow = spread(g + 3 * e, g), spread(g + e, g)
    shifted = g + e + torch.arange(8.0, dtype=torch.float64).reshape(1, 8, 1)
    found = closeness(shifted, g, {"narrow": narrow, "wide": wide}, F32, has_experts=False)
    assert found.widest == "wide"
    assert found.ratio == pytest.approx(1 / 3, rel=1e-6)


def test_where_no_variant_rounds_otherwise_there_is_no_ratio():
    h = logits(2, 8, 32)
    none = {"threads": spread(h, h)}
    same = closeness(h, h, none, F32, has_experts=False)
    assert (same.identical, same.ratio, same.spread_rms, same.widest) == (True, 0.0, 0.0, "")
    assert closeness(h + 1e-9 * logits(2, 8, 32, seed=1), h, none, F32, has_experts=False).ratio == math.inf
    assert closeness(h, h, {}, F32, has_experts=False).spread_rms == 0


def test_a_mixture_whose_variants_agree_at_the_median_position_is_unjudged_not_broken():
    """A tenth of the tokens are rerouted, so the variant's distance is not 0 as a whole, but it is at most positions."""
    h = logits(2, 20, 16)
    rerouted = h.clone()
    rerouted[:, ::10] += logits(2, 2, 16, seed=2)
    found = closeness(h + 1e-4 * logits(2, 20, 16, seed=3), h, {"v": spread(rerouted, h)}, F32, has_experts=True)
    assert (found.spread_rms > 0, found.ratio) == (True, math.inf)
    assert judge(Evidence(F32, closeness=found)) is Verdict.UNJUDGED


def test_a_top_token_that_no_variant_could_change_is_unexplained_and_one_that_it_could_is_not():
    h = torch.zeros(1, 1, 4, dtype=torch.float64)
    h[0, 0, 0] = 1.0
    t = h.clone()
    t[0, 0, 1] = 1.5
    wide = {"v": spread(h + torch.tensor([0.3, -0.3, 0, 0]), h)}
    assert closeness(t, h, wide, F32, has_experts=False).top1_unexplained == 0  # a margin of 1, and 2 * 2 * 0.3
    narrow = {"v": spread(h + torch.tensor([0.2, -0.2, 0, 0]), h)}
    assert closeness(t, h, narrow, F32, has_experts=False).top1_unexplained == 1


# Variants -------------------------------------------------------------------------------------------------------------


def test_reversed_sums_are_the_same_products_to_rounding_and_other_bits():
    x, w, b = logits(5, 300).float(), logits(7, 300, seed=1).float(), logits(7, seed=2).float()
    heads = logits(2, 3, 20, 30).float()
    cases = {
        "linear": lambda: functional.linear(x, w, b),
        "addmm": lambda: torch.addmm(b, x, w.T),
        "matmul": lambda: heads @ heads.transpose(-1, -2),
        "method": lambda: x.matmul(w.T),
        "vector": lambda: torch.matmul(w, x[0]),
        "bmm": lambda: torch.bmm(heads[0], heads[0].transpose(1, 2)),
    }
    for name, product in cases.items():
        plain = product()
        with variants.ReversedSums():
            backwards = product()
        assert torch.allclose(plain, backwards, rtol=1e-4, atol=1e-3), name
        assert not torch.equal(plain, backwards), name


@pytest.mark.slow
def test_random_rounding_changes_what_rounds_by_half_a_unit_and_never_what_only_moves():
    x = logits(50, 300).float()
    same = {
        "clone": x.clone,
        "cast": lambda: x.to(torch.float64),
        "view": lambda: x.reshape(300, 50).T,
        "gather": lambda: x[torch.arange(50).flip(0)],
        "cat": lambda: torch.cat([x, x]),
        "in place": lambda: torch.empty_like(x).copy_(x),
    }
    for name, move in same.items():
        plain = move()
        with variants.RandomRounding():
            assert torch.equal(move(), plain), name
    for value in (x, x.half(), x.bfloat16()):
        with variants.RandomRounding():
            moved = value * 1
        step = torch.finfo(value.dtype).eps * value.double().abs()
        assert ((moved.double() - value.double()).abs() <= step).all()
        assert 0.05 < (moved != value).double().mean() < 0.95
    with variants.RandomRounding():
        first, second = x * 1, x * 1
    assert not torch.equal(first, second), "each operation is rounded by itself"
    with variants.RandomRounding():
        assert torch.equal(x * 1, first), "and alike in every run"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zoo-gpt2", "zoo-llama-gqa", "zoo-gemma2", "zoo-bloom", "zoo-mixtral"])
def test_in_float32_variants_are_as_far_from_huggingface_as_it_is_from_the_golden(name):
    point = checkpoint(name)
    model = huggingface.load_model(point.folder, F32)
    ids = huggingface.tokens(point, "natural")
    with torch.inference_mode():
        found = variants.variants(lambda some: model(some, use_cache=False).logits, ids)
        h = model(ids, use_cache=False).logits
    own = spread(h, golden.evaluate(point, Weights.FLOAT32, check=False).logits).typical
    assert 0.7 < found[variants.REVERSED].typical / own < 2.5
    assert 0.7 < found[variants.RANDOM].typical / own < 2.5
    assert {*found} == {variants.REVERSED, variants.RANDOM, variants.THREADS, variants.BATCH}


# HuggingFace itself ---------------------------------------------------------------------------------------------------


@pytest.fixture
def huggingface_off_by(monkeypatch):
    """Whether HuggingFace is found wrong when its logits are so far from the golden and its variants so far from it."""
    exact = logits(2, 16, 32)

    def fault(error, own, has_experts=False, bad=False):
        h = exact + error * logits(2, 16, 32, seed=1, scale=1.0)
        if bad:
            h[0, 0, 0] = math.nan
        point = SimpleNamespace(has_experts=has_experts, folder=None)
        monkeypatch.setattr(
            soundness, "golden", lambda *_: Golden(exact, Precision.FLOAT64, torch.zeros(16), torch.zeros(0))
        )
        monkeypatch.setattr(huggingface, "reference_logits", lambda *_: {"natural": h.float()})
        moved = spread(exact + own * logits(2, 16, 32, seed=2, scale=1.0), exact)
        monkeypatch.setattr(huggingface, "reference_variants", lambda *_: {"reversed sums": moved})
        monkeypatch.setattr(soundness, "misreading", lambda folder: "transformers 0 misreads this config.json: it takes x 1")
        return soundness.reference_fault(point)

    return fault


@pytest.mark.parametrize("has_experts", [False, True])
def test_huggingface_is_right_within_a_few_roundings_of_the_golden_and_wrong_beyond(huggingface_off_by, has_experts):
    own = 1e-4
    assert huggingface_off_by(0.7 * own, own, has_experts) == ""
    assert huggingface_off_by(0.95 * soundness.ROUNDINGS * own, own, has_experts) == ""
    found = huggingface_off_by(1.1 * soundness.ROUNDINGS * own, own, has_experts)
    assert found.startswith("HuggingFace itself is wrong for this model, not TransformerLens: in float32 transformers")
    assert found.endswith("misreads this config.json: it takes x 1")


def test_without_a_golden_or_finite_logits_nothing_is_said_of_huggingface(huggingface_off_by, monkeypatch):
    assert huggingface_off_by(1.0, 1e-6, bad=True) == ""

    def none(*_):
        raise NoGolden("too large")

    assert huggingface_off_by(1.0, 1e-6) != ""
    monkeypatch.setattr(soundness, "golden", none)
    assert soundness.reference_fault(SimpleNamespace(has_experts=False, folder=None)) == ""


# Routing --------------------------------------------------------------------------------------------------------------


class Router(nn.Module):
    """One router over embeddings: experts' scores are given by the token."""

    def __init__(self, scores):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(scores)

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, ids):
        x = self.embedding(ids)
        return x, x.view(-1, x.shape[-1]).topk(2, dim=-1)


def test_the_margin_is_the_gap_between_the_last_expert_chosen_and_the_first_left_out_over_what_rounding_moves():
    scores = torch.tensor([[4.0, 3.0, 1.0], [4.0, 3.0, 2.999], [1.0, 1.0, 1.0]], dtype=torch.float64)
    model = Router(scores)
    found = routing.margins(model, torch.tensor([[0, 1, 2]]), lambda: model(torch.tensor([[0, 1, 2]]))[0])
    assert found.shape == (1, 3)
    assert 0.3 < found[0, 0] < 5  # a gap of 2 where a relative change by 1 moves each score by itself
    assert found[0, 0] / found[0, 1] == pytest.approx(2000, rel=3)
    assert found[0, 2] == 0


def test_what_an_encoder_routes_counts_at_every_position_of_its_decoder():
    """It routes by argmax, as Switch Transformers do. The scores of token 0 are apart, those of token 1 almost equal."""
    scores = torch.tensor([[4.0, 3.0], [4.0, 3.999]], dtype=torch.float64)
    embedding = nn.Embedding.from_pretrained(scores)
    stack = SimpleNamespace(get_input_embeddings=lambda: embedding)
    config = SimpleNamespace(is_encoder_decoder=True)
    model = SimpleNamespace(config=config, get_encoder=lambda: stack, get_decoder=lambda: stack)
    ids, sources = torch.tensor([[0, 0, 1], [0, 1, 0]]), torch.tensor([[0, 1], [0, 0]])
    found = routing.margins(model, ids, lambda: [embedding(texts).argmax(-1) for texts in (sources, ids)])
    assert found.shape == (2, 3)
    assert (found[0] < 0.01).all()  # its encoder's second token is close
    assert (found[1] > 0.1).tolist() == [True, False, True]


def test_a_model_that_chooses_nothing_has_no_margin():
    embedding = nn.Embedding(3, 4, dtype=torch.float64)
    model = SimpleNamespace(get_input_embeddings=lambda: embedding)
    ids = torch.tensor([[0, 1]])
    assert routing.margins(model, ids, lambda: embedding(ids)).tolist() == [[math.inf, math.inf]]


def test_positions_are_settled_up_to_the_first_that_a_rounding_can_send_elsewhere():
    margin = torch.tensor([[1.0, 1e-3, 1.0], [1.0, 1.0, 1e-9]])
    assert routing.settled(margin, F32).tolist() == [[True] * 3, [True, True, False]]
    assert routing.settled(margin, Dtype.FLOAT16).tolist() == [[True, False, False], [True, True, False]]
    assert routing.settled(margin, Dtype.BFLOAT16)[:, 0].all()


@pytest.mark.slow
def test_the_zoo_s_mixture_is_settled_everywhere_in_float32_and_not_in_bfloat16():
    point = checkpoint("zoo-mixtral")
    margins = golden.evaluate(point, Weights.FLOAT32, check=False).margins
    assert margins.shape == huggingface.tokens(point, "natural").shape
    assert routing.settled(margins, F32).all()
    assert not routing.settled(margins, Dtype.BFLOAT16).all()
    assert golden.evaluate(checkpoint("zoo-llama"), Weights.FLOAT32, check=False).margins.numel() == 0


@pytest.mark.parametrize("has_experts", [False, True])
def test_a_default_attention_that_is_another_function_is_told(monkeypatch, has_experts):
    eager = logits(2, 16, 32)
    point = SimpleNamespace(has_experts=has_experts)
    own = spread(eager + 1e-6 * logits(2, 16, 32, seed=2, scale=1.0), eager)
    monkeypatch.setattr(soundness, "golden", lambda *_: None)
    monkeypatch.setattr(huggingface, "reference_variants", lambda *_: {"random rounding": own})

    def told(difference):
        default = eager + difference * logits(2, 16, 32, seed=1, scale=1.0)
        kinds = {Attention.EAGER: eager, Attention.DEFAULT: default}
        monkeypatch.setattr(huggingface, "reference_logits", lambda _, dtype, kind: {"natural": kinds[kind]})
        return soundness.other_function(point)

    assert told(0) == told(2e-6) == ""
    assert "another function" in told(0.1)
    assert told(math.nan) == ""
    monkeypatch.setattr(soundness, "golden", raise_no_golden)
    assert told(0.1) == "", "without a golden the model is too large for another run"


def raise_no_golden(*_):
    raise NoGolden("too large")
