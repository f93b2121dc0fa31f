"""The golden logits: a checkpoint's function evaluated in true float64, computed once and kept.

There is one for each dtype that the weights may be rounded to (arithmetic error alone is measured against it) and one
for the weights as they are in the file (what a user gets in total). They are computed by this project's own environment,
whichever TransformerLens and transformers are under test.

Where HuggingFace rounds on purpose (norms in float32 at any dtype, Falcon's ALiBi bias in bfloat16) the golden does not: it
is the exact function, and HuggingFace's rounding is HuggingFace's error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tlbench import arithmetic
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
from tlbench.reference.float64 import assert_true_float64, true_float64
from tlbench.reference.several import compute_each, compute_elsewhere, zoo_with

MEMORY_VARIABLE = "TLBENCH_GOLDEN_MEMORY"
"""At most so many bytes may a golden's model take; by default all that is free."""
FLOAT64_BYTES_PER_PARAMETER = 10
FLOAT32_BYTES_PER_PARAMETER = 5
"""What a parameter needs while its model is loaded and run: itself, and a quarter for activations and the largest tensor."""
CHECKED_TOKENS = 256
"""Of each sequence at most so many prove that the evaluation is float64: the proof evaluates them three times."""
HOLDS = {Dtype.FLOAT32: {"F32", "F16", "BF16"}, Dtype.FLOAT16: {"F16"}, Dtype.BFLOAT16: {"BF16"}}
"""The dtypes, as safetensors writes them, whose every number the dtype has."""
NATURAL = "natural"
ROTARY_TABLES = ("inv_freq", "embed_positions")


class Weights(StrEnum):
    """Which weights the function has: rounded to a dtype, or as they are in the file."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    ORIGINAL = "original"


class Precision(StrEnum):
    """In what a golden was computed. ``float32`` is a makeshift for 16-bit cells of models that cannot have float64."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"


@dataclass(frozen=True)
class Golden:
    """The exact answer.

    Attributes:
        logits: float64 ``[batch, pos, d_vocab]`` on the natural-text prompts.
        precision: ``float64``, or ``float32`` where the model is too large here.
        rotary: by position, the rms over batch and vocabulary of what rounding the rotary tables to float32 (as
            HuggingFace does) changes in the centred logits; 0 for a model without them. ``[pos]``, nats.
        margins: of a mixture of experts, as :func:`tlbench.reference.routing.margins`, ``[batch, pos]``; else empty.
        sha256: of the file that it was read from; empty where it was read from none.
    """

    logits: Tensor
    precision: Precision
    rotary: Tensor
    margins: Tensor
    sha256: str = ""

    def is_same_file(self, other: Golden) -> bool:
        """Whether both were read from files of the same content."""
        return bool(self.sha256) and self.sha256 == other.sha256


def golden(checkpoint: Checkpoint, weights: Weights, *, makeshift: bool = True) -> Golden:
    """The golden logits of a checkpoint, from the store, computed first where they are missing or damaged.

    In float64; where that cannot be had, because memory is short now or because the architecture cannot be evaluated so, in
    float32 for weights rounded to 16 bits.

    Args:
        checkpoint: whose function.
        weights: rounded to which dtype.
        makeshift: whether a float32 one will do.

    Raises:
        NoGolden: if there is neither, and why.
    """
    try:
        return _golden(checkpoint, weights, Precision.FLOAT64)
    except NoGolden as reason:
        if weights is Weights.FLOAT32 or not makeshift:
            raise
        try:
            return _golden(checkpoint, weights, Precision.FLOAT32)
        except NoGolden:
            raise reason from None


def _golden(checkpoint: Checkpoint, weights: Weights, precision: Precision) -> Golden:
    path = store_path(checkpoint, weights, precision)

    def make() -> None:
        require_memory(checkpoint, precision)
        doing = f"computing the golden logits of {checkpoint.model.name}"
        compute_elsewhere(reference_python(), compute_missing, precision.value, zoo_with(checkpoint), doing=doing)

    kept = store.read_or_make(path, "golden.lock", make)
    if kept is None:
        # No statement about the model: whoever was to compute it did something else, as when code is edited meanwhile.
        raise CellFailed(f"the golden logits of {checkpoint.model.name} were not stored at {path}: run it again")
    if reason := kept.provenance.get("reason"):
        raise NoGolden(reason)
    tensors = kept.tensors
    return Golden(tensors["logits"], precision, tensors["rotary"], tensors["margins"], kept.provenance["sha256"])


