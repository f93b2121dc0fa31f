"""One arithmetic for all machines, or this machine's own.

torch chooses its kernels by processor, so the same forward pass has other bits elsewhere. Three environment variables make
every x86-64 processor with AVX2 compute alike, except for the square root: MKL's is not correctly rounded and differs by
processor, and no variable changes that, so torch's is replaced here. A hash of what torch then computes proves the result.

Errors are measured in the ``shared`` lane unless ``$TLBENCH_ARITHMETIC`` is ``native``. Times are always native.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from tlbench.exceptions import BadInput, CellFailed

if TYPE_CHECKING:
    from torch import Tensor

LANE_VARIABLE = "TLBENCH_ARITHMETIC"
SHARED_MACHINE = "shared-x86-64"
"""The name of asv's machine under which figures of the shared lane are stored, whichever machine computes them."""


class Lane(StrEnum):
    """Whose arithmetic computes the figures."""

    SHARED = "shared"
    """The same bits on every x86-64 processor with AVX2."""
    NATIVE = "native"
    """Whatever torch chooses for this processor: the figures stay with this machine."""


SETTINGS: Mapping[str, str] = {
    # MKL's matrix products, else chosen by vendor and instruction set: its one code path that every processor has.
    "MKL_CBWR": "COMPATIBLE",
    # torch's own kernels, else compiled three times over and chosen at the first call. AVX2 is the widest in common.
    "ATEN_CPU_CAPABILITY": "avx2",
    # oneDNN's 16-bit products, else generated for AVX-512 or AMX, which sum in another order.
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}
"""What a process of the shared lane has in its environment before torch starts."""

SHARED_PROBES: Mapping[str, str] = {
    "2.13.0": "98a101b1c23ed2f6c5baba211ca1aa4fc911df6637191472653623b0dc16c2e6",
}
"""The shared lane's probe for each release of torch. Pin a new release by hand once ``python -m tools.processors`` has shown
that its probe is the same on every processor."""

SQUARE_ROOTS = ("sqrt", "sqrt_", "sqrt.out")
POWERS = ("pow.Tensor_Scalar", "pow_.Scalar", "pow.Tensor_Scalar_out")
"""torch computes a power of 0.5 with the square root's kernel, without calling the square root."""


class WrongArithmetic(CellFailed):
    """The process does not compute in the lane that was asked for."""


@dataclass(frozen=True)
class Arithmetic:
    """The arithmetic of this process.

    Attributes:
        lane: shared or native.
        probe: what :func:`probe` found.
    """

    lane: Lane
    probe: str

    @property
    def name(self) -> str:
        """``shared``, or ``native-`` and the start of the probe: two machines of one name compute the same bits."""
        return self.lane.value if self.lane is Lane.SHARED else f"{self.lane}-{self.probe[:12]}"


@dataclass(frozen=True)
class Found:
    """What a process computes with.

    Attributes:
        machine: the architecture, as :func:`platform.machine` names it.
        has_avx2: whether the processor has AVX2 and FMA, whatever torch uses of it.
        capability: the instruction set of torch's own kernels.
        torch: its release, without the local part.
        environment: the environment variables.
    """

    machine: str
    has_avx2: bool
    capability: str
    torch: str
    environment: Mapping[str, str]


def is_shared(machine: str) -> bool:
    """Whether results under a name of asv's machines are of the shared lane."""
    return machine == SHARED_MACHINE or machine.startswith(f"{SHARED_MACHINE}-")


def wanted() -> Lane:
    """The lane that ``$TLBENCH_ARITHMETIC`` asks for, by default shared.

    Raises:
        BadInput: if it names no lane.
    """
    name = os.environ.get(LANE_VARIABLE) or Lane.SHARED.value
    try:
        return Lane(name)
    except ValueError:
        raise BadInput(f"invalid {LANE_VARIABLE}={name!r}: choose {' or '.join(Lane)}") from None


def variables(lane: Lane) -> dict[str, str]:
    """The environment variables that a process of this lane must be started with."""
    settings = SETTINGS if lane is Lane.SHARED else {}
    return {LANE_VARIABLE: lane.value, **settings}


def environment(lane: Lane, base: Mapping[str, str]) -> dict[str, str]:
    """A copy of an environment in which a process of this lane can be started: the settings added, or taken out."""
    return {name: value for name, value in base.items() if name not in SETTINGS} | variables(lane)


def prepare() -> None:
    """Set the variables of the shared lane in this process, if it is wanted and torch has not read them yet.

    Whether that was in time is for :func:`establish` to tell.
    """
    if "torch" not in sys.modules and os.environ.get(LANE_VARIABLE, Lane.SHARED) == Lane.SHARED:
        os.environ.update(SETTINGS)


