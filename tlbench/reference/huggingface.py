"""HuggingFace's own logits and those of its variants, computed in a process that never imports TransformerLens.

They are computed once for each (checkpoint, prompts, dtype, libraries, arithmetic, attention, threads) and kept.
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
from tlbench.reference.several import compute_each, compute_elsewhere, zoo_with
from tlbench.reference.variants import DEFAULT_ATTENTION, variants

PROMPT_SETS = ("natural", "origin")
LOGITS, VARIANTS = "logits", "variants"
SQUARES, LARGEST = "squares", "largest"
Logits = dict[str, Tensor]
"""Prompt set to logits ``[batch, pos, d_vocab]``."""


def load_model(folder: Path, dtype: Dtype, attention: Attention = Attention.EAGER) -> Any:
    """HuggingFace's model from a local folder, on the CPU, in evaluation mode."""
    implementation = {} if attention is Attention.DEFAULT else {"attn_implementation": attention.value}
    return causal_lm(folder, dtype=getattr(torch, dtype), **implementation)


def causal_lm(folder: Path, **choices: Any) -> Any:
    """transformers' model of a local folder, in evaluation mode.

    Raises:
        CellFailed: if this transformers has no causal language model of that architecture.
    """
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True, **choices)
    except ValueError as error:
        if not str(error).startswith("Unrecognized configuration class"):
            raise
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
        raise CellFailed(
            f"{folder} holds a model of type {kind!r}, of which transformers {version('transformers')} has no causal "
            "language model: only those can be measured"
        ) from None
    return model.eval()


def tokens(checkpoint: Checkpoint, prompt_set: str) -> Tensor:
    """The token ids ``[batch, pos]`` of a prompt set."""
    return torch.tensor(getattr(checkpoint.prompts, prompt_set), dtype=torch.long)


def reference_logits(checkpoint: Checkpoint, dtype: Dtype, attention: Attention = Attention.EAGER) -> Logits:
    """HuggingFace's logits for a checkpoint, from the store, computed first where they are missing.

    A whole zoo is computed by one process, since importing transformers costs more than all its forwards.

    Raises:
        CellFailed: if HuggingFace itself cannot run this checkpoint.
    """
    path = store_path(checkpoint, dtype, attention)
    lock = f"references-{attention}.lock"
    kept = store.read_or_make(path, lock, lambda: _compute_in_own_process(checkpoint, dtype, attention))
    if kept is None:
        raise CellFailed(f"HuggingFace's logits of {checkpoint.model.name} in {dtype} were not stored at {path}")
    return kept.tensors


def reference_variants(checkpoint: Checkpoint, dtype: Dtype) -> dict[str, Spread]:
    """How far HuggingFace's variants are from its logits with eager attention, by variant, from the store.

    Raises:
        CellFailed: if HuggingFace itself cannot run this checkpoint.
    """
    path = variants_path(checkpoint, dtype)
    lock = f"references-{Attention.EAGER}.lock"
    kept = store.read_or_make(path, lock, lambda: _compute_in_own_process(checkpoint, dtype, Attention.EAGER, VARIANTS))
    if kept is None:
        raise CellFailed(f"the variants of HuggingFace's {checkpoint.model.name} in {dtype} were not stored at {path}")
    names = [name.removeprefix(f"{SQUARES}/") for name in kept.tensors if name.startswith(SQUARES)]
    found = {name: Spread(kept.tensors[f"{SQUARES}/{name}"], kept.tensors[f"{LARGEST}/{name}"].item()) for name in names}
    if dtype is Dtype.FLOAT32:
        return found  # where reversed sums are an independent rounding, another model need not be run
    eager, default = (reference_logits(checkpoint, dtype, kind)["natural"] for kind in Attention)
    return {**found, DEFAULT_ATTENTION: spread(default, eager)}


def store_path(checkpoint: Checkpoint, dtype: Dtype, attention: Attention) -> Path:
    """Where the logits lie: a file named by everything that decides them."""
    return store.path_of("references", checkpoint.model.name, {**_key(checkpoint, dtype), "attention": attention.value})


def variants_path(checkpoint: Checkpoint, dtype: Dtype) -> Path:
    """Where the variants' distances lie."""
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
    """Compute and store the logits of every prompt set in this process, or what HuggingFace's variants differ by.

    In float32 both are made of one load, since whether HuggingFace itself is right is then asked too.

    Raises:
        CellFailed: if TransformerLens is imported here: a reference is never made beside the code under test. Or if this
            process computes in another arithmetic than it should.
    """
    if "transformer_lens" in sys.modules:
        raise CellFailed("a reference was about to be computed in a process that has TransformerLens imported")
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
            found = variants(lambda ids: _run(model, ids), tokens(checkpoint, "natural"))
            kept = {f"{SQUARES}/{name}": of_one.squares for name, of_one in found.items()}
            kept |= {f"{LARGEST}/{name}": torch.tensor(of_one.largest).double() for name, of_one in found.items()}
            store.write(paths[VARIANTS], kept, versions())


def _run(model: Any, ids: Tensor) -> Tensor:
    logits: Tensor = model(ids.to(device.current()), use_cache=False).logits
    return logits.contiguous().cpu()


def versions() -> dict[str, str]:
    """Everything but the model and the code that decides what HuggingFace computes."""
    return {**libraries("torch", "transformers"), **arithmetic.key(), "device": device.current()}


def _compute_in_own_process(checkpoint: Checkpoint, dtype: Dtype, attention: Attention, what: str = LOGITS) -> None:
    dtypes = list(Dtype) if checkpoint.model.source is Source.ZOO else [dtype]
    arguments = (what, attention.value, [dtype.value for dtype in dtypes], zoo_with(checkpoint))
    doing = f"computing HuggingFace's logits of {checkpoint.model.name}"
    compute_elsewhere(Path(sys.executable), compute_missing, *arguments, doing=doing)


def compute_missing(what: str, attention: str, dtypes: Sequence[str], names: Sequence[str]) -> None:
    """Compute ``logits`` or ``variants`` of several models in several dtypes, where they are missing.

    Raises:
        CellFailed: if HuggingFace cannot run the first.
    """

    def compute_every(checkpoint: Checkpoint) -> None:
        for dtype in dtypes:
            compute(checkpoint, Dtype(dtype), Attention(attention), what)

    compute_each(names, compute_every)
