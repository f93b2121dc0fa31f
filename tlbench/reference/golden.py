"""Golden logits: a checkpoint's function evaluated in true float64, computed once and stored.

A checkpoint has one golden per dtype that its weights can be rounded to, which isolates the error of the arithmetic, and one
for the weights as stored, which gives the total error a user sees. They are computed in this project's own environment,
whichever TransformerLens and transformers are under test. :mod:`tlbench.reference.float64` says how.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import safe_open
from torch import Tensor

from tlbench import arithmetic, checkpoints
from tlbench.checkpoints import Checkpoint
from tlbench.environments import reference_python
from tlbench.environments.sources import code_digest
from tlbench.exceptions import BadInput, CellFailed, NoGolden, NotGolden
from tlbench.grid import Dtype
from tlbench.metrics.hf_error import centred
from tlbench.metrics.streaming import Chunked
from tlbench.reference import huggingface, routing
from tlbench.reference import tensor_store as store
from tlbench.reference.blocked import in_blocks
from tlbench.reference.elsewhere import read_or_compute
from tlbench.reference.float64 import assert_true_float64, true_float64
from tlbench.reference.streamed import streamed

MEMORY_VARIABLE = "TLBENCH_GOLDEN_MEMORY"
"""The most memory that a golden's model may take, in bytes. Default: all that is free."""
CHECKED_TOKENS = 256
"""The float64 check uses at most this many tokens of each sequence, because it needs at least five forward passes."""
HOLDS = {Dtype.FLOAT32: {"F32", "F16", "BF16"}, Dtype.FLOAT16: {"F16"}, Dtype.BFLOAT16: {"BF16"}}
"""The safetensors dtypes whose every value each dtype represents exactly."""
NATURAL = "natural"
ROTARY_TABLES = ("inv_freq", "embed_positions")


class Weights(StrEnum):
    """Which weights a golden uses: rounded to a dtype, or as stored in the checkpoint."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    ORIGINAL = "original"


class Precision(StrEnum):
    """The precision of a golden. ``float32`` is a fallback for 16-bit cells of models that cannot have a float64 one."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"


STREAMED_SPARE = 2 * 2**30
"""What a golden that is computed layer by layer takes beside its weights: imports, activations and logits."""
BYTES_PER_PARAMETER = {Precision.FLOAT64: 10, Precision.FLOAT32: 5}
"""To load and run a model: the parameter itself, plus a quarter for activations and temporaries."""


@dataclass(frozen=True)
class Golden:
    """A checkpoint's golden logits.

    Attributes:
        logits: float64 ``[batch, pos, d_vocab]`` on the natural-text prompts.
        precision: ``float64``, or the fallback ``float32``.
        rotary: the rms change of the centred logits over batch and vocabulary, ``[pos]``, in nats, if the rotary tables are
            rounded to float32, as in HuggingFace. 0 for a model without them.
        margins: :func:`tlbench.reference.routing.margins`, ``[batch, pos]``; empty if the model is no mixture of experts.
        sha256: hash of the file it was read from; empty if it was not read from a file.
    """

    logits: Tensor
    precision: Precision
    rotary: Tensor
    margins: Tensor
    sha256: str = ""

    def is_same_file(self, other: Golden) -> bool:
        """Whether both were read from files with the same content."""
        return bool(self.sha256) and self.sha256 == other.sha256


def golden(checkpoint: Checkpoint, weights: Weights, *, makeshift: bool = True) -> Golden:
    """Read a checkpoint's golden from the store. Compute it first if it is missing or damaged.

    If memory is too short for float64 or the architecture cannot be evaluated in it, ``makeshift`` accepts a float32 golden,
    except for float32 weights.

    Raises:
        NoGolden: if no golden can be computed, with the reason.
    """
    try:
        return _golden(checkpoint, weights, Precision.FLOAT64)
    except NoGolden:
        if weights is Weights.FLOAT32 or not makeshift:
            raise
        with suppress(NoGolden):
            return _golden(checkpoint, weights, Precision.FLOAT32)
        raise


def _golden(checkpoint: Checkpoint, weights: Weights, precision: Precision) -> Golden:
    path, what = store_path(checkpoint, weights, precision), f"golden logits of {checkpoint.model.name}"
    request = (reference_python(Path(sys.executable)), compute_missing, precision.value, checkpoint.model.name)
    stored = read_or_compute(path, "golden.lock", *request, what=what, check=partial(require_memory, checkpoint, precision))
    if reason := stored.provenance.get("reason"):
        raise NoGolden(reason)
    tensors = stored.tensors
    return Golden(tensors["logits"], precision, tensors["rotary"], tensors["margins"], stored.provenance["sha256"])


