"""Do accessors such as ``W_Q`` return the checkpoint's own weights?

No map of an architecture's modules is needed. The weights of one output of a linear map are a vector, which must be a row or
a column of one of HuggingFace's matrices, bit for bit. All vectors of an accessor in a block must come from one matrix of
that block, in its order; those of query, key and value from different places; and never from a matrix that HuggingFace names
as another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tlbench.exceptions import NotApplicable
from tlbench.grid import Cell
from tlbench.lens.interface import Lens
from tlbench.metrics.figures import UNIT_ROUNDOFF
from tlbench.metrics.relative_error import relative_error
from tlbench.questions.loading import Loaded, load_cell
from tlbench.records.promises import Accessors
from tlbench.reference import huggingface

ROUNDINGS = 64
"""The most roundings in an entry of a factored matrix: a product over d_head."""
SCALED = 1e-6
"""How much the ratio of two entries may vary for one table to be a multiple of another."""


@dataclass(frozen=True)
class Accessor:
    """How an accessor is laid out.

    Attributes:
        vectors: turns one block's weights into a vector per output, ``[output, input]``.
        bias: the accessor of its bias; "" if it has none.
        named: what HuggingFace calls a module that is this one and no other; a fused one has another name.
    """

    vectors: Callable[[Tensor], Tensor]
    bias: str = ""
    named: str = ""


def _by_head(weight: Tensor) -> Tensor:
    return weight.permute(0, 2, 1).flatten(0, 1)


ACCESSORS = {
    "W_Q": Accessor(_by_head, "b_Q", r"(q|query)(_proj|_lin)?"),
    "W_K": Accessor(_by_head, "b_K", r"(k|key)(_proj|_lin)?"),
    "W_V": Accessor(_by_head, "b_V", r"(v|value)(_proj|_lin)?"),
    "W_O": Accessor(lambda weight: weight.flatten(0, 1).T, "b_O"),
    "W_in": Accessor(lambda weight: weight.T, "b_in", "up_proj"),
    "W_gate": Accessor(lambda weight: weight.T, "", "gate_proj"),
    "W_out": Accessor(lambda weight: weight.T, "b_out", "down_proj"),
}
"""Those that are stacked by block."""
TABLES: dict[str, Callable[[Tensor], Tensor]] = {
    "W_E": lambda weight: weight,
    "W_pos": lambda weight: weight,
    "W_U": lambda weight: weight.T,
}
FACTORED = {"QK": ("W_Q", "W_K"), "OV": ("W_V", "W_O")}


class _Differs(Exception):
    """An accessor is not what the checkpoint has."""


@dataclass(frozen=True)
class _Origin:
    """Where an accessor's vectors stand in HuggingFace's model."""

    parameter: str
    places: Tensor


def measure_accessors(cell: Cell, loaded: Loaded | None = None) -> Accessors:
    """Find every accessor's vectors among HuggingFace's parameters. Needs no forward pass.

    Raises what :func:`load_cell` raises, and NotApplicable if weights are processed, because then they are other weights.
    """
    if any(cell.option.flags().values()):
        raise NotApplicable("processing changes the weights, so they are not HuggingFace's")
    checkpoint, lens = loaded or load_cell(cell)
    own = huggingface.load_model(checkpoint.folder, cell.dtype)
    parameters = {name: value.detach() for name, value in own.named_parameters(remove_duplicate=False)}
    lines = _Lines(parameters)
    origins: dict[tuple[str, int], _Origin] = {}
    compared, wrong, reasons = [], {}, {}
    checks = {
        **{name: partial(_check_table, name, lens, lines, own) for name in TABLES},
        **{name: partial(_check_blocks, name, lens, lines, parameters, origins) for name in ACCESSORS},
        **{name: partial(_check_product, name, lens, cell) for name in FACTORED},
    }
    for name, check in checks.items():
        try:
            check()
            compared.append(name)
        except NotApplicable as reason:
            reasons[name] = str(reason)
        except _Differs as difference:
            compared.append(name)
            wrong[name] = str(difference)
    return Accessors(cell, tuple(compared), wrong, reasons)


class _Lines:
    """The rows and columns of all matrices, by a 64-bit fingerprint of their bits."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._multipliers: dict[int, Tensor] = {}
        self._by_length: dict[int, list[tuple[str, Tensor]]] = {}
        for name, matrix in parameters.items():
            if matrix.ndim == 2:
                for lines in (matrix, matrix.T):
                    self._by_length.setdefault(lines.shape[1], []).append((name, self._fingerprints(lines)))

    def origin(self, vectors: Tensor, in_block: str = "") -> _Origin:
        """The matrix that has all vectors. Raises _Differs if none of the block of this name has."""
        wanted = self._fingerprints(vectors)
        elsewhere = ""
        for name, found in self._by_length.get(vectors.shape[1], ()):
            ordered, order = found.sort()
            at = torch.searchsorted(ordered, wanted).clamp_(max=len(ordered) - 1)
            if torch.equal(ordered[at], wanted):
                if not in_block or _is_in(name, in_block):
                    return _Origin(name, order[at])
                elsewhere = f": they are those of {name}"
        raise _Differs(f"not the checkpoint's weights{elsewhere}")

    def _fingerprints(self, lines: Tensor) -> Tensor:
        length = lines.shape[1]
        if length not in self._multipliers:
            draw = torch.Generator().manual_seed(length)
            self._multipliers[length] = torch.randint(-(2**62), 2**62, (length,), generator=draw) * 2 + 1
        bits = lines.contiguous().cpu().view({4: torch.int32, 2: torch.int16}[lines.element_size()])
        return (bits.long() * self._multipliers[length]).sum(-1)


