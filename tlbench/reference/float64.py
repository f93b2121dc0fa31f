"""True float64: a model evaluated in double precision all the way.

``model.double()`` is not float64. HuggingFace's models upcast norms, attention weights and rotary tables to float32
whatever their dtype, and in a float64 model that "upcast" is a rounding. A few round on purpose: Falcon casts its ALiBi
bias to bfloat16. The golden is the exact function, so a rounding that HuggingFace writes into its code is HuggingFace's
own error and no part of it.

Inside :func:`true_float64` every request for a shorter floating-point type is answered with float64, while a model is
built as well as while it runs. :func:`assert_true_float64` proves the result for one model and input, so an architecture
whose roundings are not intercepted is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tlbench.exceptions import NotGolden
from tlbench.metrics.hf_error import centred

STEP = 1e-8
"""Relative step of the self-check: a sixth of float32's resolution, so a float32 rounding of one number is crossed by
about one step in six, and the third difference of a smooth function (1e-24 times its third derivative) is nothing."""
WIDER = 16
"""How many times wider the second look is."""
ULP = 2.0**-52
"""Relative step that only float64's own rounding can see."""
TIMES_THE_NOISE = 3e4
"""How far the third difference may exceed float64's noise. One float32 rounding is 5e8 float64 roundings. Of 86
architectures the healthy reach 2.4e3 times, mostly 10, and one rounded activation leaves 3.4e6 times or more
(``python -m tools.architectures``); a rounded scalar for each token leaves 1e6 times or more."""
LEAST_GROWTH = 10
"""From one step to another 16 times wider, a third difference that comes from kinks grows 16 to 64 times, one that comes
from curvature 4096 times, and one that comes from rounding 4 times: only the number of jumps grows, not their size."""
LEAST_STEP = 1e-11
"""Below this step nothing is looked at: float32's resolution is 6000 times as wide."""

REINTERPRETING = (torch.frombuffer, torch.asarray, Tensor.view, Tensor.set_)
"""Functions that say how bytes are to be read, where another dtype would be another number (safetensors uses them)."""
SHORTENING = (Tensor.float, Tensor.half, Tensor.bfloat16)
SHORT_TYPES = ("FloatTensor", "HalfTensor", "BFloat16Tensor")
"""torch's own types: constructors, and names that ``Tensor.type`` accepts."""
COMPLEX = {torch.complex32, torch.complex64}
DIM_OF = {"topk": 2, "sort": 1, "argsort": 1, "argmax": 1}
"""Functions by which a model chooses, such as a router its experts: the only places
where a healthy one jumps. Each with the place of its ``dim`` among the arguments."""


@dataclass(frozen=True)
class SelfCheck:
    """What the self-check measured. All figures are of the centred logits, relative to their rms.

    Attributes:
        noise: float64's own rounding: the rms change when the embeddings move by their last bit.
        difference: the rms third difference at a relative step of 1e-8.
        excess: how many times its noise the third difference is, at the position where that is largest.
        growth: how many times the third difference grows, at least, with a step 16 times wider; infinite where it does not
            exceed the noise, so that nothing needs explaining.
        amplification: the rms change per relative change of the embeddings.
    """

    noise: float
    difference: float
    excess: float
    growth: float
    amplification: float

    @property
    def passed(self) -> bool:
        """Whether all that was seen is float64's own rounding, or else curvature or kinks of the function itself."""
        return self.growth >= LEAST_GROWTH


def _is_short(dtype: Any) -> bool:
    """Whether a dtype is floating-point or complex and has less precision than float64."""
    return isinstance(dtype, torch.dtype) and (dtype in COMPLEX or (dtype.is_floating_point and dtype is not torch.float64))


