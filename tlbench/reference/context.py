"""The exact logits over a long context, at chosen positions, and how far HuggingFace's own are from them at each length.

A causal model's logits at a position depend on what comes before it only, so one exact forward pass over the longest context
serves every length. ``python -m tlbench.reference.context`` is the process that computes either.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tlbench.cells import Attention, Dtype
from tlbench.checkpoints import Checkpoint
from tlbench.environments import reference_python
from tlbench.errors import centred
from tlbench.exceptions import CellFailed, NoGolden, NotGolden
from tlbench.reference import golden, huggingface, store
from tlbench.reference.float64 import assert_true_float64, true_float64
from tlbench.reference.golden import Precision, Weights
from tlbench.reference.several import compute_each, zoo_with
from tlbench.truth import rms

METHOD = "1"
"""Raised by hand when what is computed changes, so that files of the old method are not read."""
LONGEST_WITHOUT_LIMIT = 256
"""For an architecture that names no longest context (ALiBi)."""
PER_OCTAVE = 16
"""How many positions of [2**k, 2**(k+1)) are looked at."""
TOO_LONG_S = 60.0
"""A length that would take longer is not run: 16-bit arithmetic on a CPU without it."""
CHECKED_TOKENS = 32
SCORES_AT_ONCE = 4
"""Tensors of the size of a layer's attention scores that are in memory at once: raw, masked, as a softmax, and room."""


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

    def errors(self, logits: Tensor, length: int) -> tuple[float, dict[int, float]]:
        """The rms error of the centred logits over the positions of a length, and by octave of the position. Nats.

        Args:
            logits: of one sequence, ``[pos, d_vocab]``.
            length: its length.
        """
        inside = [i for i, position in enumerate(self.positions) if position < length]
        z = centred(logits[[self.positions[i] for i in inside]].cpu())
        d_vocab = min(z.shape[-1], self.logits.shape[-1])
        error = z[..., :d_vocab] - centred(self.logits[inside][..., :d_vocab])
        octaves: dict[int, list[int]] = {}
        for row, i in enumerate(inside):
            octaves.setdefault((self.positions[i] + 1).bit_length() - 1, []).append(row)
        return rms(error), {octave: rms(error[rows]) for octave, rows in octaves.items()}


@dataclass(frozen=True)
class Lengths:
    """Errors by length.

    Attributes:
        errors: the rms error by length.
        octaves: at the longest that was run, by octave of the position.
        stopped: why longer ones were not run; empty where all were.
    """

    errors: dict[int, float]
    octaves: dict[int, float]
    stopped: str


def longest(folder: Path) -> int:
    """The longest context that a checkpoint's configuration names."""
    config = json.loads((folder / "config.json").read_text())
    found = next((config[name] for name in ("max_position_embeddings", "n_positions") if config.get(name)), None)
    return int(found or LONGEST_WITHOUT_LIMIT)


def fitting(folder: Path, length: int, available_bytes: int | None = None) -> int:
    """The longest context, halved until its attention scores fit in memory in float64.

    Args:
        folder: of the checkpoint.
        length: to begin with.
        available_bytes: the memory that may be used; by default what the machine has free.
    """
    import psutil

    config = json.loads((folder / "config.json").read_text())
    heads = next(config[name] for name in ("num_attention_heads", "n_head", "num_heads") if config.get(name))
    available = int(psutil.virtual_memory().available) if available_bytes is None else available_bytes
    while SCORES_AT_ONCE * 8 * heads * length**2 > available and length > 1:
        length //= 2
    return length


