"""Figures made in chunks of positions are those of the whole tensor, and none of them makes a tensor of the logits' size."""

import itertools
import math
from dataclasses import asdict
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as some
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tlbench.exceptions import NonFiniteLogits
from tlbench.grid import Dtype
from tlbench.metrics import hf_error as errors
from tlbench.metrics import streaming
from tlbench.metrics.figures import RATIO_GATE, UNIT_ROUNDOFF
from tlbench.metrics.golden_error import SERIES_BELOW, against_truth, kl_divergence, rms, top1_changes
from tlbench.metrics.streaming import Chunked, combined_mean, in_blocks, median, moments, position_blocks, position_chunks

SPACES = (errors.origin_error, errors.probability_error, errors.logit_error)
DENORMAL = 5e-324


BLOCKS = (1, 3000, streaming.BLOCK_ENTRIES)
"""A block of one position, of a few, and as it is."""
SMALL_RADIX = 7
"""Nine passes over 63 bits, which for so few entries is faster than counting into two million places."""


def chunks_of(entries, radix_bits=SMALL_RADIX):
    """Within the block, at most so many entries are in a chunk."""
    return patch.multiple(streaming, CHUNK_ENTRIES=entries, RADIX_BITS=radix_bits)


def blocks_of(entries):
    """Within the block, at most so many entries are in one of the walk's blocks."""
    return patch.multiple(streaming, BLOCK_ENTRIES=entries)


