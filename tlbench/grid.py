"""The words of the grid: a cell is one (model, dtype, processing option, wrapper)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from tlbench.exceptions import BadInput


class Dtype(StrEnum):
    """The floating-point type in which both models hold their weights and compute."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class Option(StrEnum):
    """Which of TransformerLens's weight-processing steps is switched on."""

    UNPROCESSED = "unprocessed"
    FOLD_LN = "fold_ln"
    CENTER_WRITING_WEIGHTS = "center_writing_weights"
    CENTER_UNEMBED = "center_unembed"
    FOLD_VALUE_BIASES = "fold_value_biases"
    ALL_OPTIONS = "all_options"

    def flags(self) -> dict[str, bool]:
        """The keyword arguments of TransformerLens that stand for this option."""
        return {
            flag: self in (flag, Option.ALL_OPTIONS)
            for flag in ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
        }


class Wrapper(StrEnum):
    """Which of TransformerLens's model classes is measured."""

    HOOKED_TRANSFORMER = "HookedTransformer"
    TRANSFORMER_BRIDGE = "TransformerBridge"


class Space(StrEnum):
    """Where the difference between two models' outputs is taken; see :mod:`tlbench.metrics.hf_error`."""

    ORIGIN = "origin"
    PROBABILITY = "probability"
    LOGIT = "logit"


class Statistic(StrEnum):
    """How the absolute errors of every entry are condensed into one number."""

    MAX = "max"
    MEAN = "mean"
    MEDIAN = "median"
    STD = "std"


class Attention(StrEnum):
    """Which of HuggingFace's attention implementations computes the reference."""

    EAGER = "eager"
    DEFAULT = "default"


class Operation(StrEnum):
    """What is done with a model when its time and memory are measured."""

    LOADING = "loading"
    """From the files to a model that can run, without weight processing."""
    PROCESSING = "processing"
    """TransformerLens's weight processing of a loaded model. HuggingFace has none: it stands beside its loading."""
    FORWARD = "forward"
    HOOKS = "hooks"
    """A forward pass with a hook on every point that changes nothing, beside HuggingFace's plain one."""
    CACHE = "cache"
    """``run_with_cache``, beside HuggingFace's plain forward pass."""
    BACKWARD = "backward"
    """A forward pass, its cross-entropy, and the gradients of all parameters."""
    GENERATION = "generation"
    """Greedy, with the key-value cache."""


class Device(StrEnum):
    """What the models run on."""

    CPU = "cpu"
    CUDA = "cuda"


Word = TypeVar("Word", bound=StrEnum)


def parse(kind: type[Word], text: str) -> Word:
    """The member of an enumeration that ``text`` names.

    Raises:
        BadInput: if there is none; the message lists the ones there are.
    """
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(kind)
        raise BadInput(f"unknown {kind.__name__.lower()} {text!r}: choose one of {known}") from None


@dataclass(frozen=True, order=True)
class Cell:
    """One point of the grid. Plain strings are accepted and checked.

    Attributes:
        model: a name of the catalogue, such as ``zoo-gpt2``.
        dtype: the type of weights and arithmetic.
        option: the weight processing that TransformerLens is asked for.
        wrapper: the TransformerLens class.

    Raises:
        BadInput: for a dtype, option or wrapper that does not exist.
    """

    model: str
    dtype: Dtype
    option: Option
    wrapper: Wrapper

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", parse(Dtype, self.dtype))
        object.__setattr__(self, "option", parse(Option, self.option))
        object.__setattr__(self, "wrapper", parse(Wrapper, self.wrapper))

    def __str__(self) -> str:
        return f"{self.model} {self.dtype} {self.option} {self.wrapper}"


@dataclass(frozen=True, order=True)
class ReferenceCell:
    """One point of HuggingFace's own grid. Plain strings are accepted and checked.

    Attributes:
        model: a name of the catalogue.
        dtype: the type of weights and arithmetic.
        attention: HuggingFace's attention implementation.

    Raises:
        BadInput: for a dtype or attention that does not exist.
    """

    model: str
    dtype: Dtype
    attention: Attention

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", parse(Dtype, self.dtype))
        object.__setattr__(self, "attention", parse(Attention, self.attention))

    def __str__(self) -> str:
        return f"{self.model} {self.dtype} {self.attention}"


SHAPE = re.compile(r"([1-9]\d*)x([1-9]\d*)")


@dataclass(frozen=True, order=True)
class RuntimeCell:
    """One point of the grid of costs. Plain strings are accepted and checked.

    Attributes:
        model: a name of the catalogue.
        dtype: the type of weights and arithmetic.
        option: the weight processing that TransformerLens is asked for.
        wrapper: the TransformerLens class.
        shape: sequences by tokens, such as ``1x64``.
        device: what the models run on.
        operation: what is done with them.

    Raises:
        BadInput: for a word that does not exist, or a shape that is none.
    """

    model: str
    dtype: Dtype
    option: Option
    wrapper: Wrapper
    shape: str
    device: Device
    operation: Operation

    def __post_init__(self) -> None:
        for name, kind in (("dtype", Dtype), ("option", Option), ("wrapper", Wrapper), ("device", Device)):
            object.__setattr__(self, name, parse(kind, getattr(self, name)))
        object.__setattr__(self, "operation", parse(Operation, self.operation))
        if not SHAPE.fullmatch(self.shape):
            raise BadInput(f"the shape {self.shape!r} is none: write sequences x tokens, such as 1x64")

    @property
    def batch(self) -> int:
        """Sequences."""
        return int(self.shape.split("x")[0])

    @property
    def length(self) -> int:
        """Tokens of each."""
        return int(self.shape.split("x")[1])

    @property
    def cell(self) -> Cell:
        """The cell of the grid of errors."""
        return Cell(self.model, self.dtype, self.option, self.wrapper)

    def __str__(self) -> str:
        return " ".join(map(str, vars(self).values()))


@dataclass(frozen=True)
class Import:
    """The one point where nothing but the import is measured."""

    def __str__(self) -> str:
        return "import"
