"""Canaries of torch."""

import os
import platform
import subprocess
import sys
import warnings

import pytest

from tests.canaries import canary

UNUSED = "digamma"
"""An operator that this repository never calls, so a test may replace its kernel."""


# Arithmetic, tlbench/arithmetic --------------------------------------------------------------------------------------


@canary("torch changed torch.library: a kernel cannot be replaced and still call torch's own", "tlbench/arithmetic/roots.py")
def test_torch_calls_a_registered_kernel_which_can_call_the_one_it_replaces():
    import torch
    from torch.library import Library

    own = torch.library.get_kernel(f"aten::{UNUSED}", "CPU")
    seen = []

    def kernel(keys, x):
        seen.append(x)
        return own.call_boxed(keys, x) + 1

    x = torch.tensor([1.0, 2.0], requires_grad=True)
    before = torch.digamma(x)
    library = Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")
        warnings.simplefilter("error", append=True)
        library.impl(UNUSED, kernel, "CPU", with_keyset=True)
    replaced = torch.digamma(x)
    del library  # the registration ends with it
    assert len(seen) == 1
    assert torch.equal(replaced, before + 1)
    assert torch.equal(torch.autograd.grad(replaced.sum(), x)[0], torch.autograd.grad(before.sum(), x)[0])
    assert torch.equal(torch.digamma(x), before)


@canary("torch changed which kernels compute square roots and powers of a half", "tlbench/arithmetic/roots.py")
@pytest.mark.parametrize("name", ["sqrt", "sqrt_", "torch.sqrt", "out", "**", "torch.pow", "pow_", "pow out"])
def test_every_square_root_is_the_replaced_one(name, monkeypatch):
    import torch

    from tlbench.arithmetic import roots

    roots.install_square_root()
    rounded, calls = roots.correctly_rounded_root, []
    monkeypatch.setattr(roots, "correctly_rounded_root", lambda x: calls.append(x) or rounded(x))
    x = torch.tensor([4.0, 9.0])
    take = {
        "sqrt": x.sqrt,
        "sqrt_": x.clone().sqrt_,
        "torch.sqrt": lambda: torch.sqrt(x),
        "out": lambda: torch.sqrt(x, out=torch.empty(2)),
        "**": lambda: x**0.5,
        "torch.pow": lambda: torch.pow(x, 0.5),
        "pow_": lambda: x.clone().pow_(0.5),
        "pow out": lambda: torch.pow(x, 0.5, out=torch.empty(2)),
    }[name]
    assert take().tolist() == [2.0, 3.0]
    assert len(calls) == 1


@pytest.mark.slow
@canary("torch no longer reads ATEN_CPU_CAPABILITY, or renamed its values", "tlbench/arithmetic/__init__.py")
def test_a_variable_chooses_the_instruction_set_of_torch_s_kernels():
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("DEFAULT", "NO AVX")


@canary("torch changed the names in torch.cpu.get_capabilities", "tlbench/arithmetic/__init__.py")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86-64 has AVX2")
def test_torch_knows_whether_the_processor_has_avx2():
    import torch

    capabilities = torch.cpu.get_capabilities()
    assert isinstance(capabilities["avx2"], bool)
    assert isinstance(capabilities["fma3"], bool)


@canary("torch changed how it names its BLAS in torch.__config__.show", "tlbench/environments/metadata.py")
def test_torch_names_its_blas():
    import re

    import torch

    assert re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())


# Modes, tlbench/reference --------------------------------------------------------------------------------------------


@canary("torch changed what a TorchFunctionMode sees of a request for a dtype", "tlbench/reference/float64.py")
@pytest.mark.parametrize(
    "request_",
    [
        "x.float()",
        "x.half()",
        "x.bfloat16()",
        "x.to(torch.float32)",
        "x.to(dtype=torch.bfloat16)",
        "x.type(torch.float32)",
        "x.type('torch.FloatTensor')",
        "x.type(torch.HalfTensor)",
        "torch.tensor(x.tolist())",
        "torch.FloatTensor(x.tolist())",
        "torch.nn.functional.softmax(x, -1, dtype=torch.float32)",
        "torch.arange(3, dtype=torch.float32)",
        "torch.arange(3.0)",
        "torch.nn.Linear(2, 2).weight",
        "torch.empty_like(x, dtype=torch.float16)",
    ],
)
def test_a_function_mode_sees_every_request_for_a_shorter_type(request_):
    import torch

    from tlbench.reference.float64 import true_float64

    x = torch.tensor([1.0, 3.0], dtype=torch.float64)
    with true_float64():
        result = eval(request_, {"torch": torch, "x": x})
    assert result.dtype is torch.float64


@canary("torch changed what a TorchFunctionMode sees of frombuffer and view", "tlbench/reference/float64.py")
def test_bytes_are_read_as_the_type_that_was_requested():
    import torch

    from tlbench.reference.float64 import true_float64

    x = torch.tensor([1.0], dtype=torch.float32)
    with true_float64():
        assert torch.frombuffer(bytearray(x.numpy().tobytes()), dtype=torch.float32).tolist() == [1.0]
        assert x.view(torch.int32).view(torch.float32).tolist() == [1.0]


