"""HuggingFace's own logits and those of its variants, computed in a subprocess that never imports TransformerLens.

They are computed once per (checkpoint, prompts, dtype, libraries, arithmetic, attention, threads) and stored.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tlbench import arithmetic, device
from tlbench.catalogue import Source
from tlbench.checkpoints import Checkpoint
from tlbench.environments.sources import code_digest, libraries
from tlbench.exceptions import CellFailed
from tlbench.grid import Attention, Dtype
from tlbench.metrics.closeness import Spread, spread
from tlbench.reference import tensor_store as store
from tlbench.reference.several import compute_each, read_or_compute, zoo_with
from tlbench.reference.tensor_store import Kept
from tlbench.reference.variants import DEFAULT_ATTENTION, variants

PROMPT_SETS = ("natural", "origin")
LOGITS, VARIANTS = "logits", "variants"
SQUARES, LARGEST = "squares", "largest"
Logits = dict[str, Tensor]
"""Logits ``[batch, pos, d_vocab]`` by prompt set."""


def load_model(folder: Path, dtype: Dtype, attention: Attention = Attention.EAGER) -> Any:
    """HuggingFace's model from a local folder, on the CPU, in evaluation mode."""
    implementation = {} if attention is Attention.DEFAULT else {"attn_implementation": attention.value}
    return causal_lm(folder, dtype=getattr(torch, dtype), **implementation)


def causal_lm(folder: Path, **choices: Any) -> Any:
    """Load a causal language model from a local folder, in evaluation mode.

    Args:
        folder: the folder.
        choices: further arguments for ``from_pretrained``.

    Raises:
        CellFailed: if this transformers has no causal language model for the architecture.
    """
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True, **choices)
    except ValueError as error:
        if not str(error).startswith("Unrecognized configuration class"):
            raise
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
        raise CellFailed(
            f"cannot measure {folder}: transformers {version('transformers')} has no causal language model for model type "
            f"{kind!r}"
        ) from None
    return model.eval()


def tokens(checkpoint: Checkpoint, prompt_set: str) -> Tensor:
    """The token ids ``[batch, pos]`` of a prompt set."""
    return torch.tensor(getattr(checkpoint.prompts, prompt_set), dtype=torch.long)


def reference_logits(checkpoint: Checkpoint, dtype: Dtype, attention: Attention = Attention.EAGER) -> Logits:
    """Read HuggingFace's logits for a checkpoint from the store. Compute them first if they are missing.

    One subprocess computes the whole zoo, because importing transformers takes longer than all its forward passes.

    Raises:
        CellFailed: if HuggingFace itself cannot run this checkpoint.
    """
    path = store_path(checkpoint, dtype, attention)
    stored = _read_or_compute(path, checkpoint, dtype, attention, LOGITS)
    return stored.tensors


def reference_variants(checkpoint: Checkpoint, dtype: Dtype) -> dict[str, Spread]:
    """The distance of each HuggingFace variant from HuggingFace's logits with eager attention.

    Read from the store; computed first if missing.

    Raises:
        CellFailed: if HuggingFace itself cannot run this checkpoint.
    """
    path = variants_path(checkpoint, dtype)
    stored = _read_or_compute(path, checkpoint, dtype, Attention.EAGER, VARIANTS)
    names = [name.removeprefix(f"{SQUARES}/") for name in stored.tensors if name.startswith(SQUARES)]
    distances = {
        name: Spread(stored.tensors[f"{SQUARES}/{name}"], stored.tensors[f"{LARGEST}/{name}"].item()) for name in names
    }
    if dtype is Dtype.FLOAT32:
        return distances  # here reversed sums suffice, being an independent rounding: skip the other attention
    eager, default = (reference_logits(checkpoint, dtype, kind)["natural"] for kind in Attention)
    return {**distances, DEFAULT_ATTENTION: spread(default, eager)}


