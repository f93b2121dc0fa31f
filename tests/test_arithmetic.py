"""The shared lane: a square root that is correctly rounded, and a probe that proves it or refuses."""

import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from math import isqrt
from pathlib import Path

import numpy as np
import pytest
import torch

from tlbench import arithmetic
from tlbench.arithmetic import Arithmetic, Found, Lane, WrongArithmetic, probing, roots
from tlbench.exceptions import BadInput

ROOT = Path(__file__).resolve().parents[1]
COUNT = 100_000
SIGNIFICANT_BITS = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}
HEALTHY = Found("x86_64", True, "AVX2", "2.13.0", dict(arithmetic.SETTINGS))


@pytest.fixture
def root():
    roots.install_square_root()


def values(dtype, count=COUNT):
    """Positive numbers over 40 binary orders, or 20 where the dtype has no more."""
    generator = np.random.Generator(np.random.Philox(5))
    spread = 20 if dtype is torch.float16 else 40
    return torch.from_numpy(np.exp2(spread * (generator.random(count) - 0.5))).to(dtype)


def exact_roots(x):
    """The correctly rounded roots of positive normal numbers by integer arithmetic."""
    bits = SIGNIFICANT_BITS[x.dtype]
    return torch.tensor([rounded_root(Fraction(each), bits) for each in x.double().tolist()], dtype=torch.float64).to(
        x.dtype
    )


