"""True float64: a model evaluated in double precision all the way.

``model.double()`` is not float64: HuggingFace's models upcast norms, attention weights and rotary tables to float32
whatever their dtype is, and in a float64 model that upcast *is* a rounding. Inside :func:`true_float64` every request for
float32 is answered with float64, while a model is built as well as while it runs. :func:`assert_true_float64` proves
the result for one model and input, so that an architecture whose roundings are not intercepted is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tlbench.exceptions import NotGolden

SELF_CHECK_TOLERANCE = 1e-11
"""Largest relative second difference of a smooth float64 function. float64's own rounding, amplified by a network, makes up
to 3e-12 (20 draws of the zoo, ``python -m tests.seeds``); one float32 rounding inside makes about 1e-8."""
SELF_CHECK_STEP = 1e-7
"""Relative step: its square is below float64's resolution, while the step itself is about float32's."""
LOW_PRECISION = (torch.float32, torch.float16, torch.bfloat16)
REINTERPRETING = (torch.frombuffer, torch.asarray, Tensor.view, Tensor.set_)
"""Functions that say how bytes are to be read, where another dtype would be another number (safetensors uses them)."""


class _Float64ForFloat32(TorchFunctionMode):
    """Answer every request for float32 with float64."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in REINTERPRETING:
            return func(*args, **kwargs)
        if func is Tensor.float:
            return args[0].double()
        return func(*map(_widened, args), **{name: _widened(value) for name, value in kwargs.items()})


def _widened(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


@contextmanager
def true_float64() -> Iterator[None]:
    """Within the block, torch makes float64 wherever float32 is asked for or would be the default."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Float64ForFloat32():
            yield
    finally:
        torch.set_default_dtype(default)


@contextmanager
def low_precision_operations() -> Iterator[Mapping[str, None]]:
    """Within the block, each operation that reads or makes a floating-point tensor of less than 64 bits is noted."""
    with _Watch() as watch:
        yield watch.seen


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: dict[str, None] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves((args, kwargs, result)):
            if isinstance(value, Tensor) and value.dtype in LOW_PRECISION:
                self.seen[f"{func} ({str(value.dtype).removeprefix('torch.')})"] = None
        return result


def assert_true_float64(model: Any, ids: Tensor) -> None:
    """Prove that ``model(ids).logits`` is float64 all the way.

    Three checks. No table that the model made for itself holds numbers of just float32's precision. No operation reads or
    makes a tensor of fewer bits, which finds every cast that torch sees. And the
    logits are a smooth function of the embeddings to float64's accuracy: their second difference
    f(x + s) - 2 f(x) + f(x - s), for a relative step s of 1e-7, is below 1e-11 of the logits' size, where a rounding to
    float32 inside an operation that torch cannot see would leave 1e-8.

    Args:
        model: a HuggingFace causal language model in float64, whose ``get_input_embeddings`` is an embedding module.
        ids: token ids ``[batch, pos]``.

    Raises:
        NotGolden: if a check fails, naming what was found.
    """
    if table := _rounded_table(model):
        raise NotGolden(
            f"{type(model).__name__} is not float64 all the way: its table {table} was rounded to float32. It was not built "
            "inside true_float64, or makes the table where torch cannot see it"
        )
    with true_float64(), torch.inference_mode():
        with low_precision_operations() as seen:
            here = model(ids, use_cache=False).logits
        if seen:
            found = ", ".join(list(seen)[:3])
            raise NotGolden(
                f"{type(model).__name__} is not float64 all the way: {found}. Its upcasts are not intercepted, so it cannot "
                "be an exact reference"
            )
        difference = _second_difference(model, ids, here)
    if not difference < SELF_CHECK_TOLERANCE:
        raise NotGolden(
            f"{type(model).__name__} is not float64 all the way: the second difference of its logits is {difference:.1e} "
            f"where {SELF_CHECK_TOLERANCE:.0e} is allowed. Something in it rounds where torch cannot see it"
        )


def _rounded_table(model: Any) -> str:
    """The name of a floating-point buffer that no checkpoint holds and whose values have float32's precision, or ""."""
    stored = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in stored or not buffer.is_floating_point():
            continue
        values = buffer.double()
        # Numbers as short as small integers and powers of two are meant; what fills 24 bits and no more was rounded.
        significand = torch.frexp(values).mantissa * 2.0**12
        if torch.equal(values.float().double(), values) and not torch.equal(significand.round(), significand):
            return str(name)
    return ""


def _second_difference(model: Any, ids: Tensor, here: Tensor) -> float:
    generator = torch.Generator().manual_seed(0)
    direction: list[Tensor] = []

    def logits(step: float) -> Tensor:
        def moved(module: Any, inputs: Any, output: Tensor) -> Tensor:
            if not direction:
                direction.append(torch.randn(output.shape, generator=generator) * output.abs())
            return output + step * direction[0]

        handle = model.get_input_embeddings().register_forward_hook(moved)
        try:
            result: Tensor = model(ids, use_cache=False).logits
        finally:
            handle.remove()
        return result

    second = logits(SELF_CHECK_STEP) - 2 * here + logits(-SELF_CHECK_STEP)
    return (second.abs().max() / here.abs().max()).item()