class _Float64ForShorter(TorchFunctionMode):
    """Answer every request for a shorter floating-point type with float64."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in REINTERPRETING:
            return func(*args, **kwargs)
        if func in SHORTENING:
            return args[0].double()
        if func is Tensor.type:
            args, kwargs = tuple(map(_widened_type, args)), {name: _widened_type(value) for name, value in kwargs.items()}
        return func(*map(_widened, args), **{name: _widened(value) for name, value in kwargs.items()})


def _widened(value: Any) -> Any:
    if not _is_short(value):
        return value
    return torch.complex128 if value in COMPLEX else torch.float64


def _widened_type(value: Any) -> Any:
    name = value if isinstance(value, str) else f"{getattr(value, '__module__', '')}.{getattr(value, '__name__', '')}"
    return torch.float64 if name.removeprefix("torch.") in SHORT_TYPES else value


@contextmanager
def true_float64() -> Iterator[None]:
    """Within the block, torch makes float64 wherever a shorter type is asked for or would be the default.

    ``torch.autocast`` needs no care: it leaves float64 tensors alone.
    """
    default = torch.get_default_dtype()
    # Constructors are classes, which a function mode does not see; HuggingFace fills tables from numpy with them.
    constructors = {name: getattr(torch, name) for name in SHORT_TYPES}
    torch.set_default_dtype(torch.float64)
    for name in constructors:
        setattr(torch, name, torch.DoubleTensor)
    try:
        with _Float64ForShorter():
            yield
    finally:
        for name, constructor in constructors.items():
            setattr(torch, name, constructor)
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
            if isinstance(value, Tensor) and _is_short(value.dtype):
                self.seen[f"{func} ({str(value.dtype).removeprefix('torch.')})"] = None
        return result


def assert_true_float64(model: Any, ids: Tensor) -> SelfCheck:
    """Prove that ``model(ids).logits`` is float64 all the way.

    Four checks. No table that the model made for itself holds numbers of just float32's precision. No operation reads or
    makes a tensor of fewer bits, which finds every cast that torch sees. No module without parameters, such as a rotary
    embedding, returns numbers of just float32's precision. And the logits are a smooth function of the embeddings up to
    float64's own rounding (:func:`self_check`), which finds a rounding inside an operation that torch cannot see.

    Args:
        model: a HuggingFace causal language model in float64, whose ``get_input_embeddings`` is an embedding module.
        ids: token ids ``[batch, pos]``.

    Raises:
        NotGolden: if a check fails, naming what was found.
    """
    name = type(model).__name__
    if table := _rounded_table(model):
        raise NotGolden(
            f"{name} is not float64 all the way: its table {table} was rounded to float32. It was not built "
            "inside true_float64, or makes the table where torch cannot see it"
        )
    with true_float64(), torch.inference_mode():
        moved = _Moved(model, ids)
        with low_precision_operations() as seen, _rounded_outputs(model) as rounded:
            forward = moved(STEP)
        if seen:
            raise NotGolden(
                f"{name} is not float64 all the way: {', '.join(list(seen)[:3])}. Its upcasts are not intercepted, so it "
                "cannot be an exact reference"
            )
        if rounded:
            raise NotGolden(
                f"{name} is not float64 all the way: what its module {next(iter(rounded))} returns was rounded to float32 "
                "where torch cannot see it"
            )
        found = _measure(moved, forward)
    if not math.isfinite(found.difference):
        raise NotGolden(f"{name} has logits that are not finite in float64, so it cannot be an exact reference")
    if not found.passed:
        raise NotGolden(
            f"{name} is not float64 all the way: when its embeddings move by {STEP:.0e}, its logits leave a "
            f"third difference of {found.difference:.1e}. That is up to {found.excess:.1e} times float64's own noise of "
            f"{found.noise:.1e}, where {TIMES_THE_NOISE:.0e} times is allowed. With a step {WIDER} times wider it grows "
            f"{found.growth:.1f} times, where curvature and kinks grow at least {LEAST_GROWTH} times. Something in it "
            "rounds where torch cannot see it"
        )
    return found


def _rounded_table(model: Any) -> str:
    """The name of a tensor that the model made for itself and whose values have just float32's precision, or ""."""
    stored = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name not in stored and _is_rounded(buffer):
            return str(name)
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and not isinstance(value, torch.nn.Parameter) and _is_rounded(value):
                return f"{prefix}.{name}".removeprefix(".")
    return ""


def _is_rounded(values: Tensor) -> bool:
    """Whether all values have float32's precision and some fill it.

    Integers, and numbers as short as powers of two, are meant; what fills 24 bits and no more was rounded.
    """
    if not values.is_floating_point():
        return False
    significand = torch.frexp(values.double()).mantissa
    is_meant = _has_bits(significand, 12) | (values.round() == values)
    return bool(_has_bits(significand, 24).all()) and not bool(is_meant.all())


def _has_bits(significand: Tensor, bits: int) -> Tensor:
    scaled = significand * 2.0**bits
    return scaled.round() == scaled


@contextmanager
def _rounded_outputs(model: Any) -> Iterator[dict[str, None]]:
    """Within the block, modules without parameters that return rounded numbers, but were given none, are noted.

    They make constants such as rotary tables, whose rounding no step of the embeddings can show. The embeddings must be
    moved by a step that float32 cannot hold: a module may pass on what it was given.
    """
    noted: dict[str, None] = {}

    def watching(name: str) -> Callable[..., None]:
        def watch(module: Any, inputs: Any, output: Any) -> None:
            given, returned = (torch.utils._pytree.tree_leaves(each) for each in (inputs, output))
            if any(map(_is_rounded_tensor, returned)) and not any(map(_is_rounded_tensor, given)):
                noted[name] = None

        return watch

    without = [(name, module) for name, module in model.named_modules() if not any(True for _ in module.parameters())]
    handles = [module.register_forward_hook(watching(name)) for name, module in without]
    try:
        yield noted
    finally:
        for handle in handles:
            handle.remove()


