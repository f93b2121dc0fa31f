"""Stored tensors: safetensors files with their provenance, verified by SHA-256 before they are read."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from tlbench.files import canonical_json, locked, sha256_of, sha256_of_unchanged, write_json, written_whole
from tlbench.paths import cache_dir
from tlbench.spans import Category, span


@dataclass(frozen=True)
class Kept:
    """A stored file: tensors by name, and what they were computed from, with which versions, and the file's ``sha256``."""

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
    with written_whole(path) as temporary:
        save_file(tensors, temporary)
        digest = sha256_of(temporary)
    write_json(path.with_suffix(".json"), {**provenance, "sha256": digest})


def write_again(path: Path, written: Path, provenance: Mapping[str, str]) -> None:
    """Store the file that :func:`write` just wrote under a second name, with its own provenance.

    A hard link, where possible, keeps disk and page cache from holding it twice. Raises what :func:`write` raises.
    """
    with written_whole(path) as temporary:
        temporary.unlink()
        try:
            os.link(written, temporary)
        except OSError:
            shutil.copyfile(written, temporary)
        digest = sha256_of(temporary)
    write_json(path.with_suffix(".json"), {**provenance, "sha256": digest})


def read(path: Path) -> Kept | None:
    """Read a stored file, or return None if it is missing or damaged.

    safetensors maps the file, so its pages are page cache, which the kernel can drop when memory is short. It is hashed in
    chunks, and again only after something has written to it.
    """
    try:
        provenance = json.loads(path.with_suffix(".json").read_text())
        intact = path.is_file() and sha256_of_unchanged(path) == provenance["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Kept(load_file(path), provenance) if intact else None


def read_or_make(path: Path, lock: str, make: Callable[[], None]) -> Kept | None:
    """Read a stored file. If it is missing or damaged, call ``make`` first, which one process at a time does.

    ``lock`` names what a machine does one at a time, for memory. Machines that share the cache make different files at
    once. Returns None if ``make`` did not write the file.
    """
    with span(Category.READ):
        if stored := read(path):
            return stored
        locks = cache_dir() / "locks"
        with locked(locks / f"{path.stem}.lock"), locked(locks / f"{platform.node()}-{lock}"):
            if stored := read(path):
                return stored
            if path.exists() and path.with_suffix(".json").exists():
                print(f"tlbench: {path} is damaged: computing it again", file=sys.stderr)
            make()
            return read(path)
