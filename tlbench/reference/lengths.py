"""Golden logits over a long context at selected positions, and HuggingFace's own error at each length.

Later tokens do not change a causal model's logits, so one golden pass over the longest context serves every length.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from tlbench import arithmetic, checkpoints
from tlbench.checkpoints import Checkpoint
from tlbench.environments import reference_python
from tlbench.exceptions import CellFailed, NoGolden, NotGolden
from tlbench.grid import Attention, Dtype
from tlbench.metrics.figures import root_mean_square
from tlbench.metrics.hf_error import centred
from tlbench.reference import golden, huggingface
from tlbench.reference import tensor_store as store
from tlbench.reference.blocked import can_be_blocked, in_blocks
from tlbench.reference.elsewhere import read_or_compute
from tlbench.reference.float64 import assert_true_float64, true_float64
from tlbench.reference.golden import Precision, Weights

LONGEST_WITHOUT_LIMIT = 256
"""The longest context measured for an architecture that does not set one (ALiBi)."""
LONGEST_NAMES = ("max_position_embeddings", "n_positions")
PER_OCTAVE = 16
"""Number of positions measured in each octave [2**k, 2**(k+1))."""
BESIDE_AN_EDGE = 4
"""Number of further positions on either side of 2**k, where windows end and tables are extended."""
MOST_IN_16_BITS = 2e11
"""Most parameters times tokens to run in 16 bits: about a minute on two cores without 16-bit arithmetic. The limit depends
on the model and not on the clock, so every machine measures the same lengths."""
CHECKED_TOKENS = 32
SCORES_AT_ONCE = 4
"""Tensors as large as a layer's attention scores that are in memory at once: raw, masked, after softmax, and one spare."""
MASKS_AT_ONCE = 3
"""The same for blocked attention, as large as one head's scores: the full mask, the sliding-window mask, and one spare."""


@dataclass(frozen=True)
class Context:
    """Golden logits over a long context.

    Attributes:
        logits: float64 logits at ``positions``, ``[position, d_vocab]``.
        positions: the measured positions, ascending.
        lengths: the lengths to measure, doubling.
        stopped: why the lengths stop short of the longest context; empty if they do not.
    """

    logits: Tensor
    positions: list[int]
    lengths: list[int]
    stopped: str = ""

    def errors(self, logits: Tensor, length: int) -> dict[int, float]:
        """The rms error of the centred ``logits [pos, d_vocab]``, in nats, at each measured position within a length."""
        inside = [position for position in self.positions if position < length]
        z = centred(logits[inside].cpu())
        d_vocab = min(z.shape[-1], self.logits.shape[-1])
        error = z[..., :d_vocab] - centred(self.logits[: len(inside)][..., :d_vocab])
        return dict(zip(inside, error.square().mean(-1).sqrt().tolist(), strict=True))


@dataclass(frozen=True)
class Lengths:
    """A model's errors by length, in nats.

    Attributes:
        errors: rms error by length.
        positions: rms error by position, at the longest length that was run.
        stopped: why longer lengths were not run; empty if all were.
    """

    errors: dict[int, float]
    positions: dict[int, float]
    stopped: str


def longest(folder: Path) -> int:
    """The longest context that a checkpoint's configuration allows."""
    config = json.loads((folder / "config.json").read_text())
    return int(next((config[name] for name in LONGEST_NAMES if config.get(name)), LONGEST_WITHOUT_LIMIT))


def edges(folder: Path) -> dict[str, int]:
    """The first positions, by name, where a checkpoint's error may change.

    ``window``: from here a token no longer sees all earlier ones. ``table_end``: the last positions of a learned table.
    """
    config = json.loads((folder / "config.json").read_text())
    first_positions = {}
    windowed = config.get("use_sliding_window", True)
    if window := (windowed and config.get("sliding_window")) or config.get("window_size"):
        first_positions["window"] = int(window)
    rotary = any(name.startswith(("rope_", "rotary_")) for name in config)
    if not rotary and any(name in config for name in LONGEST_NAMES):
        first_positions["table_end"] = max(longest(folder) - BESIDE_AN_EDGE, 0)
    return first_positions


