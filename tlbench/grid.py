"""The vocabulary of the grid: a cell is one (model, dtype, processing option, wrapper)."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TypeVar

from tlbench.exceptions import BadInput


class Dtype(StrEnum):
    """The floating-point type of both models' weights and arithmetic."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class Option(StrEnum):
    """The TransformerLens weight-processing step that is switched on."""

    UNPROCESSED = "unprocessed"
    FOLD_LN = "fold_ln"
    CENTER_WRITING_WEIGHTS = "center_writing_weights"
    CENTER_UNEMBED = "center_unembed"
    FOLD_VALUE_BIASES = "fold_value_biases"
    ALL_OPTIONS = "all_options"

    def flags(self) -> dict[str, bool]:
        """TransformerLens's keyword arguments for this option."""
        flags = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
        return {flag: self in (flag, Option.ALL_OPTIONS) for flag in flags}


class Wrapper(StrEnum):
    """The TransformerLens model class under test."""

    HOOKED_TRANSFORMER = "HookedTransformer"
    TRANSFORMER_BRIDGE = "TransformerBridge"


class Space(StrEnum):
    """The space in which two models' outputs are compared; see :mod:`tlbench.metrics.hf_error`."""

    ORIGIN = "origin"
    PROBABILITY = "probability"
    LOGIT = "logit"


class Statistic(StrEnum):
    """How the absolute errors of all entries are reduced to one number."""

    MAX = "max"
    MEAN = "mean"
    MEDIAN = "median"
    STD = "std"


class Attention(StrEnum):
    """The HuggingFace attention implementation that computes the reference."""

    EAGER = "eager"
    DEFAULT = "default"


class Operation(StrEnum):
    """What a model does while its time and memory are measured."""

    LOADING = "loading"
    """Loading the files into a runnable model, without weight processing."""
    PROCESSING = "processing"
    """TransformerLens's weight processing of a loaded model. HuggingFace has none, so this is compared with its loading."""
    FORWARD = "forward"
    HOOKS = "hooks"
    """A forward pass with a no-op hook on every hook point, against HuggingFace's plain forward pass."""
    CACHE = "cache"
    """``run_with_cache``, against HuggingFace's plain forward pass."""
    BACKWARD = "backward"
    """A forward pass, its cross-entropy, and the gradients of all parameters."""
    GENERATION = "generation"
    """Greedy generation with the key-value cache."""


class Device(StrEnum):
    """The device the models run on."""

    CPU = "cpu"
    CUDA = "cuda"


KINDS = (Dtype, Option, Wrapper, Attention, Device, Operation)
SHAPE = re.compile(r"([1-9]\d*)x([1-9]\d*)")
PLACES = {str(word): i for i, word in enumerate(itertools.chain(*KINDS[:4], ["shape"], *KINDS[4:]))}
"""The place of every word in tables, and of its kind in the fields of a point."""


def words_of(*parameters: str) -> tuple[str, ...]:
    """The words of a point, in the order of its fields, from a benchmark's parameters.

    A parameter holds one word or several, separated by spaces, so that a benchmark lists only combinations that can exist:
    ``zoo-gpt2 HookedTransformer``. The first word of all is the model's; any other says itself what it is. Raises BadInput
    if one does not.
    """
    model, *words = in_order(*parameters)
    for word in words:
        if word not in PLACES and not SHAPE.fullmatch(word):
            problem = f"unknown word {word!r} in a benchmark's parameters"
            raise BadInput(f"{problem}: expected a dtype, option, wrapper, attention, shape or device")
    return model, *words


def in_order(*parameters: str) -> tuple[str, ...]:
    """The same, with words that nobody knows where shapes stand."""
    model, *words = " ".join(parameters).split()
    return model, *sorted(words, key=place)


def place(word: str) -> tuple[int, str]:
    """Where a word stands in tables, among all words but models. What is no known word counts as a shape."""
    return PLACES.get(word, PLACES["shape"]), word


Word = TypeVar("Word", bound=StrEnum)


def parse(kind: type[Word], text: str) -> Word:
    """The enum member that ``text`` names. Raises BadInput, with the valid names, if there is none."""
    try:
        return kind(text)
    except ValueError:
        raise BadInput(f"unknown {kind.__name__.lower()} {text!r}: choose one of {', '.join(kind)}") from None


@dataclass(frozen=True, order=True)
class _Point:
    """A point of a grid. Its enum fields accept plain strings; a word that is not known raises BadInput."""

    def __post_init__(self) -> None:
        for kind in KINDS:
            name = kind.__name__.lower()
            if name in vars(self):
                object.__setattr__(self, name, parse(kind, getattr(self, name)))

    def __str__(self) -> str:
        return " ".join(str(getattr(self, field.name)) for field in fields(self))  # a restored one has any order in vars()


@dataclass(frozen=True, order=True)
class Cell(_Point):
    """One point of the grid. Accepts plain strings, and raises BadInput for an unknown dtype, option or wrapper.

    Attributes:
        model: a catalogue name, such as ``zoo-gpt2``.
        dtype: the dtype of weights and arithmetic.
        option: TransformerLens's weight processing.
        wrapper: the TransformerLens class.
    """

    model: str
    dtype: Dtype
    option: Option
    wrapper: Wrapper


@dataclass(frozen=True, order=True)
class ReferenceCell(_Point):
    """One point of HuggingFace's own grid. Accepts plain strings, and raises BadInput for an unknown dtype or attention."""

    model: str
    dtype: Dtype
    attention: Attention


@dataclass(frozen=True, order=True)
class RuntimeCell(_Point):
    """One point of the cost grid. Accepts plain strings, and raises BadInput for an unknown word or an invalid shape.

    Attributes, beyond those of :class:`Cell`:
        shape: SEQUENCESxTOKENS, such as ``1x64``.
        device: the device the models run on.
        operation: what they do there.
    """

    model: str
    dtype: Dtype
    option: Option
    wrapper: Wrapper
    shape: str
    device: Device
    operation: Operation

    def __post_init__(self) -> None:
        super().__post_init__()
        if not SHAPE.fullmatch(self.shape):
            raise BadInput(f"invalid shape {self.shape!r}: expected SEQUENCESxTOKENS, e.g. 1x64")

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return int(self.shape.split("x")[0])

    @property
    def length(self) -> int:
        """Tokens per sequence."""
        return int(self.shape.split("x")[1])

    @property
    def cell(self) -> Cell:
        """The matching cell of the error grid."""
        return Cell(self.model, self.dtype, self.option, self.wrapper)


@dataclass(frozen=True)
class Import:
    """The single cell that measures nothing but the import."""

    def __str__(self) -> str:
        return "import"