@lru_cache(maxsize=1)
def establish() -> Arithmetic:
    """Bring this process into the wanted lane and prove it. Call it before anything is measured.

    Raises:
        BadInput: if ``$TLBENCH_ARITHMETIC`` names no lane.
        WrongArithmetic: if the shared lane is wanted and this process cannot compute in it.
    """
    if wanted() is Lane.NATIVE:
        return Arithmetic(Lane.NATIVE, probe())
    found = find()
    require_shared(found)
    install_square_root()
    require_same_bits(found, probe())
    return Arithmetic(Lane.SHARED, probe())


def key() -> dict[str, str]:
    """What of the arithmetic stands in the key of everything that is kept: the lane and its probe.

    In the shared lane it is the pinned probe, so that a process that only reads need not compute; one that writes has
    established it.

    Raises:
        BadInput: if ``$TLBENCH_ARITHMETIC`` names no lane.
        WrongArithmetic: if the shared lane is wanted and no probe is pinned for this torch.
    """
    if wanted() is Lane.NATIVE:
        return {"lane": Lane.NATIVE.value, "probe": establish().probe}
    release = version("torch").split("+")[0]
    if release not in SHARED_PROBES:
        raise _no_probe(release)
    return {"lane": Lane.SHARED.value, "probe": SHARED_PROBES[release]}


def find() -> Found:
    """What this process computes with. Imports torch."""
    import torch

    processor = torch.cpu.get_capabilities()
    return Found(
        machine=platform.machine(),
        has_avx2=bool(processor.get("avx2") and processor.get("fma3")),
        capability=torch.backends.cpu.get_cpu_capability(),
        torch=torch.__version__.split("+")[0],
        environment=dict(os.environ),
    )


def require_shared(found: Found) -> None:
    """Make sure that a process can be of the shared lane, as far as can be told without computing.

    Raises:
        WrongArithmetic: if the processor, the settings or the release of torch rule it out.
    """
    if found.machine not in ("x86_64", "AMD64"):
        raise _refusal(f"it needs an x86-64 processor, and this one is {found.machine}")
    if not found.has_avx2:
        raise _refusal(f"it needs a processor with AVX2 and FMA, and {_processor_name()} has not both")
    missing = " ".join(f"{name}={value}" for name, value in SETTINGS.items() if found.environment.get(name) != value)
    if missing:
        raise _refusal(f"this process was started without {missing}", "start it with these variables")
    if found.capability != "AVX2":
        raise _refusal(
            f"torch computes with {found.capability}: it was imported before the variables were set",
            f"set {', '.join(SETTINGS)} before anything imports torch",
        )
    if found.torch not in SHARED_PROBES:
        raise _no_probe(found.torch)


def require_same_bits(found: Found, probed: str) -> None:
    """Make sure that a probe is the pinned one of the shared lane.

    Raises:
        WrongArithmetic: if it is not.
    """
    if probed != (pinned := SHARED_PROBES[found.torch]):
        raise _refusal(
            f"torch {found.torch} computes other bits on {_processor_name()} with {found.capability}: the probe is "
            f"{probed[:12]} instead of {pinned[:12]}"
        )


def _no_probe(release: str) -> WrongArithmetic:
    return _refusal(
        f"no probe is pinned for torch {release}, only for {', '.join(SHARED_PROBES)}",
        "install one of these, or pin this one's in tlbench/arithmetic.py",
    )


def _refusal(reason: str, advice: str = "") -> WrongArithmetic:
    native = f"measure with {LANE_VARIABLE}={Lane.NATIVE}, whose figures stay with this machine"
    advice = f"{advice}, or {native}" if advice else native
    return WrongArithmetic(f"the shared arithmetic was asked for ({LANE_VARIABLE}={Lane.SHARED}), but {reason}: {advice}")


def _processor_name() -> str:
    from tlbench.environments.metadata import processor_name

    return processor_name()


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