def require_memory(folder: Path, length: int, *, blocked: bool) -> None:
    """Check that the float64 attention scores over a length fit in memory. ``blocked``: attention runs in blocks of queries.

    Raises:
        NoGolden: if they do not fit, with the sizes. There is no fallback to a shorter length, because a figure must not
            depend on how much memory happens to be free.
    """
    config = json.loads((folder / "config.json").read_text())
    heads = next(config[name] for name in ("num_attention_heads", "n_head", "num_heads") if config.get(name))
    needed = (MASKS_AT_ONCE if blocked else SCORES_AT_ONCE * heads) * 8 * length**2
    if needed > (available := golden.available_bytes()):
        sizes = f"{needed / 2**30:.2f} GiB in float64 and {available / 2**30:.2f} GiB are free"
        raise NoGolden(f"{length} tokens need {sizes}; use a machine with more memory")


def long_ids(checkpoint: Checkpoint, length: int) -> Tensor:
    """One sequence ``[1, pos]``: the natural-text prompts, concatenated and repeated."""
    text = torch.tensor([token for row in checkpoint.prompts.natural for token in row], dtype=torch.long)
    return text.repeat(-(-length // len(text)))[None, :length]


def positions_of(length: int) -> list[int]:
    """The positions to measure, ascending: up to :data:`PER_OCTAVE` per octave, evenly spaced to its last, and the edges."""
    positions: set[int] = set()
    for start in (2**k for k in range(length.bit_length())):
        stop = min(2 * start, length + 1)
        n = min(PER_OCTAVE, stop - start)
        positions |= {stop - 2 - (i * (stop - start)) // n for i in range(n)}
        positions |= set(range(max(start - BESIDE_AN_EDGE, 0), min(start + BESIDE_AN_EDGE, length)))
    return sorted(positions | set(range(max(length - BESIDE_AN_EDGE, 0), length)))


def context(checkpoint: Checkpoint, dtype: Dtype) -> Context:
    """Read the golden logits over the longest context from the store. Compute them first if they are missing.

    Raises:
        NoGolden: if the model does not fit in memory, or cannot be evaluated in true float64.
    """
    length = longest(checkpoint.folder)
    path = huggingface.result_path("context", checkpoint, dtype, __name__)

    def check() -> None:
        golden.require_memory(checkpoint, Precision.FLOAT64)
        require_memory(checkpoint.folder, length, blocked=True)

    request = (reference_python(Path(sys.executable)), compute_missing, "exact", dtype.value, checkpoint.model.name)
    what = f"golden logits of {checkpoint.model.name} over {length} tokens"
    stored = read_or_compute(path, "context.lock", *request, what=what, check=check)
    if reason := stored.provenance.get("reason"):
        raise NoGolden(reason)
    positions = stored.tensors["positions"].tolist()
    doubling = [2**k for k in range(length.bit_length()) if 2**k <= positions[-1] + 1]
    lengths = _lengths_at(checkpoint, doubling, dtype)
    stopped = "" if lengths == doubling else f"{2 * lengths[-1]} tokens would take too long in 16 bits on a CPU"
    return Context(stored.tensors["logits"], positions, lengths, stopped)


def _lengths_at(checkpoint: Checkpoint, lengths: list[int], dtype: Dtype) -> list[int]:
    """The lengths to run at a dtype. In 16 bits a large model skips the longer ones."""
    if dtype is Dtype.FLOAT32:
        return lengths
    most = MOST_IN_16_BITS / checkpoint.parameters
    return [length for length in lengths if length <= most] or lengths[:1]


def huggingface_lengths(checkpoint: Checkpoint, dtype: Dtype) -> Lengths:
    """HuggingFace's own errors by length, with eager attention, computed in a subprocess without TransformerLens.

    Raises what :func:`context` raises, and CellFailed if HuggingFace itself cannot run this checkpoint.
    """
    context(checkpoint, dtype)
    path = huggingface.result_path("context-errors", checkpoint, dtype, __name__, **huggingface.setting(checkpoint))
    request = (Path(sys.executable), compute_missing, "errors", dtype.value, checkpoint.model.name)
    what = f"HuggingFace errors by length of {checkpoint.model.name} in {dtype}"
    stored = read_or_compute(path, "context-errors.lock", *request, what=what)
    errors, positions = (
        {int(n): error.item() for n, error in huggingface.under(kind, stored.tensors).items()}
        for kind in ("length", "position")
    )
    return Lengths(errors, positions, stored.provenance["stopped"])


def measure_lengths(golden_context: Context, ids: Tensor, logits: Callable[[Tensor], Tensor]) -> Lengths:
    """Measure a model's errors at each of the golden's lengths.

    Args:
        ids: token ids of the longest context, ``[1, pos]``.
        logits: the model, from token ids ``[1, pos]`` to logits ``[1, pos, d_vocab]``.

    Raises:
        CellFailed: if memory runs out.
    """
    errors: dict[int, float] = {}
    positions: dict[int, float] = {}
    for length in golden_context.lengths:
        try:
            z = logits(ids[:, :length])[0]
        except (RuntimeError, MemoryError) as error:
            if "memory" not in str(error).lower():
                raise
            raise CellFailed(f"{length} tokens do not fit in memory: use a machine with more memory") from error
        positions = golden_context.errors(z, length)
        errors[length] = root_mean_square(positions.values())
    return Lengths(errors, positions, golden_context.stopped)


def compute_exact(checkpoint: Checkpoint, dtype: Dtype) -> None:
    """Compute and store the golden logits in this process. If that is impossible, store the reason instead."""
    path = huggingface.result_path("context", checkpoint, dtype, __name__)
    if store.read(path) is not None:
        return
    arithmetic.establish()
    torch.set_num_threads(checkpoint.model.threads)
    model = checkpoint.inputs.attached(golden.load_exact(checkpoint.folder, Weights(dtype)))
    length = longest(checkpoint.folder)
    require_memory(checkpoint.folder, length, blocked=can_be_blocked(model))
    positions = positions_of(length)
    ids = long_ids(checkpoint, length)
    provenance = {"checkpoint": checkpoint.sha256, "torch": torch.__version__, "transformers": version("transformers")}
    try:
        assert_true_float64(model, ids[:, :CHECKED_TOKENS])
    except NotGolden as error:
        store.write(path, {"nothing": torch.zeros(0)}, {**provenance, "reason": str(error)})
        return
    with torch.inference_mode(), true_float64(), in_blocks(model):
        logits = model(ids, use_cache=False, logits_to_keep=torch.tensor(positions)).logits[0]
    if len(logits) != len(positions):
        logits = logits[positions]
    store.write(path, {"logits": logits.contiguous(), "positions": torch.tensor(positions)}, provenance)


def compute_errors(checkpoint: Checkpoint, dtype: Dtype) -> None:
    """Compute and store HuggingFace's own errors in this process, if they are missing."""
    path = huggingface.result_path("context-errors", checkpoint, dtype, __name__, **huggingface.setting(checkpoint))
    if store.read(path) is not None:
        return
    arithmetic.establish()
    torch.set_num_threads(checkpoint.model.threads)
    golden_context = context(checkpoint, dtype)
    model = checkpoint.inputs.attached(huggingface.load_model(checkpoint.folder, dtype, Attention.EAGER))
    ids = long_ids(checkpoint, golden_context.lengths[-1])
    with torch.inference_mode():
        lengths = measure_lengths(golden_context, ids, lambda prefix: model(prefix, use_cache=False).logits)
    errors = {f"length/{n}": error for n, error in lengths.errors.items()}
    errors |= {f"position/{n}": error for n, error in lengths.positions.items()}
    tensors = {name: torch.tensor(error, dtype=torch.float64) for name, error in errors.items()}
    store.write(path, tensors, {**huggingface.setting(checkpoint), "stopped": lengths.stopped})


def compute_missing(kind: str, dtype: str, name: str) -> None:
    """Compute the missing golden logits (``exact``) or HuggingFace's ``errors`` of the model of this name."""
    compute = {"exact": compute_exact, "errors": compute_errors}[kind]
    compute(checkpoints.named(name), Dtype(dtype))
