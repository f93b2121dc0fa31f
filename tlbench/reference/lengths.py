"""The exact logits over a long context, at chosen positions, and how far HuggingFace's own are from them at each length.

A causal model's logits at a position depend on what comes before it only, so one exact forward pass over the longest context
serves every length.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tlbench import arithmetic
from tlbench.checkpoints import Checkpoint
from tlbench.environments import reference_python
from tlbench.environments.sources import code_digest
from tlbench.exceptions import CellFailed, NoGolden, NotGolden
from tlbench.grid import Attention, Dtype
from tlbench.metrics.figures import root_mean_square
from tlbench.metrics.hf_error import centred
from tlbench.reference import golden, huggingface
from tlbench.reference import tensor_store as store
from tlbench.reference.blocked import can_be_blocked, in_blocks
from tlbench.reference.float64 import assert_true_float64, true_float64
from tlbench.reference.golden import Precision, Weights
from tlbench.reference.several import compute_each, compute_elsewhere, zoo_with

LONGEST_WITHOUT_LIMIT = 256
"""For an architecture that names no longest context (ALiBi)."""
LONGEST_NAMES = ("max_position_embeddings", "n_positions")
PER_OCTAVE = 16
"""How many positions of [2**k, 2**(k+1)) are looked at."""
BESIDE_AN_EDGE = 4
"""And how many on either side of 2**k, where windows end and tables are made longer."""
MOST_IN_16_BITS = 2e11
"""Parameters times tokens beyond which a length is not run in 16 bits: a minute on two cores without 16-bit arithmetic. The
rule knows the model and not the clock, so that every machine measures the same lengths."""
CHECKED_TOKENS = 32
SCORES_AT_ONCE = 4
"""Tensors of the size of a layer's attention scores that are in memory at once: raw, masked, as a softmax, and room."""
MASKS_AT_ONCE = 3
"""And of one head's, where the scores are never whole: the masks of full and of windowed attention, and room."""


@dataclass(frozen=True)
class Context:
    """A long context.

    Attributes:
        logits: the exact ones at ``positions``, float64 ``[position, d_vocab]``.
        positions: the positions, ascending.
        lengths: the lengths to measure, doubling.
        stopped: why they do not reach the longest context; empty where they do.
    """

    logits: Tensor
    positions: list[int]
    lengths: list[int]
    stopped: str = ""

    def errors(self, logits: Tensor, length: int) -> dict[int, float]:
        """The rms error of the centred logits at each position of a length that is looked at. Nats.

        Args:
            logits: of one sequence, ``[pos, d_vocab]``.
            length: its length.
        """
        inside = [i for i, position in enumerate(self.positions) if position < length]
        z = centred(logits[[self.positions[i] for i in inside]].cpu())
        d_vocab = min(z.shape[-1], self.logits.shape[-1])
        error = z[..., :d_vocab] - centred(self.logits[inside][..., :d_vocab])
        return dict(zip((self.positions[i] for i in inside), error.square().mean(-1).sqrt().tolist(), strict=True))


@dataclass(frozen=True)
class Lengths:
    """Errors by length.

    Attributes:
        errors: the rms error by length.
        positions: at the longest that was run, by position.
        stopped: why longer ones were not run; empty where all were.
    """

    errors: dict[int, float]
    positions: dict[int, float]
    stopped: str


def longest(folder: Path) -> int:
    """The longest context that a checkpoint's configuration names."""
    config = json.loads((folder / "config.json").read_text())
    found = next((config[name] for name in LONGEST_NAMES if config.get(name)), None)
    return int(found or LONGEST_WITHOUT_LIMIT)


def edges(folder: Path) -> dict[str, int]:
    """Where along the sequence to look at a checkpoint's error, by what is there: the first position.

    ``window``: a token no longer sees all that come before it. ``table_end``: the last positions of a learned table.
    """
    config = json.loads((folder / "config.json").read_text())
    found = {}
    windowed = config.get("use_sliding_window", True)
    if window := (windowed and config.get("sliding_window")) or config.get("window_size"):
        found["window"] = int(window)
    rotary = any(name.startswith(("rope_", "rotary_")) for name in config)
    if not rotary and any(name in config for name in LONGEST_NAMES):
        found["table_end"] = max(longest(folder) - BESIDE_AN_EDGE, 0)
    return found


