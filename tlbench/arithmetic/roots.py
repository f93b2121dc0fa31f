"""A correctly rounded square root in place of torch's, whose last bit depends on the processor."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

SQUARE_ROOTS = ("sqrt", "sqrt_", "sqrt.out")
POWERS = ("pow.Tensor_Scalar", "pow_.Scalar", "pow.Tensor_Scalar_out")
"""torch computes a power of 0.5 with the square root's kernel, without calling the square root."""


@lru_cache(maxsize=1)
def install_square_root() -> Any:
    """Replace torch's square root on the CPU with a correctly rounded one, in this process and its forks.

    Complex numbers are left to torch. Gradients, shapes, dtypes and refusals are torch's own: its kernel still runs, and
    the numbers in its result are replaced. Doing so twice changes nothing.

    Returns:
        torch's registration, which ends with the object.
    """
    from torch.library import Library

    library = Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")
        for name in (*SQUARE_ROOTS, *POWERS):
            kernel = _kernel(name, has_exponent=name in POWERS)
            library.impl(name, kernel, "CPU", with_keyset=True)  # type: ignore[no-untyped-call]
    return library


def _kernel(name: str, *, has_exponent: bool) -> Callable[..., Tensor]:
    import torch

    own = torch.library.get_kernel(f"aten::{name}", "CPU")

    def kernel(keys: Any, x: Tensor, *rest: Any, **out: Tensor) -> Tensor:
        if (has_exponent and rest[0] != 0.5) or x.is_complex():
            replaced: Tensor = own.call_boxed(keys, x, *rest, **out)
            return replaced
        root = correctly_rounded_root(x)  # first, since torch's kernel may overwrite x
        result: Tensor = own.call_boxed(keys, x, *rest, **out)
        return result.copy_(root)

    return kernel


def correctly_rounded_root(x: Tensor) -> Tensor:
    """The real square root of every entry, as near as the dtype allows, of a tensor on the CPU.

    numpy's is the processor's own instruction, which IEEE 754 requires to be correctly rounded. 16-bit numbers go through
    float32, whose 24 bits are enough for the second rounding to be harmless (Figueroa, "When is double rounding innocuous?",
    SIGNUM Newsletter 30(3), 1995). Integers become the default dtype first, as torch has it.
    """
    import numpy as np
    import torch

    values = x.detach()
    if not values.is_floating_point():
        values = values.to(torch.get_default_dtype())
    wide = values.float() if values.element_size() < 4 else values
    with np.errstate(invalid="ignore"):
        root = torch.from_numpy(np.asarray(np.sqrt(wide.numpy())))
    return root.to(values.dtype)