def store_path(checkpoint: Checkpoint, weights: Weights, precision: Precision = Precision.FLOAT64) -> Path:
    """The golden's path, named by all its inputs: checkpoint and prompts, weights, precision, arithmetic and code.

    The versions of torch and transformers are left out, because the exact function does not depend on them.
    """
    key = {"checkpoint": checkpoint.sha256, "weights": weights.value, "precision": precision.value, **arithmetic.key()}
    return store.path_of("golden", checkpoint.model.name, {**key, "code": code_digest("tlbench.reference.golden")})


def compute(
    checkpoint: Checkpoint, precision: Precision = Precision.FLOAT64, wanted: Sequence[Weights] = tuple(Weights)
) -> None:
    """Compute and store a checkpoint's missing goldens in this process, with one model in memory at a time.

    If the architecture cannot be evaluated in float64, the reason is stored instead, so that it is tried only once. A
    rounding that changes no weight has the golden of the stored weights: it is computed once and its file shared.

    Raises:
        CellFailed: if this process has imported TransformerLens or computes in the wrong arithmetic.
        NoGolden: if the model does not fit in memory.
    """
    if "transformer_lens" in sys.modules:
        raise CellFailed("cannot compute a golden in a process that has TransformerLens imported")
    arithmetic.establish()
    torch.set_num_threads(checkpoint.model.threads)
    missing = [weights for weights in wanted if store.read(store_path(checkpoint, weights, precision)) is None]
    if not missing:
        return
    require_memory(checkpoint, precision)
    try:
        for i, sharing in enumerate(_of_one_function(checkpoint.folder, missing)):
            computed = evaluate(checkpoint, sharing[0], precision, check=i == 0)  # one check: it is of the architecture
            _write(checkpoint, sharing, computed)
            del computed  # free it before the next evaluation: over a long context it is as large as the model
    except NotGolden as error:
        for weights in missing:
            provenance = _provenance(checkpoint, weights, reason=str(error))
            store.write(store_path(checkpoint, weights), {"nothing": torch.zeros(0)}, provenance)


def evaluate(
    checkpoint: Checkpoint, weights: Weights, precision: Precision = Precision.FLOAT64, *, check: bool = True
) -> Golden:
    """Load a checkpoint, round its weights and evaluate it on the natural-text prompts.

    Raises:
        NotGolden: if ``check`` is set and a float64 evaluation is not float64 all the way.
    """
    stream = precision is Precision.FLOAT64 and BYTES_PER_PARAMETER[precision] * checkpoint.parameters > available_bytes()
    model = checkpoint.inputs.attached(load_exact(checkpoint.folder, weights, precision, stream=stream))
    ids = huggingface.tokens(checkpoint, NATURAL)
    if check and precision is Precision.FLOAT64:
        assert_true_float64(model, ids[:, :CHECKED_TOKENS])
    logits = run(model, ids, precision)
    margins = torch.zeros(0, dtype=torch.float64)
    if checkpoint.has_experts:
        margins = routing.margins(model, ids, lambda: run(model, ids, precision))
    if not round_rotary_tables(model):
        return Golden(logits, precision, logits.new_zeros(ids.shape[1]), margins)
    differences = Chunked(lambda rounded, exact: centred(rounded - exact), (run(model, ids, precision), logits))
    return Golden(logits, precision, torch.cat([d.square().mean((0, 2)).sqrt() for d in differences]), margins)


def load_exact(folder: Path, weights: Weights, precision: Precision = Precision.FLOAT64, *, stream: bool = False) -> Any:
    """HuggingFace's model with rounded weights, and all its arithmetic in ``precision``.

    With ``stream``, which is for float64, only the weights of the module that runs are in memory, and the logits have the
    same bits; see :mod:`tlbench.reference.streamed`.
    """
    if stream:
        return streamed(_load(folder, "auto" if weights is Weights.ORIGINAL else getattr(torch, weights)))
    kinds = {}
    if weights is not Weights.ORIGINAL:  # HuggingFace keeps a few parameters in float32
        kinds = {name: parameter.dtype for name, parameter in _load(folder, getattr(torch, weights)).named_parameters()}
    with true_float64() if precision is Precision.FLOAT64 else nullcontext():
        model = _load(folder, getattr(torch, precision))
    for module in model.modules():
        # GPT-2's reordered attention is the same function, and insists on float32.
        if getattr(module, "reorder_and_upcast_attn", False) and precision is Precision.FLOAT64:
            module.reorder_and_upcast_attn = False
    for name, parameter in model.named_parameters():
        if name in kinds:
            parameter.data = parameter.data.to(kinds[name]).to(parameter.dtype)
    return model


