"""HuggingFace's own logits and those of its variants, computed in a subprocess that never imports TransformerLens.

They are computed once per (checkpoint, prompts, dtype, libraries, arithmetic, attention, threads) and stored.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tlbench import arithmetic, checkpoints, device
from tlbench.checkpoints import Checkpoint
from tlbench.checkpoints.inputs import automatic_class, task_of
from tlbench.environments.sources import code_digest, libraries
from tlbench.exceptions import CellFailed
from tlbench.grid import Attention, Dtype
from tlbench.metrics.closeness import Spread
from tlbench.reference import tensor_store as store
from tlbench.reference.elsewhere import read_or_compute
from tlbench.reference.variants import variants

PROMPT_SETS = ("natural", "origin")
LOGITS, VARIANTS = "logits", "variants"
SQUARES, LARGEST = "squares", "largest"


def load_model(folder: Path, dtype: Dtype, attention: Attention = Attention.EAGER, **choices: Any) -> Any:
    """HuggingFace's model from a local folder, in evaluation mode; by default on the CPU. ``choices`` go to
    ``from_pretrained``.

    Raises what :func:`language_model` raises.
    """
    implementation = {} if attention is Attention.DEFAULT else {"attn_implementation": attention.value}
    return language_model(folder, dtype=getattr(torch, dtype), **implementation, **choices)


def placed_model(checkpoint: Checkpoint, dtype: Dtype, attention: Attention) -> Any:
    """A checkpoint's model on the current device, or over several GPUs if one is too small. Raises as :func:`load_model`."""
    place = device.placement(checkpoint, dtype)
    if "device_map" in place:
        return checkpoint.inputs.attached(load_model(checkpoint.folder, dtype, attention, **place))
    return checkpoint.inputs.attached(load_model(checkpoint.folder, dtype, attention)).to(place["device"])


def language_model(folder: Path, **choices: Any) -> Any:
    """Load a language model from a local folder, in evaluation mode. ``choices`` go to ``from_pretrained``.

    Raises:
        CellFailed: if this transformers has no model that does the task for the architecture.
    """
    task = task_of(folder)
    try:
        model = automatic_class(task).from_pretrained(folder, local_files_only=True, use_safetensors=True, **choices)
    except ValueError as error:
        if not str(error).startswith("Unrecognized configuration class"):
            raise
        model_type = json.loads((folder / "config.json").read_text()).get("model_type")
        cause = f"transformers {version('transformers')} has no {task} language model for model type {model_type!r}"
        raise CellFailed(f"cannot measure {folder}: {cause}") from None
    return model.eval()


def tokens(checkpoint: Checkpoint, prompt_set: str) -> Tensor:
    """The token ids ``[batch, pos]`` of a prompt set."""
    return torch.tensor(getattr(checkpoint.prompts, prompt_set), dtype=torch.long)


def reference_logits(checkpoint: Checkpoint, dtype: Dtype, attention: Attention = Attention.EAGER) -> dict[str, Tensor]:
    """Read HuggingFace's logits ``[batch, pos, d_vocab]`` by prompt set. Compute them first if they are missing.

    Raises:
        CellFailed: if HuggingFace itself cannot run this checkpoint.
    """
    return _read_or_compute(checkpoint, dtype, attention, LOGITS)


def reference_variants(checkpoint: Checkpoint, dtype: Dtype) -> dict[str, Spread]:
    """Read or compute each variant's distance from the logits with eager attention. Raises as :func:`reference_logits`."""
    stored = _read_or_compute(checkpoint, dtype, Attention.EAGER, VARIANTS)
    largest = under(LARGEST, stored)
    return {name: Spread(squares, largest[name].item()) for name, squares in under(SQUARES, stored).items()}