def logits(*shape, seed=0, dtype=torch.float64):
    return (3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def chunked(tensor):
    return Chunked(lambda x: x, (tensor,))


def near(value, tolerance):
    """Relatively: these figures may be as small as one likes, and ``approx`` alone lets any two below 1e-12 pass."""
    return pytest.approx(value, rel=tolerance, abs=0, nan_ok=True)


shapes = some.tuples(some.integers(1, 3), some.integers(1, 12), some.integers(1, 5))
sizes = some.sampled_from([0.0, DENORMAL, 2.5e-320, 1.0, math.nextafter(1.0, 2.0), 1e300]) | some.floats(0, 1e308)


@some.composite
def non_negative(draw):
    """A tensor ``[batch, pos, d_vocab]`` with ties, zeros and denormal numbers."""
    shape = draw(shapes)
    few = draw(some.lists(sizes, min_size=1, max_size=4))
    n = math.prod(shape)
    values = draw(some.lists(some.sampled_from(few) | sizes, min_size=n, max_size=n))
    return torch.tensor(values, dtype=torch.float64).reshape(shape)


# The walk ------------------------------------------------------------------------------------------------------------


@given(shapes, some.integers(1, 70))
def test_chunks_are_all_positions_in_order_and_none_is_too_large_unless_one_position_is(shape, entries):
    with chunks_of(entries):
        slices = position_chunks(shape)
    covered = [position for rows in slices for position in range(*rows.indices(shape[1]))]
    assert covered == list(range(shape[1]))
    each = shape[0] * shape[2]
    lengths = [len(range(*rows.indices(shape[1]))) for rows in slices]
    assert all(each * length <= entries or length == 1 for length in lengths)
    # As few as there can be: another position would not have fitted.
    assert all(each * (length + 1) > entries for length in lengths[:-1])


@given(shapes, some.integers(1, 70))
def test_blocks_are_walked_as_chunks_are(shape, entries):
    with chunks_of(entries):
        chunks = position_chunks(shape)
    with blocks_of(entries):
        assert position_blocks(shape) == chunks


def test_what_is_made_in_blocks_is_never_larger_than_one_before_it_is_put_together():
    x = logits(2, 40, 50)
    sizes = []

    def made(x):
        sizes.append(x.numel())
        return x.square().sum(-1)

    with blocks_of(700):
        assert torch.equal(in_blocks(made, x), x.square().sum(-1))
    assert max(sizes) <= 700
    assert sum(sizes) == x.numel()


def test_the_committed_prompts_of_smollm2_are_one_chunk():
    assert len(position_chunks((2, 64, 49152))) == 1


# Each figure ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(non_negative(), some.integers(1, 20))
@example(torch.zeros(1, 4, 1, dtype=torch.float64), 1)
@example(torch.tensor([[[0.0], [DENORMAL], [2 * DENORMAL], [1.0]]], dtype=torch.float64), 1)
def test_the_median_is_torch_s_to_the_bit(values, entries):
    with chunks_of(entries):
        assert median(chunked(values), values.numel()) == values.median().item()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_median_of_fewer_bits_is_torch_s_too(dtype):
    values = logits(2, 30, 7, dtype=dtype).abs()
    with chunks_of(20, streaming.RADIX_BITS):
        assert median(chunked(values), values.numel()) == values.median().item()


@settings(deadline=None)
@given(shapes, some.integers(1, 20), some.integers(0, 1000), some.sampled_from([0.0, 1e6]))
def test_moments_are_those_that_numpy_finds_in_the_whole(shape, entries, seed, offset):
    values = offset + logits(*shape, seed=seed).abs()
    with chunks_of(entries):
        found = moments(chunked(values))
    whole = values.numpy().ravel()
    assert found.count == whole.size
    assert found.largest == whole.max()
    assert found.mean == near(whole.mean(), 1e-14)
    expected = whole.std(ddof=1) if whole.size > 1 else math.nan
    # Far from zero, the squares of the numbers themselves would lose all but four digits.
    assert found.std == near(expected, 1e-9 if offset else 1e-13)


def test_the_deviation_of_many_small_errors_among_few_large_ones_is_numpy_s_in_more_bits():
    values = torch.exp(6 * logits(1, 2**10, 2**10) / 3 - 25)
    whole = values.numpy().astype(np.longdouble)
    with chunks_of(2**18):
        assert moments(chunked(values)).std == near(float(whole.std(ddof=1)), 1e-14)


def test_of_equal_entries_the_deviation_is_no_more_than_their_rounding():
    with chunks_of(3):
        assert moments(chunked(torch.full((1, 50, 3), 0.1, dtype=torch.float64))).std <= 0.1 * 2.0**-52


@given(some.lists(some.tuples(some.floats(0, 1e3), some.integers(1, 100)), min_size=1, max_size=8))
def test_a_combined_mean_weighs_each_part_by_its_entries_and_of_one_part_is_that_part_s(parts):
    means, counts = zip(*parts, strict=True)
    exact = math.fsum(m * n for m, n in parts) / sum(counts)
    assert combined_mean(means, counts) == pytest.approx(exact, rel=1e-13, abs=1e-300)
    assert combined_mean(means[:1], counts[:1]) == means[0]


# The errors ----------------------------------------------------------------------------------------------------------


def whole_error(space, t, h):
    """The error as one tensor, and in which dtype: as the formulas were written before there were chunks."""
    if space is errors.origin_error:
        return (torch.softmax(h, -1) - torch.softmax(t, -1)).abs()
    t, h = t.double(), h.double()
    if space is errors.probability_error:
        return (torch.softmax(t, -1) - torch.softmax(h, -1)).abs()
    return ((t - t.mean(-1, keepdim=True)) - (h - h.mean(-1, keepdim=True))).abs()


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 64, 1000), (1, 7, 129), (4, 4, 32)])
@pytest.mark.parametrize("block", BLOCKS)
def test_in_one_chunk_every_statistic_is_torch_s_of_the_whole_tensor_to_the_bit(space, dtype, shape, block):
    t, h = logits(*shape, dtype=dtype), logits(*shape, seed=1, dtype=dtype)
    error = whole_error(space, t, h)
    with blocks_of(block):
        found = space(t, h)
    assert asdict(found) == {name: getattr(error, name)().item() for name in ("max", "mean", "median", "std")}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("entries", [1, 100, 3000])