def _load(folder: Path, dtype: torch.dtype | str) -> Any:
    # By default experts use a grouped matrix product, which torch implements for 32 and 16 bits only.
    return huggingface.language_model(folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager")


def run(model: Any, ids: Tensor, precision: Precision) -> Tensor:
    """Run a model from :func:`load_exact`; its logits ``[batch, pos, d_vocab]`` as float64.

    Attention runs in blocks of queries, so the memory for its scores grows with the length and not with its square.
    """
    with torch.inference_mode(), in_blocks(model), true_float64() if precision is Precision.FLOAT64 else nullcontext():
        logits: Tensor = model(ids, use_cache=False).logits.double()
    return logits.contiguous()


def round_rotary_tables(model: Any) -> bool:
    """Round the model's rotary tables to float32 in place. Returns whether it has any."""
    tables = [buffer for name, buffer in model.named_buffers() if name.endswith(ROTARY_TABLES)]
    for table in tables:
        with torch.inference_mode():  # dynamic scaling has made its table in such a block
            table.copy_(table.to(torch.float32).to(table.dtype))
    return bool(tables)


def require_memory(checkpoint: Checkpoint, precision: Precision) -> None:
    """Check that a golden of this precision fits in the memory that is free now, if need be layer by layer.

    Raises:
        NoGolden: if it does not fit, with the sizes. This is never stored, because more memory may be free another time.
        BadInput: if ``$TLBENCH_GOLDEN_MEMORY`` is not a number.
    """
    needed, available = BYTES_PER_PARAMETER[precision] * checkpoint.parameters, available_bytes()
    if precision is Precision.FLOAT64:
        needed = min(needed, streamed_bytes(checkpoint))
    if needed > available:
        raise NoGolden(
            f"{checkpoint.model.name} is too large for a {precision} golden: it needs {needed / 2**30:.3g} GiB and "
            f"{available / 2**30:.3g} GiB are free; use a machine with more memory"
        )


def streamed_bytes(checkpoint: Checkpoint) -> int:
    """The memory that a float64 golden takes layer by layer: a copy of the weights for a dtype that the files do not hold,
    and the largest tensor in float64, as it is converted."""
    copied = [dtype for dtype in Dtype if not changes_no_weight(checkpoint.folder, dtype)]
    copy = max((int(getattr(torch, dtype).itemsize) for dtype in copied), default=0)
    largest = max(int(math.prod(stored.get_shape())) for stored in _headers(checkpoint.folder))
    return copy * checkpoint.parameters + 2 * torch.float64.itemsize * largest + STREAMED_SPARE


def available_bytes() -> int:
    """Bytes that a golden may take: all free memory, up to ``$TLBENCH_GOLDEN_MEMORY``, which must be a number."""
    free = int(psutil.virtual_memory().available)
    limit = os.environ.get(MEMORY_VARIABLE, "")
    if limit and not limit.isdigit():
        raise BadInput(f"invalid {MEMORY_VARIABLE}={limit!r}: expected a number of bytes, e.g. 8000000000")
    return min(free, int(limit)) if limit else free


def changes_no_weight(folder: Path, dtype: Dtype) -> bool:
    """Whether a dtype represents every value of a folder's safetensors exactly, judged by the dtypes in their headers."""
    return {stored.get_dtype() for stored in _headers(folder)} <= HOLDS[dtype]


def _headers(folder: Path) -> Iterator[Any]:
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            yield from (tensors.get_slice(name) for name in tensors.keys())  # noqa: SIM118


def _of_one_function(folder: Path, wanted: Sequence[Weights]) -> list[list[Weights]]:
    """Group the weights that share one golden: those that rounding does not change."""
    unchanged = [weights for weights in wanted if weights is Weights.ORIGINAL or changes_no_weight(folder, Dtype(weights))]
    rounded = [[weights] for weights in wanted if weights not in unchanged]
    return ([unchanged] if unchanged else []) + rounded


def _write(checkpoint: Checkpoint, sharing: Sequence[Weights], computed: Golden) -> None:
    """Store one golden for all the weights that share it."""
    tensors = {"logits": computed.logits, "rotary": computed.rotary, "margins": computed.margins}
    paths = [store_path(checkpoint, weights, computed.precision) for weights in sharing]
    provenances = [_provenance(checkpoint, weights, precision=computed.precision) for weights in sharing]
    store.write(paths[0], tensors, provenances[0])
    for path, provenance in zip(paths[1:], provenances[1:], strict=True):
        store.write_again(path, paths[0], provenance)


def _provenance(checkpoint: Checkpoint, weights: Weights, **further: str) -> dict[str, str]:
    names = {"model": checkpoint.model.name, "checkpoint": checkpoint.sha256, "weights": weights.value}
    return {**names, "torch": torch.__version__, "transformers": version("transformers"), **arithmetic.key(), **further}


def compute_missing(precision: str, name: str) -> None:
    """Compute the missing goldens of the model of this name."""
    compute(checkpoints.named(name), Precision(precision))


def compute_ahead(_: Sequence[str], name: str) -> None:
    """Compute what cells of any dtype will read."""
    compute_missing(Precision.FLOAT64, name)