def store_path(checkpoint: Checkpoint, weights: Weights, precision: Precision = Precision.FLOAT64) -> Path:
    """Where the golden lies, by all that decides it: checkpoint and prompts, precision, the arithmetic, the code.

    The versions of torch and transformers are not among them: the exact function has none.
    """
    key = {"checkpoint": checkpoint.sha256, "weights": weights.value, "precision": precision.value, **arithmetic.key()}
    return store.path_of("golden", checkpoint.model.name, {**key, "code": code_digest("tlbench.reference.golden")})


def compute(
    checkpoint: Checkpoint, precision: Precision = Precision.FLOAT64, wanted: Sequence[Weights] = tuple(Weights)
) -> None:
    """Compute and store goldens of a checkpoint in this process, with one model in memory at a time.

    Where the architecture cannot be evaluated in float64, the reason is stored in its place, so that it is tried once.
    Roundings that change no weight give the function of the weights as they are in the file: it is computed once, and all
    share one file.

    Args:
        checkpoint: whose function.
        precision: of the evaluation.
        wanted: of which weights; by default of all.

    Raises:
        CellFailed: if TransformerLens is imported here, or this process computes in another arithmetic than it should.
        NoGolden: if the model is too large.
    """
    if "transformer_lens" in sys.modules:
        raise CellFailed("a golden was about to be computed in a process that has TransformerLens imported")
    arithmetic.establish()
    torch.set_num_threads(checkpoint.model.threads)
    missing = [weights for weights in wanted if store.read(store_path(checkpoint, weights, precision)) is None]
    if not missing:
        return
    require_memory(checkpoint, precision)
    try:
        for i, same in enumerate(_of_one_function(checkpoint.folder, missing)):
            # What is checked is the architecture, which is the same for all weights.
            found = evaluate(checkpoint, same[0], precision, check=i == 0)
            _write(checkpoint, same, found)
            del found  # before the next is evaluated: of a long context it is as large as the model
    except NotGolden as error:
        for weights in missing:
            _write_reason(checkpoint, weights, str(error))


def evaluate(
    checkpoint: Checkpoint, weights: Weights, precision: Precision = Precision.FLOAT64, *, check: bool = True
) -> Golden:
    """Load a checkpoint, round its weights and evaluate it on the natural-text prompts.

    Raises:
        NotGolden: if the evaluation is not float64 all the way though it should be, and that is to be checked.
    """
    model = load_exact(checkpoint.folder, weights, precision)
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


def load_exact(folder: Path, weights: Weights, precision: Precision = Precision.FLOAT64) -> Any:
    """HuggingFace's model with its weights rounded as asked, all its arithmetic in ``precision``."""
    kinds = _dtypes_at(folder, Dtype(weights)) if weights is not Weights.ORIGINAL else {}
    if precision is Precision.FLOAT64:
        with true_float64():
            model = _load(folder, torch.float64)
    else:
        model = _load(folder, torch.float32)
    for name, parameter in model.named_parameters():
        if name in kinds:
            parameter.data = parameter.data.to(kinds[name]).to(parameter.dtype)
    return model


def _dtypes_at(folder: Path, dtype: Dtype) -> dict[str, torch.dtype]:
    """The dtype that HuggingFace gives each parameter when it is asked for ``dtype``: a few it keeps in float32."""
    return {name: parameter.dtype for name, parameter in _load(folder, getattr(torch, dtype)).named_parameters()}


