"""HuggingFace's own logits, computed in a process that never imports TransformerLens.

They are computed once for each (checkpoint, prompts, dtype, transformers version, torch version, attention, threads)
and kept; ``python -m tlbench.reference.huggingface`` is the process that computes them.
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

from tlbench import device
from tlbench.catalogue import Source
from tlbench.cells import Attention, Dtype
from tlbench.checkpoints import Checkpoint
from tlbench.exceptions import CellFailed
from tlbench.reference import store
from tlbench.reference.several import compute_each, zoo_with

PROMPT_SETS = ("natural", "origin")
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


def store_path(checkpoint: Checkpoint, dtype: Dtype, attention: Attention) -> Path:
    """Where the logits lie: a file named by everything that decides them."""
    key = {
        "checkpoint": checkpoint.sha256,
        "dtype": dtype.value,
        "attention": attention.value,
        "threads": checkpoint.model.threads,
        **versions(),
    }
    return store.path_of("references", checkpoint.model.name, key)


def compute(checkpoint: Checkpoint, dtype: Dtype, attention: Attention) -> None:
    """Compute and store the logits of every prompt set in this process.

    Raises:
        CellFailed: if TransformerLens is imported here: a reference is never made beside the code under test.
    """
    if "transformer_lens" in sys.modules:
        raise CellFailed("a reference was about to be computed in a process that has TransformerLens imported")
    path = store_path(checkpoint, dtype, attention)
    if store.read(path) is not None:
        return
    torch.set_num_threads(checkpoint.model.threads)
    model = load_model(checkpoint.folder, dtype, attention).to(device.current())
    with torch.inference_mode():
        logits = {name: _run(model, tokens(checkpoint, name)) for name in PROMPT_SETS}
    store.write(path, logits, versions())


def _run(model: Any, ids: Tensor) -> Tensor:
    logits: Tensor = model(ids.to(device.current()), use_cache=False).logits
    return logits.contiguous().cpu()


def versions() -> dict[str, str]:
    """Everything but the model that decides what HuggingFace computes."""
    return {
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": device.current(),
    }


def _compute_in_own_process(checkpoint: Checkpoint, dtype: Dtype, attention: Attention) -> None:
    dtypes = list(Dtype) if checkpoint.model.source is Source.ZOO else [dtype]
    arguments = [attention.value, ",".join(dtypes), *zoo_with(checkpoint)]
    doing = f"computing HuggingFace's logits of {checkpoint.model.name}"
    store.run_apart(sys.executable, "tlbench.reference.huggingface", arguments, doing)


def main(arguments: Sequence[str]) -> int:
    """``ATTENTION DTYPE[,DTYPE...] MODEL...``: compute what is missing; a model that fails does not stop the others."""
    attention, dtypes, names = Attention(arguments[0]), arguments[1].split(","), arguments[2:]

    def compute_every(checkpoint: Checkpoint) -> None:
        for dtype in dtypes:
            compute(checkpoint, Dtype(dtype), attention)

    return compute_each(names, compute_every)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
