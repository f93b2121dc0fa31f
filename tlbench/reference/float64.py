"""True float64: evaluate a model in double precision all the way.

``model.double()`` is not float64. HuggingFace's models cast norms, attention weights and rotary tables to float32 at any
dtype, and in a float64 model that "upcast" is a rounding. A few models round on purpose: Falcon casts its ALiBi bias to
bfloat16. The golden is the exact function, so a rounding in HuggingFace's code counts as HuggingFace's error.

Inside :func:`true_float64`, torch returns float64 for every request for a shorter floating-point type, both while a model is
built and while it runs. :func:`assert_true_float64` then checks the result for one model and input, and rejects an
architecture whose roundings were not intercepted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tlbench.exceptions import NotGolden
from tlbench.metrics.hf_error import centred

STEP = 1e-8
"""Relative step of the self-check: a sixth of float32's resolution, so a number crosses to the next float32 in about one
step in six. A smooth function's third difference, 1e-24 times its third derivative, is negligible."""
WIDER = 16
"""Ratio between two successive steps of the self-check."""
ULP = 2.0**-52
"""Relative step so small that it shows only float64's own rounding."""
TIMES_THE_NOISE = 3e4
"""How far the third difference may exceed float64's noise. One float32 rounding is as large as 5e8 float64 roundings. Of 86
architectures, the healthy ones reach at most 2.4e3 times the noise, usually 10. One rounded activation reaches at least
3.4e6 times, one rounded scalar per token at least 1e6 times (``python -m tools.architectures``)."""
LEAST_GROWTH = 10
"""With a step 16 times wider, a third difference grows 16 to 64 times if kinks cause it, and 4096 times if curvature does.
Rounding makes it grow only 4 times, because the jumps become more frequent but no larger."""
LEAST_STEP = 1e-11
"""The smallest step that the self-check tries. Float32's resolution is 6000 times as wide."""

REINTERPRETING = (torch.frombuffer, torch.asarray, Tensor.view, Tensor.set_)
"""Functions that reinterpret bytes, where another dtype would give other numbers. safetensors uses them."""
SHORTENING = (Tensor.float, Tensor.half, Tensor.bfloat16)
SHORT_TYPES = ("FloatTensor", "HalfTensor", "BFloat16Tensor")
"""torch's legacy types: constructors, and names that ``Tensor.type`` accepts."""
COMPLEX = {torch.complex32, torch.complex64}
DIM_OF = {"topk": 2, "sort": 1, "argsort": 1, "argmax": 1}
"""The position of ``dim`` among the arguments of functions that choose, as a router chooses its experts. Only at these may a
healthy model be discontinuous."""


@dataclass(frozen=True)
class SelfCheck:
    """What the self-check measured on the centred logits, relative to their rms.

    Attributes:
        noise: float64's own rounding: the rms change when the embeddings move by their last bit.
        difference: the rms third difference at a relative step of 1e-8.
        excess: the largest ratio of third difference to noise at any position.
        growth: the least growth of the third difference with a step 16 times wider; infinite if it never exceeds the noise.
        amplification: the rms change per relative change of the embeddings.
    """

    noise: float
    difference: float
    excess: float
    growth: float
    amplification: float

    @property
    def passed(self) -> bool:
        """Whether float64's own rounding, or curvature or kinks of the function itself, explain all that was measured."""
        return self.growth >= LEAST_GROWTH


def input_embeddings(model: Any) -> list[torch.nn.Module]:
    """The modules that embed token ids: one, or an encoder-decoder's two, which may be the same."""
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return [model.get_input_embeddings()]
    stacks = (model.get_encoder(), model.get_decoder())
    return list(dict.fromkeys(stack.get_input_embeddings() for stack in stacks))


def _is_short(dtype: Any) -> bool:
    """Whether a dtype is floating-point or complex and shorter than float64."""
    return isinstance(dtype, torch.dtype) and (dtype in COMPLEX or (dtype.is_floating_point and dtype is not torch.float64))


