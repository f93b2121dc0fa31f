"""Percentiles, overlap, the worst logit and fingerprints, against numbers that can be computed by hand."""

import hashlib

import pytest
import torch

from tlbench.metrics.distribution import Percentiles
from tlbench.metrics.percentiles import distribution, fingerprint, overlap, percentiles

IDS = torch.tensor([[0, 1, 2], [2, 1, 0]])


def logits(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_percentiles_are_order_statistics():
    values = torch.arange(1, 1001).double()[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    assert percentiles(values.reshape(10, 100)) == Percentiles(500.0, 900.0, 990.0, 999.0)


def test_the_percentiles_of_one_value_are_that_value():
    assert percentiles(torch.tensor([[7.0]])) == Percentiles(7.0, 7.0, 7.0, 7.0)


def test_errors_of_one_distribution_overlap_and_disjoint_ones_do_not():
    error = logits(2, 64, 256)
    assert overlap(error, error) == 1.0
    assert overlap(error, logits(2, 64, 256, seed=1)) > 0.95
    assert overlap(torch.full((2, 3, 4), 5.0), torch.full((2, 3, 4), -5.0)) == 0.0


def test_half_of_the_errors_in_common_is_an_overlap_of_a_half():
    e_h = torch.tensor([1.0, 1.0, -1.0, -1.0])
    assert overlap(torch.tensor([1.0, 1.0, 3.0, 3.0]), e_h) == 0.5


def test_two_models_without_an_error_overlap():
    assert overlap(torch.zeros(2, 3), torch.zeros(2, 3)) == 1.0


def test_the_worst_logit_is_named_with_its_error():
    g = logits(2, 3, 5)
    t = g.clone()
    t[1, 2, 4] += 1.0
    found = distribution(t, g, g, IDS)
    assert (found.worst.prompt, found.worst.position, found.worst.token) == (1, 2, 4)
    assert found.worst.error == pytest.approx(1 - 1 / 5)  # less the mean that it moves


def test_a_shift_of_all_logits_of_a_position_is_no_error():
    g = logits(2, 3, 5)
    found = distribution(g + torch.arange(3.0)[None, :, None], g, g, IDS)
    assert found.error.p99_9 < 1e-12
    assert found.realised.p99_9 < 1e-12
    assert found.diverged is None


def test_the_realised_token_s_probability_is_compared_and_the_first_other_token_is_named():
    g = torch.zeros(2, 3, 2, dtype=torch.float64)
    ids = torch.tensor([[0, 1, 1], [0, 1, 1]])
    t = g.clone()
    t[0, 1, 1] = torch.log(torch.tensor(3.0))  # 3/4 where the golden has 1/2
    found = distribution(t, g, g, ids)
    assert found.realised == Percentiles(0.0, *[pytest.approx(0.25)] * 3)
    assert found.diverged == 1


def test_a_fingerprint_is_of_the_bytes_in_order():
    z = torch.tensor([[[1.0, 2.0]]])
    assert fingerprint(z) == hashlib.sha256(bytes.fromhex("0000803f00000040")).hexdigest()
    assert fingerprint(z) != fingerprint(z.bfloat16())
    assert fingerprint(logits(2, 3, 4).transpose(0, 1)) == fingerprint(logits(2, 3, 4).transpose(0, 1).contiguous())