def _is_rounded_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype is torch.float64 and _is_rounded(value)


class _Moved:
    """The logits of a model as a function of a step of its embeddings, along one random direction.

    What the model chooses at the first step, such as a router its experts, it chooses at every step: a choice that is
    nearly a tie would jump, in an exact function too.
    """

    def __init__(self, model: Any, ids: Tensor) -> None:
        self._model, self._ids = model, ids
        self._generator = torch.Generator().manual_seed(0)
        self._direction: Tensor | None = None
        self._choices = _HeldChoices()

    def __call__(self, step: float) -> Tensor:
        handle = self._model.get_input_embeddings().register_forward_hook(lambda *call: self._move(call[-1], step))
        try:
            with self._choices.held():
                logits: Tensor = self._model(self._ids, use_cache=False).logits
        finally:
            handle.remove()
        return logits

    def _move(self, embeddings: Tensor, step: float) -> Tensor:
        if self._direction is None:
            self._direction = torch.randn(embeddings.shape, generator=self._generator) * embeddings.abs()
        return embeddings + step * self._direction


class _HeldChoices(TorchFunctionMode):
    """Record the indices that torch's choosing functions return, and return them again in every later pass."""

    def __init__(self) -> None:
        super().__init__()
        self._recorded: list[Tensor] = []
        self._pass = self._next = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        self._next = 0
        with self:
            yield
        self._pass += 1

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name not in DIM_OF or not args or not isinstance(args[0], Tensor) or not args[0].is_floating_point():
            return result
        fresh = result if isinstance(result, Tensor) else result[1]
        if self._pass == 0:
            self._recorded.append(fresh)
            return result
        if self._next >= len(self._recorded) or self._recorded[self._next].shape != fresh.shape:
            return result
        held = self._recorded[self._next]
        self._next += 1
        if isinstance(result, Tensor):
            return held
        place = DIM_OF[name]
        dim = kwargs.get("dim", args[place] if len(args) > place else -1)
        return type(result)((args[0].gather(dim, held), held))


def _measure(moved: _Moved, forward: Tensor) -> SelfCheck:
    """Tell rounding from what the function itself does.

    The third difference f(x + 2s) - 3 f(x + s) + 3 f(x) - f(x - s) of a smooth function is far below float64's noise at a
    step of 1e-8, and that of a float32 rounding far above: some numbers cross from one float32 to the next. What exceeds
    the noise is judged by how it grows with the step.

    Args:
        moved: the logits at a step.
        forward: those at :data:`STEP`.
    """
    here = moved(0)
    # One number that a planted rounding moves by chance changes later positions only, so the noise of a position is no
    # excuse for another.
    noise = _by_position(moved(ULP) - here)
    noise = noise.clamp(min=noise.quantile(0.25).item())
    backward = moved(-STEP)
    slope = _rms(centred(forward - backward)) / (2 * STEP)
    third = _by_position(moved(2 * STEP) - 3 * forward + 3 * here - backward)
    del forward, backward
    unit = _rms(centred(here)) or 1.0  # constant logits change by nothing
    excess = _excess(third, noise).max().item()
    return SelfCheck(_rms(noise) / unit, _rms(third) / unit, excess, _growth(moved, here, noise, third), slope / unit)


def _growth(moved: _Moved, here: Tensor, noise: Tensor, third: Tensor) -> float:
    """How many times the third difference grows, at least, from each step at which it exceeds the noise to the next wider.

    The widest look is decisive for a rounding of few numbers, of which some cross at :data:`STEP` and hardly any below it.
    The narrower ones find a rounding among many kinks, which fade with the step while it does not.
    """
    least, step, wider = math.inf, STEP, None
    while least >= LEAST_GROWTH and step > LEAST_STEP and bool((over := _excess(third, noise) > TIMES_THE_NOISE).any()):
        wider = _third_difference(moved, here, WIDER * STEP) if wider is None else wider
        least = min(least, _rms(wider[over]) / _rms(third[over]))
        step /= WIDER
        wider, third = third, _third_difference(moved, here, step)
    return least


def _third_difference(moved: _Moved, here: Tensor, step: float) -> Tensor:
    return _by_position(moved(2 * step) - 3 * moved(step) + 3 * here - moved(-step))


def _excess(third: Tensor, noise: Tensor) -> Tensor:
    return torch.where(third == 0, 0, third / noise)


def _by_position(logits: Tensor) -> Tensor:
    """The rms over the vocabulary of centred logits, ``[batch * pos]``."""
    return centred(logits).square().mean(-1).sqrt().flatten()


def _rms(values: Tensor) -> float:
    return values.square().mean().sqrt().item()
