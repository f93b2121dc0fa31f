"""Stored tensors: safetensors files with their provenance, verified by SHA-256 before they are read."""

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
    """The content of a stored file.

    Attributes:
        tensors: the tensors by name.
        provenance: what the file was computed from and with which versions; after reading, also its ``sha256``.
    """

    tensors: dict[str, Tensor]
    provenance: dict[str, str]


def path_of(folder: str, model: str, key: Mapping[str, Any]) -> Path:
    """The path of a file, named by everything that determines its content."""
    name = hashlib.sha256(canonical_json(dict(key)).encode()).hexdigest()[:24]
    return cache_dir() / folder / f"{model}-{name}.safetensors"


def write(path: Path, tensors: dict[str, Tensor], provenance: Mapping[str, str]) -> None:
    """Write tensors and their provenance, each completely or not at all.

    Raises:
        BadInput: if the disk is full or not writable.
    """
    from safetensors.torch import save_file

    with written_whole(path) as temporary:
        save_file(tensors, temporary)
        digest = sha256_of(temporary)
    write_json(_provenance_path(path), {**provenance, "sha256": digest})


def write_again(path: Path, written: Path, provenance: Mapping[str, str]) -> None:
    """Store the file that :func:`write` just wrote under a second name, with its own provenance.

    The second name is a hard link if the file system allows it, so neither disk nor page cache holds the data twice.

    Raises:
        BadInput: if the disk is full or not writable.
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
    """Read a stored file, or return None if it is missing or damaged.

    Nothing is copied: safetensors maps the file into memory, so its pages are page cache, which the kernel can drop when
    memory is short. The file is hashed in chunks, and only again after something has written to it.
    """
    from safetensors.torch import load_file

    try:
        provenance = json.loads(_provenance_path(path).read_text())
        intact = path.is_file() and sha256_of_unchanged(path) == provenance["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Kept(load_file(path), provenance) if intact else None


def read_or_make(path: Path, lock: str, make: Callable[[], None]) -> Kept | None:
    """Read a stored file. If it is missing or damaged, call ``make`` first, in one process at a time.

    Args:
        path: the file.
        lock: the name of the lock to hold while making the file.
        make: writes the file.

    Returns:
        The content, or None if ``make`` did not write the file.
    """
    with span(Category.READ):
        stored = read(path)
        if stored is None:
            with locked(cache_dir() / "locks" / lock):
                stored = read(path)
                if stored is None:
                    if is_damaged(path):
                        print(f"tlbench: {path} is damaged: computing it again", file=sys.stderr)
                    make()
                    stored = read(path)
        return stored


def is_damaged(path: Path) -> bool:
    """Whether the file exists but :func:`read` rejects it."""
    return path.exists() and _provenance_path(path).exists() and read(path) is None


def _provenance_path(path: Path) -> Path:
    return path.with_suffix(".json")