def rounded_root(x, bits):
    """The root of a fraction whose denominator is a power of two, rounded to so many bits; a root is never half way."""
    exponent = 2 * (bits + 30)  # an even power of two that makes the root's integer part longer than asked for
    floor = isqrt(x.numerator * 2**exponent // x.denominator)
    drop = floor.bit_length() - bits
    return float(Fraction((floor + 2 ** (drop - 1)) >> drop) * Fraction(2) ** (drop - exponent // 2))


def in_process(code, settings, python=sys.executable):
    environment = {**settings, "PYTHONPATH": str(ROOT)}
    words = [python, "-c", code]
    return subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("dtype", SIGNIFICANT_BITS)
def test_the_square_root_is_the_exact_one_rounded_once(dtype):
    x = values(dtype)
    assert torch.equal(x.sqrt(), exact_roots(x))


@pytest.mark.slow
@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("dtype", SIGNIFICANT_BITS)
@pytest.mark.parametrize(
    "variant",
    [
        lambda x: x.clone().sqrt_(),
        lambda x: torch.sqrt(x, out=torch.empty(0, dtype=x.dtype)),
        lambda x: torch.sqrt(x, out=torch.empty(2, x.numel(), dtype=x.dtype).t()[:, 1]),
        lambda x: x.view(100, -1).t().sqrt().t().reshape(-1),
        lambda x: torch.stack((x, x), 1)[:, 0].sqrt(),
        lambda x: x.expand(3, -1).sqrt()[2],
        lambda x: x[:, None, None].sqrt().squeeze(),
        lambda x: torch.stack([each.sqrt() for each in x[:100]] + list(x[100:].sqrt())),
        lambda x: x**0.5,
        lambda x: x.clone().pow_(0.5),
        lambda x: torch.pow(x, 0.5, out=torch.empty(0, dtype=x.dtype)),
        lambda x: torch._foreach_sqrt([x])[0],
        lambda x: torch._foreach_pow([x], 0.5)[0],
        torch.vmap(torch.sqrt),
    ],
)
def test_every_variant_of_the_square_root_is_correctly_rounded(dtype, variant):
    x = values(dtype, 2_000)
    assert torch.equal(variant(x), exact_roots(x))
    with torch.inference_mode():
        assert torch.equal(variant(x.clone()), exact_roots(x))


@pytest.mark.usefixtures("root")
def test_the_square_root_inside_true_float64_keeps_its_dtype():
    from tlbench.reference.float64 import true_float64

    x = values(torch.float32, 100)
    with true_float64():
        assert torch.equal(x.sqrt(), exact_roots(x))
        assert torch.equal(torch.sqrt(x.double()), exact_roots(x.double()))


@pytest.mark.usefixtures("root")
def test_what_is_no_positive_number_is_treated_as_ieee_says():
    inf, nan = float("inf"), float("nan")
    roots = torch.tensor([0.0, -0.0, inf, -1.0, nan, 2.0**-149]).sqrt()
    assert torch.equal(roots.isnan(), torch.tensor([False, False, False, True, True, False]))
    assert roots[:3].tolist() == [0.0, 0.0, inf]
    assert roots[1].signbit()
    assert roots[5].item() == np.float32(2.0**-74.5)
    assert torch.empty(0, 3).sqrt().shape == (0, 3)


@pytest.mark.usefixtures("root")
def test_other_kinds_of_numbers_are_treated_as_torch_does():
    assert torch.equal(torch.tensor([4, 9, 2]).sqrt(), torch.tensor([2, 3, 2**0.5], dtype=torch.float32))
    assert torch.equal(torch.tensor([4, 2]) ** 0.5, torch.tensor([2, 2**0.5], dtype=torch.float32))
    assert torch.equal(torch.tensor([-4 + 0j]).sqrt(), torch.tensor([2j]))
    assert torch.equal(torch.tensor([3.0, 4.0]) ** 2, torch.tensor([9.0, 16.0]))
    with pytest.raises(RuntimeError, match="can't be cast"):
        torch.tensor([4]).sqrt_()


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("take", [torch.sqrt, lambda x: x**0.5, lambda x: x.clone().sqrt_()])
def test_gradients_go_through_the_square_root(take):
    x = values(torch.float64, 50).requires_grad_()
    (gradient,) = torch.autograd.grad(take(x).sum(), x)
    np.testing.assert_allclose(gradient.numpy(), 0.5 / np.sqrt(x.detach().numpy()), rtol=1e-14, atol=0)
    with torch.set_grad_enabled(False):
        assert not take(x).requires_grad


def test_installing_twice_is_installing_once(root):
    assert roots.install_square_root() is roots.install_square_root()


AVX512 = torch.cpu._is_avx512_supported()


@pytest.mark.slow
@pytest.mark.skipif(not AVX512, reason="only AVX-512 makes another choice without the settings")
def test_without_the_kernel_torch_has_another_square_root_here():
    code = (
        "import numpy as np, torch; x = np.random.Generator(np.random.Philox(5)).random(8192);"
        "print((torch.from_numpy(x).sqrt().numpy() != np.sqrt(x)).sum())"
    )
    done = in_process(code, arithmetic.environment(Lane.SHARED, os.environ))
    assert int(done.stdout) > 0, done.stderr


ESTABLISH = "from tlbench.arithmetic import establish; found = establish(); print(found.name, found.probe)"


@pytest.mark.slow
def test_a_process_under_the_settings_is_in_the_shared_lane():
    done = in_process(ESTABLISH, arithmetic.environment(Lane.SHARED, os.environ))
    assert done.stdout.split() == ["shared", arithmetic.SHARED_PROBES[HEALTHY.torch]], done.stderr


@pytest.mark.skipif(not AVX512, reason="only AVX-512 makes another choice without the settings")
@pytest.mark.slow
def test_a_native_process_has_another_probe_and_a_name_of_its_own():
    done = in_process(ESTABLISH, arithmetic.environment(Lane.NATIVE, os.environ))
    name, probe = done.stdout.split()
    assert probe != arithmetic.SHARED_PROBES[HEALTHY.torch]
    assert name == f"native-{probe[:12]}"


@pytest.mark.slow
def test_a_fork_of_an_established_process_computes_with_two_threads():
    code = (
        "import os, torch; from tlbench.arithmetic import establish; establish()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    torch.set_num_threads(2); x = torch.ones(600, 600); z = ((x @ x) / 150).sqrt()\n"
        "    os._exit(0 if z.eq(2).all() and torch.get_num_threads() == 2 else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    words = [sys.executable, "-c", code]
    environment = arithmetic.environment(Lane.SHARED, os.environ) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.strip() == "0", done.stderr


@pytest.mark.slow
def test_the_probe_leaves_torch_as_it_was():
    torch.manual_seed(3)
    before = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state()
    with torch.set_grad_enabled(False):
        one = probing.probe.__wrapped__()
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert one == probing.probe.__wrapped__()


@pytest.mark.slow
def test_the_probe_sees_the_last_bit_of_one_operator(monkeypatch):
    one, tanh = probing.probe.__wrapped__(), torch.Tensor.tanh
    monkeypatch.setattr(torch.Tensor, "tanh", lambda x: torch.nextafter(tanh(x), torch.zeros_like(x)))
    assert probing.probe.__wrapped__() != one


def test_the_lanes_add_the_settings_and_take_them_out():
    base = {"HOME": "/h", "MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    assert arithmetic.environment(Lane.SHARED, base) == {
        "HOME": "/h",
        "TLBENCH_ARITHMETIC": "shared",
        "MKL_CBWR": "COMPATIBLE",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    }
    assert arithmetic.environment(Lane.NATIVE, base) == {"HOME": "/h", "TLBENCH_ARITHMETIC": "native"}
    assert base["MKL_CBWR"] == "AVX2"


def test_the_lane_is_shared_unless_another_is_named(monkeypatch):
    monkeypatch.delenv("TLBENCH_ARITHMETIC", raising=False)
    assert arithmetic.wanted() is Lane.SHARED
    monkeypatch.setenv("TLBENCH_ARITHMETIC", "native")
    assert arithmetic.wanted() is Lane.NATIVE
    monkeypatch.setenv("TLBENCH_ARITHMETIC", "exact")
    with pytest.raises(BadInput, match="'exact': choose shared or native"):
        arithmetic.wanted()


def test_a_healthy_process_is_not_refused():
    arithmetic.require_shared(HEALTHY)
    arithmetic.require_same_bits(HEALTHY, arithmetic.SHARED_PROBES[HEALTHY.torch])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"machine": "aarch64"}, "needs an x86-64 processor and this one is aarch64"),
        ({"has_avx2": False}, "needs a processor with AVX2 and FMA"),
        ({"environment": {}}, "started without MKL_CBWR=COMPATIBLE ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2"),
        ({"capability": "AVX512"}, "torch uses AVX512, because it was imported before the variables were set"),
        ({"torch": "9.9.9"}, "torch 9.9.9 has no pinned probe; those with one are 2.13.0"),
    ],
)
def test_what_cannot_be_in_the_shared_lane_is_refused_in_a_sentence(change, sentence):
    with pytest.raises(WrongArithmetic, match=sentence) as refusal:
        arithmetic.require_shared(replace(HEALTHY, **change))
    assert "TLBENCH_ARITHMETIC=native, whose figures are comparable only on this machine" in str(refusal.value)


def test_other_bits_are_refused_with_what_was_found(monkeypatch):
    monkeypatch.setattr(arithmetic, "processor_name", lambda: "Some Processor")
    with pytest.raises(
        WrongArithmetic, match=r"torch 2\.13\.0 computes different bits on Some Processor with AVX2.*0123456789ab, "
    ):
        arithmetic.require_same_bits(HEALTHY, "0123456789abcdef" * 4)


def test_a_native_arithmetic_is_named_by_its_probe():
    assert Arithmetic(Lane.SHARED, "ab" * 32).name == "shared"
    assert Arithmetic(Lane.NATIVE, "ab" * 32).name == "native-abababababab"