class _Float64ForShorter(TorchFunctionMode):
    """Replaces every shorter floating-point type by float64 in calls to torch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in REINTERPRETING:
            return func(*args, **kwargs)
        if func in SHORTENING:
            return args[0].double()
        widened = _widened_type if func is Tensor.type else _widened
        return func(*map(widened, args), **{name: widened(value) for name, value in kwargs.items()})


def _widened(value: Any) -> Any:
    if not _is_short(value):
        return value
    return torch.complex128 if value in COMPLEX else torch.float64


def _widened_type(value: Any) -> Any:
    name = value if isinstance(value, str) else f"{getattr(value, '__module__', '')}.{getattr(value, '__name__', '')}"
    return torch.float64 if name.removeprefix("torch.") in SHORT_TYPES else _widened(value)


@contextmanager
def true_float64() -> Iterator[None]:
    """Within the block, torch creates float64 wherever code requests a shorter type or relies on the default.

    ``torch.autocast`` needs no handling, because it leaves float64 tensors alone.
    """
    with ExitStack() as restore:
        restore.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float64)
        # HuggingFace builds tables from numpy with these constructors. As classes, they bypass a function mode.
        for name in SHORT_TYPES:
            restore.callback(setattr, torch, name, getattr(torch, name))
            setattr(torch, name, torch.DoubleTensor)
        restore.enter_context(_Float64ForShorter())
        yield


@contextmanager
def low_precision_operations() -> Iterator[Mapping[str, None]]:
    """Within the block, record each operation that reads or creates a floating-point tensor shorter than 64 bits."""
    with _Watch() as watch:
        yield watch.seen


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves((args, kwargs, result)):
            if isinstance(value, Tensor) and _is_short(value.dtype):
                self.seen[f"{func} ({str(value.dtype).removeprefix('torch.')})"] = None
        return result


def assert_true_float64(model: Any, ids: Tensor) -> SelfCheck:
    """Check that ``model(ids).logits`` is float64 all the way.

    There are four checks:

    - No table that the model built for itself holds numbers of only float32 precision.
    - No operation reads or creates a shorter tensor. This finds every cast that torch can see.
    - No module without parameters, such as a rotary embedding, returns numbers of only float32 precision.
    - The logits are a smooth function of the embeddings up to float64's own rounding (:func:`_measure`). This finds
      roundings inside operations, which torch cannot see.

    ``model`` is HuggingFace's in float64, and its ``get_input_embeddings`` a module. ``ids`` are token ids ``[batch, pos]``.

    Raises:
        NotGolden: if a check fails, with what it found.
    """
    if table := _rounded_table(model):
        causes = "Either the model was built outside true_float64, or it computes the table where torch cannot see it"
        raise _refusal(model, f"its table {table} was rounded to float32. {causes}")
    with true_float64(), torch.inference_mode():
        moved = _Moved(model, ids)
        check = _measure(moved, _watched(model, moved))  # without a name here, so that it frees the logits
    if not math.isfinite(check.difference):
        raise NotGolden(f"{type(model).__name__} has logits that are not finite in float64, so it cannot have a golden")
    if not check.passed:
        reason = (
            f"with an embedding step of {STEP:.0e}, the logits have a third difference of {check.difference:.1e}. That is "
            f"up to {check.excess:.1e} times float64's own noise of {check.noise:.1e}, and the limit is "
            f"{TIMES_THE_NOISE:.0e} times. With a step {WIDER} times wider it grows {check.growth:.1f} times, but curvature "
            f"and kinks would grow at least {LEAST_GROWTH} times. Some operation rounds where torch cannot see it"
        )
        raise _refusal(model, reason)
    return check


def _watched(model: Any, moved: _Moved) -> Tensor:
    """The logits at :data:`STEP`, of a pass in which nothing was rounded. Raises NotGolden if something was."""
    with low_precision_operations() as seen, _rounded_outputs(model) as rounded:
        forward = moved(STEP)
    if seen:
        casts = ", ".join(list(seen)[:3])
        raise _refusal(model, f"{casts}. tlbench did not intercept these casts, so this model cannot have a golden")
    if rounded:
        module = next(iter(rounded))
        raise _refusal(model, f"the output of its module {module} was rounded to float32 where torch cannot see it")
    return forward


def _refusal(model: Any, reason: str) -> NotGolden:
    return NotGolden(f"{type(model).__name__} is not float64 all the way: {reason}")


def _rounded_table(model: Any) -> str:
    """The name of a tensor that the model computed for itself and that has only float32 precision, or ""."""
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
    """Whether every value fits in float32 and some value uses more than 12 of its 24 significant bits.

    Integers and numbers of few significant bits, such as powers of two, may be intended.
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
    """Within the block, record modules without parameters that return rounded numbers although their inputs are not rounded.

    They compute constants, e.g. rotary tables, whose rounding no step of the embeddings reveals. The step must not be a
    float32 number, because a module may pass its inputs on.
    """
    rounding_modules: dict[str, None] = {}

    def has_rounded(values: Any) -> bool:
        tensors = (value for value in torch.utils._pytree.tree_leaves(values) if isinstance(value, Tensor))
        return any(tensor.dtype is torch.float64 and _is_rounded(tensor) for tensor in tensors)

    def watch(name: str, _: Any, inputs: Any, output: Any) -> None:
        if has_rounded(output) and not has_rounded(inputs):
            rounding_modules[name] = None

    parameterless = [(name, module) for name, module in model.named_modules() if not any(True for _ in module.parameters())]
    with ExitStack() as hooks:
        for name, module in parameterless:
            hooks.enter_context(module.register_forward_hook(partial(watch, name)))
        yield rounding_modules