@lru_cache(maxsize=1)
def probe() -> str:
    """A SHA-256 over what this process computes: HuggingFace's logits of two small models, and many single operators.

    One thread computes, so that the process may still fork. Nothing depends on the version of transformers or on a library's
    random numbers, and no state of torch is left changed.
    """
    import torch

    digest = hashlib.sha256()
    with _one_thread(), torch.random.fork_rng(devices=[]), torch.inference_mode():
        for name, values in (*_logits(), *_operators()):
            digest.update(name.encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _logits() -> Iterator[tuple[str, Tensor]]:
    """Names and logits of two models: LayerNorm with a GELU, and RMSNorm with rotary positions and grouped queries."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    configs = (
        GPT2Config(vocab_size=512, n_positions=32, n_embd=64, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
        LlamaConfig(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=176,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
        ),
    )
    ids = (_uniform("ids", 2 * 32) * 512).long().view(2, 32)
    for config in configs:
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        drawn = {name: _parameter(name, parameter) for name, parameter in model.named_parameters()}
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            for name, parameter in model.named_parameters():
                # Of the tables that the model made for itself none is rounded.
                parameter.data = drawn[name].to(dtype)
            yield f"{config.model_type} {dtype}", model(ids, use_cache=False).logits


def _parameter(name: str, like: Tensor) -> Tensor:
    """A float64 parameter: of norms about 1, of matrices such that activations neither vanish nor explode."""
    values = _normal(name, like.numel()).view(like.shape)
    return values * like.shape[-1] ** -0.5 if like.dim() > 1 else 1 + 0.3 * values


def _operators() -> Iterator[tuple[str, Tensor]]:
    """Names and results of the operators that language models are made of, at even and odd sizes.

    Of 1,128 variants of torch's operators that were tried on three processors, these have other bits somewhere even in the
    shared lane: the square root, which is replaced, and the tangent and the inverse sine, cosine and tangent, which no
    language model calls and which are left out.
    """
    import torch
    from torch.nn import functional

    for dtype in (torch.float32, torch.float64):
        x = (3 * _normal("x", 4099)).to(dtype)
        positive = (0.01 + 30 * _uniform("positive", 4099)).to(dtype)
        rows, square = x[:4096].view(64, 64), positive[:4096].view(64, 64) - 15
        left, right = _normal("left", 7 * 33).view(7, 33).to(dtype), _normal("right", 33 * 19).view(33, 19).to(dtype)
        heads = _normal("heads", 8 * 32 * 16).view(8, 32, 16).to(dtype)
        results = {
            "sqrt": positive.sqrt(),
            "sqrt, strided": positive[:4096].view(64, 64).t().sqrt(),
            "rsqrt": positive.rsqrt(),
            "power of a half": positive**0.5,
            "square": x.pow(2),
            "cube": x.pow(3),
            "powers": torch.pow(positive, x / 3),
            "powers of a scalar": torch.pow(10000.0, x / 3),
            "reciprocal": positive.reciprocal(),
            "quotient": x / positive,
            "exp": x.exp(),
            "log": positive.log(),
            "erf": x.erf(),
            "tanh": x.tanh(),
            "sigmoid": x.sigmoid(),
            "sin": x.sin(),
            "cos": (100 * x).cos(),
            "silu": functional.silu(x),
            "gelu": functional.gelu(x),
            "gelu by tanh": functional.gelu(x, approximate="tanh"),
            "softplus": functional.softplus(x),
            "softmax": rows.softmax(-1),
            "softmax, strided": rows.t().softmax(-1),
            "log_softmax": rows.log_softmax(-1),
            "logsumexp": rows.logsumexp(-1),
            "layer_norm": functional.layer_norm(rows, [64], square[0], square[1]),
            "rms_norm": functional.rms_norm(rows, [64], square[0]),
            "sum": x.sum(),
            "sum of rows": rows.sum(-1),
            "mean": rows.mean(-1),
            "mean of columns": rows.mean(0),
            "var": rows.var(-1),
            "std": rows.std(-1),
            "norm": torch.linalg.vector_norm(rows, dim=-1),
            "cumsum": rows.cumsum(-1),
            "topk": rows.topk(5).values,
            "matmul": rows @ square,
            "matmul, odd": left @ right,
            "matmul, transposed": rows @ square.t(),
            "vector by matrix": rows[:1] @ square,
            "addmm": torch.addmm(x[:19], left, right),
            "bmm": heads @ heads.transpose(1, 2),
            "baddbmm": torch.baddbmm(x[:32].expand(8, 32, 32), heads, heads.transpose(1, 2), beta=0.5, alpha=0.25),
            "einsum": torch.einsum("hqd,hkd->hqk", heads, heads),
            "attention": functional.scaled_dot_product_attention(heads[None], heads[None], heads[None], is_causal=True),
        }
        yield from ((f"{name} {dtype}", result) for name, result in results.items())


def _normal(key: str, count: int) -> Tensor:
    import torch

    from tlbench.checkpoints.draws import normal

    return torch.from_numpy(normal(f"probe/{key}", count))


def _uniform(key: str, count: int) -> Tensor:
    import torch

    from tlbench.checkpoints.draws import uniform

    return torch.from_numpy(uniform(f"probe/{key}", count))