def test_in_many_chunks_maximum_and_median_are_the_same_and_mean_and_std_are_numpy_s(space, dtype, entries):
    t, h = logits(2, 33, 50, dtype=dtype), logits(2, 33, 50, seed=1, dtype=dtype)
    error = whole_error(space, t, h)
    with chunks_of(entries):
        found = space(t, h)
    assert (found.max, found.median) == (error.max().item(), error.median().item())
    exact = error.double().numpy()
    # One rounding to the error's own dtype, and float64's.
    tolerance = max(torch.finfo(error.dtype).eps / 2, 1e-13)
    assert found.mean == near(exact.mean(), tolerance)
    assert found.std == near(exact.std(ddof=1), tolerance)
    for value in (found.mean, found.std):
        assert torch.tensor(value, dtype=torch.float64).to(error.dtype).item() == value


@pytest.mark.parametrize("entries", [1, 100, 3000, 2**23])
def test_the_shift_is_the_same_in_any_blocks(entries):
    t, h = logits(2, 33, 50, dtype=torch.float32), logits(2, 33, 50, seed=1, dtype=torch.float32)
    difference = t.double() - h.double()
    with blocks_of(entries):
        found = errors.removed_shift(t, h)
    assert found.raw_max == difference.abs().max().item()
    assert found.max_abs == difference.mean(-1).abs().max().item()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_non_finite_logit_is_found_wherever_it_is_in_every_dtype_and_in_a_part_of_a_vocabulary(bad, dtype):
    padded = logits(2, 9, 64).to(dtype)
    z = padded[..., :50]
    assert errors.count_nonfinite(z) == 0
    for at in ((0, 0, 0), (1, 8, 49), (1, 4, 31)):
        wrong = padded.clone()
        wrong[at] = bad
        wrong[..., 50:] = math.nan  # not part of what is asked for
        with blocks_of(100):
            assert errors.count_nonfinite(wrong[..., :50]) == 1


def test_of_no_logits_none_is_not_finite():
    assert errors.count_nonfinite(torch.empty(2, 0, 5)) == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_logits_are_counted_and_refused_in_whatever_chunk_they_are(bad):
    t, h = logits(2, 9, 5), logits(2, 9, 5)
    h[0, 0, 0] = h[1, 8, 4] = bad
    with blocks_of(10):
        assert errors.count_nonfinite(h) == 2
        for measure in (*SPACES, errors.removed_shift):
            with pytest.raises(NonFiniteLogits, match="HuggingFace returned 2 non-finite logits of 90"):
                measure(t, h)


@pytest.mark.parametrize("entries", [1, 100, 2**23])
def test_a_root_mean_square_is_that_of_the_whole(entries):
    error = logits(2, 33, 50)
    with chunks_of(entries):
        assert rms(chunked(error)) == near(math.sqrt(np.mean(error.numpy() ** 2)), 1e-14)


def test_in_one_chunk_a_root_mean_square_is_torch_s_to_the_bit():
    errors_of_many = [logits(1, 4, 8, seed=seed) for seed in range(1000)]
    found = [rms(chunked(error)) for error in errors_of_many]
    assert found == [error.square().mean().sqrt().item() for error in errors_of_many]


# The truth -----------------------------------------------------------------------------------------------------------