def _is_in(parameter: str, block: str) -> bool:
    """Whether HuggingFace's parameter belongs to TransformerLens's block, such as ``blocks.2`` or ``decoder_blocks.2``."""
    stack, _, number = block.rpartition("blocks.")
    if not stack:
        return f".{number}." in parameter
    found = re.search(r"\.(\d+)\.", parameter)  # T5 numbers the parts of a block too
    return stack.removesuffix("_") in parameter and found is not None and found[1] == number


def _check_table(name: str, lens: Lens, lines: _Lines, own: Any) -> None:
    table = TABLES[name](lens.weight(name))
    embedding = own.get_input_embeddings().weight.detach()
    if name == "W_E" and table.shape == embedding.shape:  # HookedTransformer stores Gemma's already multiplied
        ratio = (table / embedding)[embedding != 0]
        if (ratio.max() - ratio.min()).abs() <= SCALED * ratio.abs().max():
            return
    _require_order(lines.origin(table).places, 1)


def _check_blocks(
    name: str, lens: Lens, lines: _Lines, parameters: Mapping[str, Tensor], origins: dict[tuple[str, int], _Origin]
) -> None:
    accessor = ACCESSORS[name]
    weights = lens.weight(name)
    if len(weights) != lens.n_blocks:
        raise NotApplicable(f"it has {len(weights)} of {lens.n_blocks} blocks")
    biases = _bias(lens, accessor.bias)
    for block, weight in enumerate(weights):
        try:
            origin = lines.origin(accessor.vectors(weight), lens.blocks[block])
            _require_order(origin.places, len(weight) if weight.ndim == 3 and name != "W_O" else 1)
            _require_name(name, origin)
            for other, elsewhere in ((other, origins.get((other, block))) for other in ACCESSORS):
                if elsewhere and elsewhere.parameter == origin.parameter and torch.equal(elsewhere.places, origin.places):
                    raise _Differs(f"the same as {other}")
            origins[name, block] = origin
            if biases is not None:
                _require_bias(biases[block].flatten(), origin, parameters, accessor.bias)
        except _Differs as difference:
            raise _Differs(f"block {block}: {difference}") from None


def _bias(lens: Lens, name: str) -> Tensor | None:
    try:
        return lens.weight(name) if name else None
    except NotApplicable:
        return None


def _require_order(places: Tensor, n_heads: int) -> None:
    """Within a head vectors follow one another; heads follow one another too, or repeat, as expanded keys do."""
    by_head = places.reshape(n_heads, -1)
    if not (by_head.diff() == 1).all() or not (by_head[:, 0].diff() >= 0).all():
        raise _Differs("the checkpoint's weights, in another order")


def _require_name(name: str, origin: _Origin) -> None:
    module = origin.parameter.split(".")[-2]
    for other, accessor in ACCESSORS.items():
        if other != name and accessor.named and re.fullmatch(accessor.named, module):
            raise _Differs(f"the weights of {module}")


def _require_bias(bias: Tensor, origin: _Origin, parameters: Mapping[str, Tensor], name: str) -> None:
    own = parameters.get(origin.parameter.removesuffix("weight") + "bias")
    expected = torch.zeros_like(bias) if own is None else own[origin.places]
    if not torch.equal(bias.cpu(), expected.cpu()):
        raise _Differs(f"{name} is not the checkpoint's bias")


def _check_product(name: str, lens: Lens, cell: Cell) -> None:
    first, second = (lens.weight(factor).double() for factor in FACTORED[name])
    product = lens.product(name)
    n_heads = product.shape[1]
    first, second = (factor.repeat_interleave(n_heads // factor.shape[1], dim=1) for factor in (first, second))
    error = relative_error(product, first @ (second.transpose(-2, -1) if name == "QK" else second))
    if error > ROUNDINGS * UNIT_ROUNDOFF[cell.dtype]:
        raise _Differs(f"not {' times '.join(FACTORED[name])}: its relative error is {error:.2g}")
