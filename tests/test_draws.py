"""Checkpoint bytes depend on no library's version: the stream against an independent implementation."""

import hashlib

import numpy as np
import pytest

from tlbench.arithmetic.draws import Draw, Shape, draw, normal, outlier_dimensions, uniform

MASK = 2**64 - 1


def philox_4x64_10(key, blocks):
    """Philox-4x64 with ten rounds, from the paper's description, on Python integers."""
    words = []
    for block in range(1, blocks + 1):
        counter = [block, 0, 0, 0]
        k0, k1 = key & MASK, key >> 64
        for _ in range(10):
            p0, p1 = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
            counter = [(p1 >> 64) ^ counter[1] ^ k0, p1 & MASK, (p0 >> 64) ^ counter[3] ^ k1, p0 & MASK]
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
        words += counter
    return words


def words_of(name, count):
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    return philox_4x64_10(key, -(-count // 4))[:count]


def test_uniform_draws_are_philox_s_words_by_an_independent_implementation():
    assert uniform("a name", 6).tolist() == [(word >> 11) * 2.0**-53 for word in words_of("a name", 6)]


def test_normal_draws_are_sums_of_twelve_sixteen_bit_parts_of_those_words():
    words = words_of("another", 12)
    expected = []
    for start in range(0, 12, 3):
        parts = [(word >> shift) & 0xFFFF for word in words[start : start + 3] for shift in (0, 16, 32, 48)]
        expected.append((sum(parts) - 12 * 65535 / 2) / 65536)
    assert normal("another", 4).tolist() == expected


def test_normal_draws_have_mean_zero_and_variance_one():
    values = normal("moments", 100_000)
    assert abs(values.mean()) < 0.02
    assert values.var() == pytest.approx(1, rel=0.02)
    assert np.abs(values).max() < 6


def test_gains_are_far_from_one_and_small_where_the_residual_stream_is_large():
    spec = Draw("g", (64,), Shape.GAIN, outlier_axis=0, outlier_factor=1 / 8)
    gains = draw(spec, "seed")
    assert np.std(gains) > 0.2
    assert all(gains[i] < 0.25 for i in outlier_dimensions(64))
    less_one = draw(Draw("g", (64,), Shape.GAIN_LESS_ONE, outlier_axis=0, outlier_factor=1 / 8), "seed")
    assert np.allclose(less_one + 1, gains)


def test_a_common_vector_gives_every_row_the_same_addition():
    alone, together = (draw(Draw("u", (5, 8), common=c), "s").astype(float) for c in (0.0, 2.0))
    added = together - alone
    assert np.allclose(added, added[0], atol=1e-6)
    assert np.std(added[0]) > 0.5


def test_names_and_seeds_draw_differently():
    drawn = {draw(Draw(name, (4,)), seed).tobytes() for name in ("a", "b") for seed in ("1", "2")}
    assert len(drawn) == 4