class _Moved:
    """A model's logits as a function of a step of its embeddings along one random direction.

    Every pass repeats the first one's discrete choices, such as a router's experts. Otherwise a near tie could flip between
    steps, and the logits would jump even in exact arithmetic.
    """

    def __init__(self, model: Any, ids: Tensor) -> None:
        self._model, self._ids = model, ids
        self._generator = torch.Generator().manual_seed(0)
        self._directions: dict[torch.Size, Tensor] = {}
        self._choices = _HeldChoices()

    def __call__(self, step: float) -> Tensor:
        with ExitStack() as stack:
            for embedding in input_embeddings(self._model):
                stack.enter_context(embedding.register_forward_hook(lambda *call: self._move(call[-1], step)))
            stack.enter_context(self._choices.held())
            logits: Tensor = self._model(self._ids, use_cache=False).logits
        if not self._directions:
            raise _refusal(self._model, "its input embeddings are never called, so no step of them shows a rounding")
        return logits

    def _move(self, embeddings: Tensor, step: float) -> Tensor:
        if embeddings.shape not in self._directions:  # an encoder-decoder embeds two texts
            drawn = torch.randn(embeddings.shape, generator=self._generator)
            self._directions[embeddings.shape] = drawn * embeddings.abs()
        return embeddings + step * self._directions[embeddings.shape]


class _HeldChoices(TorchFunctionMode):
    """Records the indices that torch's choosing functions return in the first pass, and repeats them in every later one."""

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

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
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
        dim = (kwargs or {}).get("dim", args[DIM_OF[name]] if len(args) > DIM_OF[name] else -1)
        return type(result)((args[0].gather(dim, held), held))


def _measure(moved: _Moved, forward: Tensor) -> SelfCheck:
    """Separate rounding from the behaviour of the function itself.

    At a step of 1e-8, a smooth function's third difference f(x + 2s) - 3 f(x + s) + 3 f(x) - f(x - s) is far below
    float64's noise. With a float32 rounding it is far above, because some numbers cross to the next float32. Above the
    noise, its growth with the step tells curvature from rounding. ``forward`` is the logits at :data:`STEP`.
    """
    unmoved = moved(0)
    # Per position, because a rounding of one number changes only later positions and must not raise the noise elsewhere.
    noise = _by_position(moved(ULP) - unmoved)
    noise = noise.clamp(min=noise.quantile(0.25).item())
    backward = moved(-STEP)
    slope = _rms(centred(forward - backward)) / (2 * STEP)
    third = _by_position(moved(2 * STEP) - 3 * forward + 3 * unmoved - backward)
    del forward, backward
    scale = _rms(centred(unmoved)) or 1.0  # constant logits have no rms and do not change
    excess = _excess(third, noise).max().item()
    return SelfCheck(_rms(noise) / scale, _rms(third) / scale, excess, _growth(moved, unmoved, noise, third), slope / scale)


def _growth(moved: _Moved, unmoved: Tensor, noise: Tensor, third: Tensor) -> float:
    """The smallest growth of the third difference from a step at which it exceeds the noise to the next wider one.

    The widest pair finds a rounding of only a few numbers, which rarely cross at steps narrower than :data:`STEP`. The
    narrower pairs find a rounding among many kinks, because kinks fade with the step and a rounding does not.
    """
    least, step, wider = math.inf, STEP, None
    while least >= LEAST_GROWTH and step > LEAST_STEP and bool((over := _excess(third, noise) > TIMES_THE_NOISE).any()):
        wider = _third_difference(moved, unmoved, WIDER * STEP) if wider is None else wider
        least = min(least, _rms(wider[over]) / _rms(third[over]))
        step /= WIDER
        wider, third = third, _third_difference(moved, unmoved, step)
    return least


def _third_difference(moved: _Moved, unmoved: Tensor, step: float) -> Tensor:
    return _by_position(moved(2 * step) - 3 * moved(step) + 3 * unmoved - moved(-step))


def _excess(third: Tensor, noise: Tensor) -> Tensor:
    return torch.where(third == 0, 0, third / noise)


def _by_position(logits: Tensor) -> Tensor:
    """The rms of the centred logits over the vocabulary, ``[batch * pos]``."""
    return centred(logits).square().mean(-1).sqrt().flatten()


def _rms(values: Tensor) -> float:
    return values.square().mean().sqrt().item()