def _load(folder: Path, dtype: torch.dtype) -> Any:
    # The default for experts is a grouped product that torch has for 32 and 16 bits only.
    return huggingface.causal_lm(folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager")


def run(model: Any, ids: Tensor, precision: Precision) -> Tensor:
    """The logits ``[batch, pos, d_vocab]`` of a model from :func:`load_exact`, in float64.

    Attention is computed some queries at a time, so that its scores grow with the length and not with its square.
    """
    with torch.inference_mode(), in_blocks(model):
        if precision is Precision.FLOAT64:
            with true_float64():
                logits: Tensor = model(ids, use_cache=False).logits
        else:
            logits = model(ids, use_cache=False).logits.double()
    return logits.contiguous()


def round_rotary_tables(model: Any) -> bool:
    """Round the model's rotary frequencies to float32 in place; whether there are any."""
    tables = [buffer for name, buffer in model.named_buffers() if name.endswith(ROTARY_TABLES)]
    for table in tables:
        table.copy_(table.to(torch.float32).to(table.dtype))
    return bool(tables)


def require_memory(checkpoint: Checkpoint, precision: Precision) -> None:
    """Make sure that a golden of this precision fits in what is free now.

    Raises:
        NoGolden: if it does not, with the sizes. That is never stored: another time there may be more.
        BadInput: if ``$TLBENCH_GOLDEN_MEMORY`` is no number.
    """
    each = {Precision.FLOAT64: FLOAT64_BYTES_PER_PARAMETER, Precision.FLOAT32: FLOAT32_BYTES_PER_PARAMETER}[precision]
    needed, available = each * parameter_count(checkpoint.folder), available_bytes()
    if needed > available:
        raise NoGolden(
            f"{checkpoint.model.name} is too large here for a {precision} golden: it needs {needed / 2**30:.3g} GiB, and "
            f"{available / 2**30:.3g} GiB are free: measure on a machine with more memory"
        )


def available_bytes() -> int:
    """The memory that goldens may take: what is free, and no more than ``$TLBENCH_GOLDEN_MEMORY``.

    Raises:
        BadInput: if that is no number.
    """
    import psutil

    free = int(psutil.virtual_memory().available)
    limit = os.environ.get(MEMORY_VARIABLE, "")
    if limit and not limit.isdigit():
        raise BadInput(f"invalid {MEMORY_VARIABLE}={limit!r}: expected a number of bytes, such as 8000000000")
    return min(free, int(limit)) if limit else free


def parameter_count(folder: Path) -> int:
    """How many parameters the safetensors of a folder hold, read from their headers."""
    from math import prod

    from safetensors import safe_open

    count = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            count += sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return count


def _of_one_function(folder: Path, wanted: Sequence[Weights]) -> list[list[Weights]]:
    """The wanted weights, those that rounding leaves as they are in the file together."""
    unchanged = [weights for weights in wanted if weights is Weights.ORIGINAL or changes_no_weight(folder, Dtype(weights))]
    rounded = [[weights] for weights in wanted if weights not in unchanged]
    return ([unchanged] if unchanged else []) + rounded


def changes_no_weight(folder: Path, dtype: Dtype) -> bool:
    """Whether a dtype has every number that a folder's safetensors may hold, read from their headers."""
    from safetensors import safe_open

    found = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            found |= {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    return found <= HOLDS[dtype]


def _write(checkpoint: Checkpoint, same: Sequence[Weights], found: Golden) -> None:
    """Store one golden for all the weights whose it is."""
    tensors = {"logits": found.logits, "rotary": found.rotary, "margins": found.margins}
    first = store_path(checkpoint, same[0], found.precision)
    store.write(first, tensors, {**_provenance(checkpoint, same[0]), "precision": found.precision})
    for weights in same[1:]:
        provenance = {**_provenance(checkpoint, weights), "precision": found.precision}
        store.write_again(store_path(checkpoint, weights, found.precision), first, provenance)


def _write_reason(checkpoint: Checkpoint, weights: Weights, reason: str) -> None:
    provenance = {**_provenance(checkpoint, weights), "reason": reason}
    store.write(store_path(checkpoint, weights), {"nothing": torch.zeros(0)}, provenance)


def _provenance(checkpoint: Checkpoint, weights: Weights) -> dict[str, str]:
    return {
        "model": checkpoint.model.name,
        "checkpoint": checkpoint.sha256,
        "weights": weights.value,
        "torch": torch.__version__,
        "transformers": version("transformers"),
        **arithmetic.key(),
    }


def compute_missing(precision: str, names: Sequence[str]) -> None:
    """Compute the goldens of several models where they are missing.

    Raises:
        CellFailed: if there is none of the first.
    """
    compute_each(names, lambda checkpoint: compute(checkpoint, Precision(precision)))