def whole_truth(t, h, g, original, dtype):
    """The figures as they were written before there were chunks: each of whole tensors, by torch."""
    z_t, z_h, z_g, z_original = (z.double() - z.double().mean(-1, keepdim=True) for z in (t, h, g, original))
    e_t, e_h = z_t - z_g, z_h - z_g
    kl, flips = kl_divergence(g, t), top1_changes(t, g, dtype)
    largest_explained = 2 * RATIO_GATE[dtype] * e_h.abs().max().item()

    def whole_rms(error):
        return math.sqrt(error.square().mean())

    def typical(error):
        return math.sqrt(error.square().mean(-1).median())

    def at(q, values):
        return values.flatten().sort().values[math.ceil(q * values.numel()) - 1].item()

    def tail(error):
        return math.sqrt(at(11 / 12, error.square().mean(-1)))

    chosen = (e_t + z_g - z_original).gather(-1, g.topk(min(10, g.shape[-1]), dim=-1).indices)
    pairs = list(itertools.combinations(range(chosen.shape[-1]), 2))
    differences = torch.stack([(chosen[..., a] - chosen[..., b]).abs() for a, b in pairs], -1)

    resolution = 2.0**-52 * whole_rms(z_g)
    return {
        "identical": torch.equal(t, h),
        "error_rms": whole_rms(e_t),
        "reference_rms": whole_rms(e_h),
        "golden_rms": whole_rms(z_g),
        "error_ratio": whole_rms(e_t) / max(whole_rms(e_h), resolution),
        "error_correlation": float((e_t * e_h).sum()) / (float(e_t.norm()) * float(e_h.norm())),
        "bits_lost": math.log2(1 + whole_rms(e_t) / (UNIT_ROUNDOFF[dtype] * whole_rms(z_g))),
        "kl_nats": kl.mean().item(),
        "kl_max_nats": kl.max().item(),
        "top1_flips": int((flips > 0).sum()),
        "top1_ties": int((flips == 0).sum()),
        "top1_unexplained": int((flips > largest_explained).sum()),
        "shift_spread": math.sqrt(e_t.square().mean(-1).max()),
        "total_rms": whole_rms(e_t + z_g - z_original),
        "weights_rms": whole_rms(z_g - z_original),
        "golden_precision": "float64",
        "typical_rms": typical(e_t),
        "typical_ratio": typical(e_t) / max(typical(e_h), resolution),
        "has_experts": False,
        "tail_ratio": tail(e_t) / max(tail(e_h), resolution),
        "settled_ratio": None,
        "settled_share": 1.0,
        "difference_rms": whole_rms(differences),
        "difference_p99": at(0.99, differences),
    }


def cell(shape, dtype, size=0.1):
    """t, h, g and the original: near one another, with some top tokens changed, among them a tie and one unexplained."""
    torch_dtype = getattr(torch, dtype)
    g = logits(*shape)
    g[0, -1, :2], g[0, 1, :2], g[0, 2, :2] = torch.tensor([[64.0, 64.0 - 1e-6], [90.0, 20.0], [64.0, 63.5]]).double()
    original = g + 0.01 * logits(*shape, seed=3)
    t, h = (g + size * logits(*shape, seed=seed) for seed in (1, 2))
    t[0, -1, :2], t[0, 1, :2], t[0, 2, :2] = torch.tensor([[64.0, 65.0], [20.0, 90.0], [63.5, 64.0]]).double()
    return t.to(torch_dtype), h.to(torch_dtype), g, original


@pytest.mark.parametrize("dtype", Dtype)
@pytest.mark.parametrize("shape", [(2, 64, 500), (1, 7, 129)])
@pytest.mark.parametrize("block", BLOCKS)
def test_in_one_chunk_every_figure_against_the_truth_is_that_of_the_whole_to_the_bit(dtype, shape, block):
    values = cell(shape, dtype)
    with blocks_of(block):
        found = asdict(against_truth(*values, dtype))
    assert found == whole_truth(*values, dtype)


@pytest.mark.parametrize("size", [1e-4, 0.1, 1e3])
def test_the_divergence_is_that_of_its_formula_over_the_whole_to_the_bit_whichever_is_taken(size):
    """Small differences by the series, mixed ones by both, huge ones by the plain formula."""
    g = logits(2, 17, 40)
    t = g + size * logits(2, 17, 40, seed=1)
    log_p = torch.log_softmax(g, -1)
    d = t - g
    d = d - (log_p.exp() * d).sum(-1, keepdim=True)
    series = d * d / 2 * (1 + d / 3 * (1 + d / 4 * (1 + d / 5 * (1 + d / 6))))
    by_series = torch.where(d.abs() < SERIES_BELOW, series, torch.expm1(d) - d)
    expected = torch.logsumexp(log_p + d, -1) if size == 1e3 else torch.log1p((log_p.exp() * by_series).sum(-1))
    kinds = {1e-4: (True, True), 0.1: (True, False), 1e3: (False, False)}[size]
    assert ((d.abs() < SERIES_BELOW).any().item() and size < 1e3, (d.abs() < SERIES_BELOW).all().item()) == kinds
    for block in BLOCKS:
        with blocks_of(block):
            found = kl_divergence(g, t)
        assert torch.equal(found, expected), block


