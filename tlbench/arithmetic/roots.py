"""A correctly rounded square root to replace torch's, whose last bit depends on the processor."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.library import Library

SQUARE_ROOTS = ("sqrt", "sqrt_", "sqrt.out")
# For an exponent of 0.5, torch runs the square root's kernel without calling the square-root operator.
POWERS = ("pow.Tensor_Scalar", "pow_.Scalar", "pow.Tensor_Scalar_out")


@lru_cache(maxsize=1)
def install_square_root() -> Any:
    """Replace torch's square root on the CPU with a correctly rounded one, in this process and its forks.

    torch's kernel still runs, so gradients, shapes, dtypes and errors are torch's own; only the numbers in its result are
    replaced. Complex numbers are left to torch. Returns torch's registration: the replacement lasts as long as that object.
    """
    library = Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")
        for name in (*SQUARE_ROOTS, *POWERS):
            kernel = _kernel(name, has_exponent=name in POWERS)
            library.impl(name, kernel, "CPU", with_keyset=True)  # type: ignore[no-untyped-call]
    return library


def _kernel(name: str, *, has_exponent: bool) -> Callable[..., Tensor]:
    torch_kernel = torch.library.get_kernel(f"aten::{name}", "CPU")

    def kernel(keys: Any, x: Tensor, *rest: Any, **out: Tensor) -> Tensor:
        if (has_exponent and rest[0] != 0.5) or x.is_complex():
            unreplaced: Tensor = torch_kernel.call_boxed(keys, x, *rest, **out)
            return unreplaced
        root = correctly_rounded_root(x)  # before torch's kernel, which may overwrite x
        result: Tensor = torch_kernel.call_boxed(keys, x, *rest, **out)
        return result.copy_(root)

    return kernel


def correctly_rounded_root(x: Tensor) -> Tensor:
    """The correctly rounded square root of every entry of a real tensor on the CPU.

    numpy uses the processor's own instruction, which IEEE 754 requires to be correctly rounded. 16-bit numbers go through
    float32. Its 24 bits make the second rounding harmless (Figueroa, "When is double rounding innocuous?", SIGNUM Newsletter
    30(3), 1995). Integers are converted to the default dtype first, as torch does.
    """
    values = x.detach()
    if not values.is_floating_point():
        values = values.to(torch.get_default_dtype())
    wide = values.float() if values.element_size() < 4 else values
    with np.errstate(invalid="ignore"):
        root = torch.from_numpy(np.asarray(np.sqrt(wide.numpy())))
    return root.to(values.dtype)
