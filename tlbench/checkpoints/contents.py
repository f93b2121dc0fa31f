"""What is in a checkpoint's folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tlbench.checkpoints.derived import CONFIG
from tlbench.exceptions import BadInput

WEIGHT_SUFFIX = ".safetensors"
WEIGHTS, INDEX = f"model{WEIGHT_SUFFIX}", f"model{WEIGHT_SUFFIX}.index.json"
READ_SUFFIXES = (WEIGHT_SUFFIX, ".json", ".jinja", ".model", ".tiktoken", ".txt")
"""transformers reads only such files: configurations, weights and their index, tokenizers and vocabularies."""
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


def require_safetensors(name: str, folder: Path) -> None:
    """Raise ``BadInput`` unless a model's folder has a configuration and all its weights as safetensors."""
    names = {path.name for path in folder.iterdir()}
    if CONFIG not in names:
        raise BadInput(f"{name}: {folder} is not a HuggingFace checkpoint: it has no config.json")
    if not any(each.endswith(WEIGHT_SUFFIX) for each in names):
        raise no_safetensors(name, str(folder), names)
    if missing := _missing_shards(folder):
        raise BadInput(f"{name}: {folder} lacks {missing[0]}, which {INDEX} names: copy or download it again")


def has_weights(folder: Path) -> bool:
    """Whether :func:`require_safetensors` accepts it."""
    try:
        require_safetensors("", folder)
    except BadInput:
        return False
    return True


def no_safetensors(name: str, where: str, names: Iterable[str]) -> BadInput:
    """The error for a model whose folder or repository has these files, and no safetensors."""
    pickles = sorted(each for each in names if each.endswith(PICKLE_SUFFIXES))
    content = f"only the pickle {pickles[0]}" if pickles else "no weights"
    return BadInput(
        f"{name}: {where} holds {content}, but tlbench reads only safetensors, because loading a pickle runs code: save the "
        "model with `save_pretrained(..., safe_serialization=True)`"
    )


def _missing_shards(folder: Path) -> list[str]:
    """The weights that the index names and the folder lacks. transformers reads the index only without a single file."""
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        return []
    try:
        shards = set(json.loads((folder / INDEX).read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"cannot read {folder / INDEX} ({type(error).__name__}): copy or download it again") from error
    return sorted(shard for shard in shards if not (folder / shard).exists())