def under(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors stored as ``kind/name``, by name."""
    return {name.removeprefix(f"{kind}/"): value for name, value in tensors.items() if name.startswith(f"{kind}/")}


def store_path(checkpoint: Checkpoint, dtype: Dtype, attention: Attention, what: str = LOGITS) -> Path:
    """Path of the ``logits`` or of the ``variants``' distances, named by everything that determines them."""
    folder = {LOGITS: "references", VARIANTS: "variants"}[what]
    return result_path(folder, checkpoint, dtype, __name__, attention=attention.value, **setting(checkpoint))


def result_path(folder: str, checkpoint: Checkpoint, dtype: Dtype, module: str, **more: str) -> Path:
    """Path of a result, named by checkpoint, dtype, arithmetic, the code behind ``module``, and ``more``."""
    key = {"checkpoint": checkpoint.sha256, "dtype": dtype.value, "code": code_digest(module), **arithmetic.key(), **more}
    return store.path_of(folder, checkpoint.model.name, key)


def setting(checkpoint: Checkpoint) -> dict[str, str]:
    """Everything, apart from the weights, the dtype and the code, that determines what HuggingFace computes."""
    threads = str(checkpoint.model.threads)
    return {**libraries("torch", "transformers"), **arithmetic.key(), "device": device.current(), "threads": threads}


def compute(checkpoint: Checkpoint, dtype: Dtype, attention: Attention, what: str = LOGITS) -> None:
    """Compute and store, in this process, HuggingFace's ``logits`` of every prompt set or its ``variants``' distances.

    In float32 with eager attention it computes both from one load, because the check of HuggingFace itself needs both.

    Raises:
        CellFailed: if this process has imported TransformerLens, because references are never computed beside the code under
            test, or if it computes in the wrong arithmetic.
    """
    if "transformer_lens" in sys.modules:
        raise CellFailed("cannot compute a reference in a process that has TransformerLens imported")
    arithmetic.establish()
    both = dtype is Dtype.FLOAT32 and attention is Attention.EAGER
    paths = {kind: store_path(checkpoint, dtype, attention, kind) for kind in (LOGITS, VARIANTS)}
    missing = [kind for kind, path in paths.items() if (kind == what or both) and store.read(path) is None]
    if not missing:
        return
    torch.set_num_threads(checkpoint.model.threads)
    model = placed_model(checkpoint, dtype, attention)
    with torch.inference_mode():
        if LOGITS in missing:
            logits = {name: _run(model, tokens(checkpoint, name)) for name in PROMPT_SETS}
            store.write(paths[LOGITS], logits, setting(checkpoint))
        if VARIANTS in missing:
            tensors = {}
            for name, distance in variants(lambda ids: _run(model, ids), tokens(checkpoint, "natural")).items():
                tensors[f"{SQUARES}/{name}"] = distance.squares
                tensors[f"{LARGEST}/{name}"] = torch.tensor(distance.largest).double()
            store.write(paths[VARIANTS], tensors, setting(checkpoint))


def _run(model: Any, ids: Tensor) -> Tensor:
    logits: Tensor = model(ids.to(device.current()), use_cache=False).logits
    return logits.contiguous().cpu()


def _read_or_compute(checkpoint: Checkpoint, dtype: Dtype, attention: Attention, what: str) -> dict[str, Tensor]:
    request = (Path(sys.executable), compute_missing, what, attention.value, dtype.value, checkpoint.model.name)
    path = store_path(checkpoint, dtype, attention, what)
    content = f"HuggingFace {what} of {checkpoint.model.name} in {dtype}"
    return read_or_compute(path, f"references-{attention}.lock", *request, what=content).tensors


def compute_missing(what: str, attention: str, dtype: str, name: str) -> None:
    """Compute the missing ``logits`` or ``variants`` of the model of this name."""
    compute(checkpoints.named(name), Dtype(dtype), Attention(attention), what)


def compute_ahead(dtypes: Sequence[str], name: str) -> None:
    """Compute what cells of these dtypes will read; float32 too, in which HuggingFace itself is checked."""
    for dtype in dict.fromkeys([*dtypes, Dtype.FLOAT32.value]):
        compute_missing(LOGITS, Attention.EAGER.value, dtype, name)
