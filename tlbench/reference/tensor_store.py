"""Kept tensors: each file verified by its SHA-256 before it is read, with a note of how it was made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tlbench.files import canonical_json, locked, sha256_of, sha256_of_unchanged, write_json, written_whole
from tlbench.paths import cache_dir
from tlbench.spans import Category, span


@dataclass(frozen=True)
class Kept:
    """What a file holds.

    Attributes:
        tensors: by name.
        provenance: which versions made it, on what, and when read, its ``sha256``.
    """

    tensors: dict[str, Tensor]
    provenance: dict[str, str]


def path_of(folder: str, model: str, key: Mapping[str, Any]) -> Path:
    """A file named by everything that decides its content."""
    name = hashlib.sha256(canonical_json(dict(key)).encode()).hexdigest()[:24]
    return cache_dir() / folder / f"{model}-{name}.safetensors"


def write(path: Path, tensors: dict[str, Tensor], provenance: Mapping[str, str]) -> None:
    """Write tensors and their provenance, each whole or not at all.

    Raises:
        BadInput: if the disk refuses.
    """
    from safetensors.torch import save_file

    with written_whole(path) as temporary:
        save_file(tensors, temporary)
        digest = sha256_of(temporary)
    write_json(_provenance_path(path), {**provenance, "sha256": digest})


def write_again(path: Path, written: Path, provenance: Mapping[str, str]) -> None:
    """Keep what :func:`write` just wrote under a second name, with a provenance of its own.

    The two names share one file where the file system can, so that neither the disk nor the page cache holds it twice.

    Raises:
        BadInput: if the disk refuses.
    """
    with written_whole(path) as temporary:
        temporary.unlink()
        try:
            os.link(written, temporary)
        except OSError:
            shutil.copyfile(written, temporary)
        digest = sha256_of(temporary)
    write_json(_provenance_path(path), {**provenance, "sha256": digest})


def read(path: Path) -> Kept | None:
    """The tensors, or None where they are missing or damaged.

    They are not loaded: safetensors maps the file into memory, so that what is read of them is page cache, which the kernel
    drops when memory is short. The hash is taken in pieces, and not again while nothing writes to the file.
    """
    from safetensors.torch import load_file

    try:
        provenance = json.loads(_provenance_path(path).read_text())
        intact = path.is_file() and sha256_of_unchanged(path) == provenance["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Kept(load_file(path), provenance) if intact else None


def read_or_make(path: Path, lock: str, make: Callable[[], None]) -> Kept | None:
    """The tensors; where they are missing or damaged, ``make`` is called first, by one process at a time.

    Args:
        path: the file.
        lock: the name of the lock that those hold who make such files.
        make: writes the file, if it can be had.

    Returns:
        None if ``make`` did not write it.
    """
    with span(Category.READ):
        kept = read(path)
        if kept is None:
            with locked(cache_dir() / "locks" / lock):
                kept = read(path)
                if kept is None:
                    if is_damaged(path):
                        print(f"tlbench: {path} is damaged and is computed again", file=sys.stderr)
                    make()
                    kept = read(path)
        return kept


def is_damaged(path: Path) -> bool:
    """Whether a file lies there that :func:`read` refuses."""
    return path.exists() and _provenance_path(path).exists() and read(path) is None


def _provenance_path(path: Path) -> Path:
    return path.with_suffix(".json")