@canary("torch changed what a TorchFunctionMode sees of topk, sort and argmax", "tlbench/reference/float64.py")
@pytest.mark.parametrize(
    "choose",
    ["torch.topk(x, 2)", "x.topk(2, dim=-1)", "torch.sort(x)", "x.sort(-1)", "torch.argsort(x)", "torch.argmax(x)"],
)
def test_a_function_mode_can_repeat_what_torch_chose_before(choose):
    import torch

    from tlbench.reference.float64 import _HeldChoices

    def indices(x):
        choice = eval(choose, {"torch": torch, "x": x})
        return choice if isinstance(choice, torch.Tensor) else choice.indices

    choices = _HeldChoices()
    with choices.held():
        first = indices(torch.tensor([1.0, 2.0, 3.0]))
    with choices.held():
        again = indices(torch.tensor([3.0, 2.0, 1.0]))
    assert torch.equal(first, again)


@canary("torch changed what a TorchFunctionMode sees of a matrix product", "tlbench/reference/variants.py")
@pytest.mark.parametrize(
    "product",
    [
        "x @ y",
        "x.matmul(y)",
        "torch.matmul(x, y)",
        "x.mm(y)",
        "torch.mm(x, y)",
        "x[None].bmm(y[None])",
        "torch.bmm(x[None], y[None])",
        "torch.addmm(z, x, y)",
        "torch.nn.functional.linear(x, y)",
        "linear(x)",
    ],
)
def test_a_function_mode_reverses_both_factors_of_every_matrix_product(product, monkeypatch):
    import torch

    from tlbench.reference.variants import ReversedSums

    x, y, z = torch.rand(3, 3), torch.rand(3, 3), torch.zeros(3, 3)
    linear, flip, flipped = torch.nn.Linear(3, 3), torch.Tensor.flip, []
    monkeypatch.setattr(torch.Tensor, "flip", lambda factor, dim: flipped.append(factor) or flip(factor, dim))
    with torch.inference_mode():
        straight = eval(product, {"torch": torch, "x": x, "y": y, "z": z, "linear": linear})
        with ReversedSums():
            reverse = eval(product, {"torch": torch, "x": x, "y": y, "z": z, "linear": linear})
    assert len(flipped) == 2
    assert torch.allclose(straight, reverse)


@pytest.mark.slow
@canary("torch changed what a TorchDispatchMode sees", "tlbench/reference/float64.py")
def test_a_dispatch_mode_sees_every_operation_below_the_function_mode():
    import torch

    from tlbench.reference.float64 import low_precision_operations, true_float64

    x = torch.ones(2, dtype=torch.float64)
    with torch.inference_mode(), true_float64(), low_precision_operations() as seen:
        x.float().exp()
    assert not seen
    with torch.inference_mode(), low_precision_operations() as seen:
        x.float().double()
    assert [name.split(" ")[1] for name in seen] == ["(float32)"]
    with torch.inference_mode(), true_float64(), low_precision_operations() as seen, torch._C.DisableTorchFunction():
        x.float()
    assert seen


@canary("torch changed torch._C.DisableTorchFunction", "tools/architectures.py")
def test_a_cast_can_be_hidden_from_a_function_mode():
    import torch

    from tlbench.reference.float64 import true_float64

    with true_float64(), torch._C.DisableTorchFunction():
        assert torch.ones(1, dtype=torch.float64).to(torch.float32).dtype is torch.float32


@canary("torch changed what a TorchDispatchMode sees of topk", "tlbench/reference/routing.py")
@pytest.mark.parametrize("choose", ["torch.topk(x, 2, dim=-1)", "x.topk(2)", "torch.topk(x, k=2)"])
def test_a_dispatch_mode_sees_what_topk_chooses_from(choose):
    import torch

    from tlbench.reference.routing import _Scores

    x = torch.tensor([[1.0, 3.0, 2.0]])
    with torch.inference_mode(), _Scores() as scores:
        eval(choose, {"torch": torch, "x": x})
    ((values, k),) = scores.seen
    assert (values.tolist(), k) == (x.tolist(), 2)


@canary("torch changed torch.utils._pytree", "tlbench/reference/float64.py")
def test_pytree_lists_and_replaces_the_leaves_of_nested_values():
    import torch
    from torch.utils._pytree import tree_leaves, tree_map

    assert torch.utils._pytree.tree_leaves(((1, [2]), None, {"a": 3})) == tree_leaves([1, 2, None, 3]) == [1, 2, None, 3]
    assert tree_map(lambda leaf: leaf * 2, (1, [2])) == (2, [4])


# Costs, tlbench/costs ------------------------------------------------------------------------------------------------


@canary("torch changed profiler.kineto_results, or the memory events in it", "tlbench/costs/memory.py")
def test_the_profiler_counts_every_byte_that_is_allocated_and_freed():
    import torch

    from tlbench.costs.memory import allocated

    mebibyte, alive = 2**20, []
    leak = allocated(lambda: alive.append(torch.empty(mebibyte // 4)))
    assert (leak.peak, leak.kept) == (mebibyte, mebibyte)
    pair = allocated(lambda: (torch.empty(mebibyte // 4), torch.empty(mebibyte // 4)))
    assert (pair.peak, pair.kept) == (2 * mebibyte, 0)