def long_ids(checkpoint: Checkpoint, length: int) -> Tensor:
    """One sequence ``[1, pos]``: the natural-text prompts one after another, again and again."""
    text = torch.tensor([token for row in checkpoint.prompts.natural for token in row], dtype=torch.long)
    return text.repeat(-(-length // len(text)))[None, :length]


def positions_of(length: int) -> list[int]:
    """At most :data:`PER_OCTAVE` positions of each octave, evenly spaced, the last of each among them."""
    found: set[int] = set()
    start = 1
    while start <= length:
        stop = min(2 * start, length + 1)
        n = min(PER_OCTAVE, stop - start)
        found |= {stop - 2 - (i * (stop - start)) // n for i in range(n)}
        start *= 2
    return sorted(found)


def context(checkpoint: Checkpoint, dtype: Dtype) -> Context:
    """The exact logits over the longest context, from the store, computed first where they are missing.

    Raises:
        NoGolden: if the model is too large, or cannot be evaluated in true float64.
    """
    length = longest(checkpoint.folder)
    path = _path("context", checkpoint, dtype)

    def make() -> None:
        if golden.affordable(checkpoint.folder) is not Precision.FLOAT64:
            raise NoGolden(f"{checkpoint.model.name} is too large to be evaluated in float64 here")
        doing = f"computing {checkpoint.model.name} over {length} tokens exactly"
        store.run_apart(
            reference_python(), "tlbench.reference.context", ["exact", dtype.value, *zoo_with(checkpoint)], doing
        )

    kept = store.read_or_make(path, "context.lock", make)
    if kept is None:
        raise NoGolden(f"the exact logits of {checkpoint.model.name} over {length} tokens were not stored at {path}")
    if reason := kept.provenance.get("reason"):
        raise NoGolden(reason)
    positions = kept.tensors["positions"].tolist()
    lengths = [2**k for k in range(length.bit_length()) if 2**k <= positions[-1] + 1]
    too_long = f"{2 * lengths[-1]} tokens do not fit in memory in float64" if 2 * lengths[-1] <= length else ""
    return Context(kept.tensors["logits"], positions, lengths, too_long)


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
        store.run_apart(sys.executable, "tlbench.reference.context", ["errors", dtype.value, *zoo_with(checkpoint)], doing)

    kept = store.read_or_make(path, "context-errors.lock", make)
    if kept is None:
        raise CellFailed(f"HuggingFace's errors by length of {checkpoint.model.name} in {dtype} were not stored at {path}")
    by_kind: dict[str, dict[int, float]] = {"length": {}, "octave": {}}
    for name, value in kept.tensors.items():
        kind, _, number = name.partition("/")
        by_kind[kind][int(number)] = value.item()
    return Lengths(by_kind["length"], by_kind["octave"], kept.provenance["stopped"])


def measure_lengths(found: Context, ids: Tensor, logits: Callable[[Tensor], Tensor]) -> Lengths:
    """The errors of a model at each length, until one would take over :data:`TOO_LONG_S` or memory runs out.

    Args:
        found: the exact logits.
        ids: the longest context ``[1, pos]``.
        logits: the model, from ``[1, pos]`` to ``[1, pos, d_vocab]``.
    """
    errors: dict[int, float] = {}
    octaves: dict[int, float] = {}
    for length in found.lengths:
        started = time.monotonic()
        try:
            z = logits(ids[:, :length])[0]
        except (RuntimeError, MemoryError) as error:
            if not errors or "memory" not in str(error).lower():
                raise
            return Lengths(errors, octaves, f"{length} tokens do not fit in memory")
        errors[length], octaves = found.errors(z, length)
        seconds = time.monotonic() - started
        # Twice the tokens take up to four times as long.
        if length < found.lengths[-1] and 4 * seconds > TOO_LONG_S:
            return Lengths(errors, octaves, f"{2 * length} tokens would take over {TOO_LONG_S:.0f} s here")
    return Lengths(errors, octaves, found.stopped)


def compute_exact(checkpoint: Checkpoint, dtype: Dtype) -> None:
    """Compute and store the exact logits in this process. Where there can be none, the reason is stored."""
    path = _path("context", checkpoint, dtype)
    if store.read(path) is not None:
        return
    torch.set_num_threads(checkpoint.model.threads)
    length = fitting(checkpoint.folder, longest(checkpoint.folder))
    positions = positions_of(length)
    ids = long_ids(checkpoint, length)
    provenance = {"checkpoint": checkpoint.sha256, "torch": torch.__version__, "transformers": version("transformers")}
    model = golden.load_exact(checkpoint.folder, Weights(dtype))
    try:
        assert_true_float64(model, ids[:, :CHECKED_TOKENS])
    except NotGolden as error:
        store.write(path, {"nothing": torch.zeros(0)}, {**provenance, "reason": str(error)})
        return
    with torch.inference_mode(), true_float64():
        logits = model(ids, use_cache=False, logits_to_keep=torch.tensor(positions)).logits[0]
    if len(logits) != len(positions):
        logits = logits[positions]
    store.write(path, {"logits": logits.contiguous(), "positions": torch.tensor(positions)}, provenance)


def compute_errors(checkpoint: Checkpoint, dtype: Dtype) -> None:
    """Compute and store HuggingFace's own errors in this process."""
    path = _path("context-errors", checkpoint, dtype, **_setting(checkpoint))
    if store.read(path) is not None:
        return
    torch.set_num_threads(checkpoint.model.threads)
    found = context(checkpoint, dtype)
    model = huggingface.load_model(checkpoint.folder, dtype, Attention.EAGER)

    def logits(ids: Tensor) -> Tensor:
        with torch.inference_mode():
            z: Tensor = model(ids, use_cache=False).logits
        return z

    lengths = measure_lengths(found, long_ids(checkpoint, found.lengths[-1]), logits)
    kept = {f"length/{n}": torch.tensor(error, dtype=torch.float64) for n, error in lengths.errors.items()}
    kept |= {f"octave/{n}": torch.tensor(error, dtype=torch.float64) for n, error in lengths.octaves.items()}
    store.write(path, kept, {**_setting(checkpoint), "stopped": lengths.stopped})


def _path(folder: str, checkpoint: Checkpoint, dtype: Dtype, **more: Any) -> Path:
    key = {"checkpoint": checkpoint.sha256, "dtype": dtype.value, "method": METHOD, **more}
    return store.path_of(folder, checkpoint.model.name, key)


def _setting(checkpoint: Checkpoint) -> dict[str, str]:
    return {**huggingface.versions(), "threads": str(checkpoint.model.threads)}


def main(arguments: Sequence[str]) -> int:
    """``exact|errors DTYPE MODEL...``: compute what is missing. Only the first model's failure is this process's own."""
    kind, dtype, *names = arguments
    compute = {"exact": compute_exact, "errors": compute_errors}[kind]
    return compute_each(names, lambda checkpoint: compute(checkpoint, Dtype(dtype)))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