def test_in_one_chunk_the_rms_values_of_the_truth_are_torch_s_to_the_bit():
    for seed in range(300):
        g, e = logits(1, 4, 8, seed=seed), logits(1, 4, 8, seed=1000 + seed)
        found = against_truth(g + e, g - e, g, g, Dtype.FLOAT32)
        assert asdict(found) == whole_truth(g + e, g - e, g, g, Dtype.FLOAT32)


@pytest.mark.parametrize("dtype", Dtype)
@pytest.mark.parametrize("entries", [1, 300, 2000])
def test_in_many_chunks_every_figure_against_the_truth_is_that_of_the_whole(dtype, entries):
    values = cell((2, 33, 50), dtype)
    whole = whole_truth(*values, dtype)
    assert min(whole[name] for name in ("top1_flips", "top1_ties", "top1_unexplained")) > 0
    with chunks_of(entries):
        found = asdict(against_truth(*values, dtype))
    for name, value in whole.items():
        assert found[name] == (near(value, 1e-12) if isinstance(value, float) else value), name


def test_logits_that_differ_in_one_chunk_only_are_not_identical():
    t, _, g, original = cell((1, 9, 50), Dtype.FLOAT32)
    h = t.clone()
    with chunks_of(100):
        assert against_truth(t, h, g, original, Dtype.FLOAT32).identical
        h[0, 4, 7] += 1
        assert not against_truth(t, h, g, original, Dtype.FLOAT32).identical


def test_without_any_error_the_correlation_is_one_in_any_chunks_and_with_one_side_s_alone_zero():
    g = logits(1, 9, 50)
    moved = g.clone()
    moved[0, 4, 7] += 1
    with chunks_of(100):
        assert against_truth(g, g, g, g, Dtype.FLOAT32).error_correlation == 1
        assert against_truth(g, moved, g, g, Dtype.FLOAT32).error_correlation == 0


def test_a_golden_that_is_also_the_original_gives_the_figures_of_a_copy():
    t, h, g, _ = cell((1, 9, 50), Dtype.FLOAT32)
    with chunks_of(100):
        assert against_truth(t, h, g, g, Dtype.FLOAT32) == against_truth(t, h, g, g.clone(), Dtype.FLOAT32)


# Memory --------------------------------------------------------------------------------------------------------------


class LargestMade(TorchDispatchMode):
    """The bytes of the largest tensor that is made within the block, views of what was there left out."""

    def __init__(self, *given):
        super().__init__()
        self.given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves(result):
            if isinstance(value, Tensor) and value.untyped_storage().data_ptr() not in self.given:
                self.nbytes = max(self.nbytes, value.untyped_storage().nbytes())
        return result


def largest_made(positions, arithmetic):
    t, h, g, original = cell((1, positions, 64), Dtype.FLOAT32)
    with chunks_of(1024), blocks_of(256), LargestMade(t, h, g, original) as made:
        arithmetic(t, h, g, original)
    return made.nbytes


@pytest.mark.parametrize(
    "arithmetic",
    [
        *(lambda t, h, g, original, space=space: space(t, h) for space in (*SPACES, errors.removed_shift)),
        lambda t, h, g, original: errors.count_nonfinite(t),
        lambda t, h, g, original: rms(errors.centred_difference(t, g)),
        lambda t, h, g, original: against_truth(t, h, g, original, Dtype.FLOAT32),
    ],
    ids=["origin", "probability", "logit", "shift", "nonfinite", "rms", "truth"],
)
def test_no_tensor_is_larger_than_a_chunk_however_long_the_context(arithmetic, request):
    # Of the truth, the differences between the ten likeliest tokens are kept: 45 numbers a position.
    kept = 8 * 45 if "truth" in request.node.name else 0
    assert largest_made(32, arithmetic) <= max(8 * 1024, 32 * kept)
    assert largest_made(512, arithmetic) <= max(8 * 1024, 512 * kept)  # 8 bytes a position of [batch, pos] would be 4096