def store_path(checkpoint: Checkpoint, dtype: Dtype, attention: Attention) -> Path:
    """Path of the logits, named by everything that determines them."""
    return store.path_of("references", checkpoint.model.name, {**_key(checkpoint, dtype), "attention": attention.value})


def variants_path(checkpoint: Checkpoint, dtype: Dtype) -> Path:
    """Path of the variants' distances."""
    return store.path_of("variants", checkpoint.model.name, _key(checkpoint, dtype))


def _key(checkpoint: Checkpoint, dtype: Dtype) -> dict[str, Any]:
    return {
        "checkpoint": checkpoint.sha256,
        "dtype": dtype.value,
        "threads": checkpoint.model.threads,
        "code": code_digest("tlbench.reference.huggingface"),
        **versions(),
    }


def compute(checkpoint: Checkpoint, dtype: Dtype, attention: Attention, what: str = LOGITS) -> None:
    """Compute and store, in this process, HuggingFace's logits of every prompt set or the distances of its variants.

    In float32 with eager attention it computes both from one load, because the check of HuggingFace itself needs both.

    Args:
        checkpoint: the checkpoint.
        dtype: the dtype to load the model in.
        attention: the attention implementation.
        what: ``logits`` or ``variants``.

    Raises:
        CellFailed: if this process has imported TransformerLens, because references are never computed beside the code under
            test, or if it computes in the wrong arithmetic.
    """
    if "transformer_lens" in sys.modules:
        raise CellFailed("cannot compute a reference in a process that has TransformerLens imported")
    arithmetic.establish()
    both = dtype is Dtype.FLOAT32 and attention is Attention.EAGER
    paths = {LOGITS: store_path(checkpoint, dtype, attention), VARIANTS: variants_path(checkpoint, dtype)}
    missing = [kind for kind, path in paths.items() if (kind == what or both) and store.read(path) is None]
    if not missing:
        return
    torch.set_num_threads(checkpoint.model.threads)
    model = load_model(checkpoint.folder, dtype, attention).to(device.current())
    with torch.inference_mode():
        if LOGITS in missing:
            logits = {name: _run(model, tokens(checkpoint, name)) for name in PROMPT_SETS}
            store.write(paths[LOGITS], logits, versions())
        if VARIANTS in missing:
            distances = variants(lambda ids: _run(model, ids), tokens(checkpoint, "natural"))
            tensors = {f"{SQUARES}/{name}": distance.squares for name, distance in distances.items()}
            tensors |= {f"{LARGEST}/{name}": torch.tensor(distance.largest).double() for name, distance in distances.items()}
            store.write(paths[VARIANTS], tensors, versions())


def _run(model: Any, ids: Tensor) -> Tensor:
    logits: Tensor = model(ids.to(device.current()), use_cache=False).logits
    return logits.contiguous().cpu()


def versions() -> dict[str, str]:
    """Everything, apart from the model and the code, that determines what HuggingFace computes."""
    return {**libraries("torch", "transformers"), **arithmetic.key(), "device": device.current()}


def _read_or_compute(path: Path, checkpoint: Checkpoint, dtype: Dtype, attention: Attention, what: str) -> Kept:
    dtypes = list(Dtype) if checkpoint.model.source is Source.ZOO else [dtype]
    request = (what, attention.value, [each.value for each in dtypes], zoo_with(checkpoint))
    return read_or_compute(
        path,
        f"references-{attention}.lock",
        Path(sys.executable),
        compute_missing,
        *request,
        what=f"HuggingFace {what} of {checkpoint.model.name} in {dtype}",
    )


def compute_missing(what: str, attention: str, dtypes: Sequence[str], names: Sequence[str]) -> None:
    """Compute the missing ``logits`` or ``variants`` of several models in several dtypes.

    Raises:
        CellFailed: if HuggingFace cannot run the first model.
    """

    def compute_every(checkpoint: Checkpoint) -> None:
        for dtype in dtypes:
            compute(checkpoint, Dtype(dtype), Attention(attention), what)

    compute_each(names, compute_every)
