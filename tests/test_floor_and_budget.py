"""Noise floor and error budget, on models made up so that each part of their error is known."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tlbench import Cell
from tlbench.exceptions import CellFailed, NonFiniteLogits
from tlbench.lens import Lens
from tlbench.questions.error_budget import measure_budget
from tlbench.questions.noise_floor import measure_floor
from tlbench.reference import golden, huggingface
from tlbench.reference.golden import Golden, Precision, Weights

CELL = Cell("zoo-gpt2", "float16", "fold_ln", "TransformerBridge")
IDS = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])
CHECKPOINT = SimpleNamespace(model=SimpleNamespace(threads=1, name="made up"))
ROWS = 64


class MadeUp(nn.Module):
    """Looks tokens up and unembeds them. Below float64 it adds ``noise`` to the residual stream, as arithmetic would."""

    def __init__(self, embedding, unembedding, noise):
        super().__init__()
        self.cfg = SimpleNamespace(dtype=torch.float16)
        self.embed = nn.Embedding.from_pretrained(embedding)
        self.unembed = nn.Linear(*reversed(unembedding.shape), bias=False)
        self.unembed.weight = nn.Parameter(unembedding)
        self.noise = noise

    def forward(self, ids):
        residual = self.embed(ids)
        if residual.dtype is not torch.float64:
            residual = residual + self.noise
        return self.unembed(residual)


def lens(logits, changed_weights, model):
    """A lens that can only run: nothing is generated here."""
    return Lens(logits, changed_weights, model, steps=None, greedy=None, process=None)


def dyadic(*shape, seed):
    """Numbers of few bits, so that no product or sum of them is rounded in float32."""
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)) / 4.0


@pytest.fixture
def world(monkeypatch):
    """Goldens and token ids of this test's own; put(weights, logits) sets one."""
    goldens = {}
    monkeypatch.setattr(huggingface, "tokens", lambda checkpoint, name: IDS)
    monkeypatch.setattr(golden, "golden", lambda checkpoint, weights, makeshift: goldens[weights])

    def put(weights, logits, rotary=0.0):
        goldens[weights] = Golden(
            logits.double(), Precision.FLOAT64, torch.full((4,), rotary, dtype=torch.float64), torch.zeros(0)
        )

    return put


def centred_rms(logits):
    z = logits.double() - logits.double().mean(-1, keepdim=True)
    return z.square().mean().sqrt().item()


def test_each_part_of_the_budget_is_what_was_put_there(world):
    embedding, unembedding = dyadic(4, 8, seed=1), dyadic(ROWS, 8, seed=2)
    noise, processed = dyadic(8, seed=3) / 16, dyadic(ROWS, 8, seed=4) / 8
    exact = embedding[IDS] @ unembedding.T
    rounding = dyadic(*exact.shape, seed=5) / 32
    world(Weights.FLOAT32, exact, rotary=0.25)
    world(Weights.ORIGINAL, exact - rounding)
    model = MadeUp(embedding, unembedding + processed, noise)
    found = measure_budget(replace(CELL, dtype="float32"), (CHECKPOINT, lens(model, 1, model)))
    assert found.weight_rounding == pytest.approx(centred_rms(rounding), rel=1e-12)
    assert found.weight_processing == pytest.approx(centred_rms(embedding[IDS] @ processed.T), rel=1e-12)
    arithmetic = noise.expand(2, 4, 8) @ (unembedding + processed).T
    assert found.forward_arithmetic == pytest.approx(centred_rms(arithmetic), rel=1e-12)
    assert found.final_rounding == found.unexplained == 0
    assert found.rotary_tables == 0.25
    whole = rounding + embedding[IDS] @ processed.T + arithmetic
    assert found.total == pytest.approx(centred_rms(whole), rel=1e-12)
    parts = (found.weight_rounding, found.weight_processing, found.forward_arithmetic)
    assert found.root_sum_of_squares == pytest.approx(math.hypot(*parts))


def test_the_last_rounding_is_seen_alone(world):
    """Exact weights and residuals, and logits that float16 cannot hold."""
    embedding, unembedding = torch.full((4, 8), 1.0), dyadic(ROWS, 8, seed=2) * 64 + 1 / 32
    exact = embedding[IDS].double() @ unembedding.half().double().T
    world(Weights.FLOAT16, exact)
    world(Weights.ORIGINAL, exact)
    model = MadeUp(embedding.half(), unembedding.half(), torch.zeros(8, dtype=torch.float16))
    found = measure_budget(CELL, (CHECKPOINT, lens(model, 0, model)))
    assert found.weight_rounding == found.weight_processing == found.forward_arithmetic == 0
    assert found.final_rounding == pytest.approx(centred_rms(exact.half().double() - exact), rel=1e-9)
    assert found.final_rounding > 0


def test_a_model_that_cannot_be_widened_has_no_budget(world):
    class Stubborn(MadeUp):
        def forward(self, ids):
            return torch.from_numpy(super().forward(ids).detach().numpy().astype("float32"))

    exact = dyadic(2, 4, ROWS, seed=1)
    world(Weights.FLOAT16, exact)
    world(Weights.ORIGINAL, exact)
    model = Stubborn(dyadic(4, 8, seed=1).half(), dyadic(ROWS, 8, seed=2).half(), torch.zeros(8, dtype=torch.float16))
    with pytest.raises(CellFailed, match="not float64 all the way"):
        measure_budget(CELL, (CHECKPOINT, lens(model, 0, model)))


@pytest.fixture
def references(world, monkeypatch):
    """HuggingFace's logits by attention: default differs from eager by 1/8 in one entry."""

    torch.set_num_threads(CHECKPOINT.model.threads)

    def reference_logits(checkpoint, dtype, attention):
        logits = torch.zeros(2, 4, ROWS)
        logits[0, 0, 0] = 0.125 if attention == "default" else 0.0
        return {"natural": logits}

    monkeypatch.setattr(huggingface, "reference_logits", reference_logits)


def test_each_floor_is_what_was_put_there(references):
    calls = []

    def logits(ids):
        """One entry moves by 2 with the thread count, by 4 with the batch, and by 8 when called again."""
        z = torch.zeros(len(ids), 4, ROWS)
        z[0, 0, 0] += 2.0 * (torch.get_num_threads() - 1) + 4.0 * (len(ids) == 1) + 8.0 * (len(calls) == 1)
        calls.append(len(ids))
        return z

    found = measure_floor(CELL, (CHECKPOINT, lens(logits, 0, None)))
    share = 1 - 1 / ROWS  # what centring leaves of a change in one entry
    assert found.repeat == pytest.approx(8 * share)
    assert found.threads == pytest.approx(2 * share)
    assert found.batch == pytest.approx(4 * share)
    assert found.attention == pytest.approx(0.125 * share)
    assert found.largest == found.repeat
    assert torch.get_num_threads() == CHECKPOINT.model.threads


def test_a_model_that_agrees_with_itself_has_no_floor(references):
    fixed = torch.randn(1, 4, ROWS, generator=torch.Generator().manual_seed(0))
    found = measure_floor(CELL, (CHECKPOINT, lens(lambda ids: fixed.expand(len(ids), -1, -1), 0, None)))
    assert found.largest == 0


def test_a_nonfinite_logit_has_no_floor(references):
    with pytest.raises(NonFiniteLogits, match="512 non-finite"):
        measure_floor(CELL, (CHECKPOINT, lens(lambda ids: torch.full((len(ids), 4, ROWS), math.nan), 0, None)))