def require_memory(folder: Path, length: int, *, blocked: bool) -> None:
    """Make sure that the attention scores of so many tokens fit in memory in float64.

    Args:
        folder: of the checkpoint.
        length: in tokens.
        blocked: whether attention is computed some queries at a time.

    Raises:
        NoGolden: if they do not, with the sizes. Nothing shorter is taken instead: a figure must not depend on what memory
            happens to be free.
    """
    config = json.loads((folder / "config.json").read_text())
    heads = next(config[name] for name in ("num_attention_heads", "n_head", "num_heads") if config.get(name))
    needed = (MASKS_AT_ONCE if blocked else SCORES_AT_ONCE * heads) * 8 * length**2
    if needed > (available := golden.available_bytes()):
        raise NoGolden(
            f"{length} tokens need {needed / 2**30:.2f} GiB in float64, and {available / 2**30:.2f} GiB are free: "
            "measure on a machine with more memory"
        )


def long_ids(checkpoint: Checkpoint, length: int) -> Tensor:
    """One sequence ``[1, pos]``: the natural-text prompts one after another, again and again."""
    text = torch.tensor([token for row in checkpoint.prompts.natural for token in row], dtype=torch.long)
    return text.repeat(-(-length // len(text)))[None, :length]


def positions_of(length: int) -> list[int]:
    """Positions, ascending: :data:`PER_OCTAVE` evenly spaced in each octave, the last of each among them, and the edges."""
    found: set[int] = set()
    start = 1
    while start <= length:
        stop = min(2 * start, length + 1)
        n = min(PER_OCTAVE, stop - start)
        found |= {stop - 2 - (i * (stop - start)) // n for i in range(n)}
        found |= set(range(max(start - BESIDE_AN_EDGE, 0), min(start + BESIDE_AN_EDGE, length)))
        start *= 2
    return sorted(found | set(range(max(length - BESIDE_AN_EDGE, 0), length)))


def context(checkpoint: Checkpoint, dtype: Dtype) -> Context:
    """The exact logits over the longest context, from the store, computed first where they are missing.

    Raises:
        NoGolden: if the model is too large, or cannot be evaluated in true float64.
    """
    length = longest(checkpoint.folder)
    path = _path("context", checkpoint, dtype)

    def make() -> None:
        golden.require_memory(checkpoint, Precision.FLOAT64)
        require_memory(checkpoint.folder, length, blocked=True)
        doing = f"computing {checkpoint.model.name} over {length} tokens exactly"
        compute_elsewhere(reference_python(), compute_missing, "exact", dtype.value, zoo_with(checkpoint), doing=doing)

    kept = store.read_or_make(path, "context.lock", make)
    if kept is None:
        raise NoGolden(f"the exact logits of {checkpoint.model.name} over {length} tokens were not stored at {path}")
    if reason := kept.provenance.get("reason"):
        raise NoGolden(reason)
    positions = kept.tensors["positions"].tolist()
    every = [2**k for k in range(length.bit_length()) if 2**k <= positions[-1] + 1]
    lengths = _lengths_at(checkpoint, every, dtype)
    stopped = "" if lengths == every else f"{2 * lengths[-1]} tokens take too long in 16 bits on a CPU"
    return Context(kept.tensors["logits"], positions, lengths, stopped)


def _lengths_at(checkpoint: Checkpoint, lengths: list[int], dtype: Dtype) -> list[int]:
    """The lengths that are run at a dtype: in 16 bits the shorter ones of a large model."""
    if dtype is Dtype.FLOAT32:
        return lengths
    most = MOST_IN_16_BITS / golden.parameter_count(checkpoint.folder)
    return [length for length in lengths if length <= most] or lengths[:1]


def huggingface_lengths(checkpoint: Checkpoint, dtype: Dtype) -> Lengths:
    """HuggingFace's own errors by length, with eager attention, computed in a process without TransformerLens.

    Raises:
        NoGolden: if there is no exact answer.
        CellFailed: if HuggingFace itself cannot run this checkpoint.
    """
    context(checkpoint, dtype)
    path = _path("context-errors", checkpoint, dtype, **_setting(checkpoint))

    def make() -> None:
        doing = f"computing HuggingFace's errors by length of {checkpoint.model.name}"
        compute_elsewhere(Path(sys.executable), compute_missing, "errors", dtype.value, zoo_with(checkpoint), doing=doing)

    kept = store.read_or_make(path, "context-errors.lock", make)
    if kept is None:
        raise CellFailed(f"HuggingFace's errors by length of {checkpoint.model.name} in {dtype} were not stored at {path}")
    by_kind: dict[str, dict[int, float]] = {"length": {}, "position": {}}
    for name, value in kept.tensors.items():
        kind, _, number = name.partition("/")
        by_kind[kind][int(number)] = value.item()
    return Lengths(by_kind["length"], by_kind["position"], kept.provenance["stopped"])


def measure_lengths(found: Context, ids: Tensor, logits: Callable[[Tensor], Tensor]) -> Lengths:
    """The errors of a model at each length.

    Args:
        found: the exact logits, and which lengths.
        ids: the longest context ``[1, pos]``.
        logits: the model, from ``[1, pos]`` to ``[1, pos, d_vocab]``.

    Raises:
        CellFailed: if memory runs out.
    """
    errors: dict[int, float] = {}
    positions: dict[int, float] = {}
    for length in found.lengths:
        try:
            z = logits(ids[:, :length])[0]
        except (RuntimeError, MemoryError) as error:
            if "memory" not in str(error).lower():
                raise
            raise CellFailed(f"{length} tokens do not fit in memory: measure on a machine with more of it") from error
        positions = found.errors(z, length)
        errors[length] = root_mean_square(positions.values())
    return Lengths(errors, positions, found.stopped)


def compute_exact(checkpoint: Checkpoint, dtype: Dtype) -> None:
    """Compute and store the exact logits in this process. Where there can be none, the reason is stored."""
    path = _path("context", checkpoint, dtype)
    if store.read(path) is not None:
        return
    arithmetic.establish()
    torch.set_num_threads(checkpoint.model.threads)
    model = golden.load_exact(checkpoint.folder, Weights(dtype))
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
    """Compute and store HuggingFace's own errors in this process."""
    path = _path("context-errors", checkpoint, dtype, **_setting(checkpoint))
    if store.read(path) is not None:
        return
    arithmetic.establish()
    torch.set_num_threads(checkpoint.model.threads)
    found = context(checkpoint, dtype)
    model = huggingface.load_model(checkpoint.folder, dtype, Attention.EAGER)

    def logits(ids: Tensor) -> Tensor:
        with torch.inference_mode():
            z: Tensor = model(ids, use_cache=False).logits
        return z

    lengths = measure_lengths(found, long_ids(checkpoint, found.lengths[-1]), logits)
    kept = {f"length/{n}": torch.tensor(error, dtype=torch.float64) for n, error in lengths.errors.items()}
    kept |= {f"position/{n}": torch.tensor(error, dtype=torch.float64) for n, error in lengths.positions.items()}
    store.write(path, kept, {**_setting(checkpoint), "stopped": lengths.stopped})


def _path(folder: str, checkpoint: Checkpoint, dtype: Dtype, **more: Any) -> Path:
    key = {"checkpoint": checkpoint.sha256, "dtype": dtype.value, **arithmetic.key(), **more}
    key["code"] = code_digest("tlbench.reference.lengths")
    return store.path_of(folder, checkpoint.model.name, key)


def _setting(checkpoint: Checkpoint) -> dict[str, str]:
    return {**huggingface.versions(), "threads": str(checkpoint.model.threads)}


def compute_missing(kind: str, dtype: str, names: Sequence[str]) -> None:
    """Compute what is ``exact``, or HuggingFace's ``errors``, of several models, where it is missing.

    Raises:
        CellFailed: if it cannot be computed of the first.
    """
    compute = {"exact": compute_exact, "errors": compute_errors}[kind]
    compute_each(names, lambda checkpoint: compute(checkpoint, Dtype(dtype)))
