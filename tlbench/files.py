"""Files that are whole or absent: hashes, atomic writes and locks between processes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import filelock

from tlbench.exceptions import BadInput

CHUNK_BYTES = 1 << 20
SETTLED_S = 2.0
"""Far longer than a tick of any clock that files are stamped by."""


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of_unchanged(path: Path) -> str:
    """The same, computed once by a process and its forks for as long as nothing writes to the file.

    The kernel moves a file's ctime at every write to it, and no call sets it back; so the same inode of the same size
    with the same ctime and mtime holds the same bytes. A ctime is as coarse as the kernel's clock: of a file that was
    written in the last seconds nothing is kept.
    """
    state = path.stat()
    if abs(time.time() - state.st_ctime) < SETTLED_S:
        return sha256_of(path)
    return _sha256_of_state(path, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@lru_cache(maxsize=1024)
def _sha256_of_state(path: Path, *_: int) -> str:
    return sha256_of(path)


def tree_digest(files: dict[str, str]) -> str:
    """One SHA-256 for a set of files, from each relative name and the hash of its bytes."""
    return hashlib.sha256(canonical_json(files).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON that is the same text for the same value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target`` that takes its place only if the block succeeds.

    Raises:
        BadInput: if the folder cannot be written or the disk is full, saying which and what to set.
    """
    with _speaking_of(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with _speaking_of(target):
            yield temporary
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(target: Path, value: Any) -> None:
    """Write ``value`` as sorted, indented JSON, whole or not at all."""
    with written_whole(target) as path:
        path.write_text(json.dumps(value, sort_keys=True, indent=1) + "\n")


@contextmanager
def folder_written_whole(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its place only if the block succeeds.

    Raises:
        BadInput: if the folder cannot be written or the disk is full, saying which and what to set.
    """
    with _speaking_of(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with _speaking_of(target):
            yield temporary
            if target.exists():
                shutil.rmtree(target)
            os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock ``path`` between processes and threads; it is released when a process dies."""
    with _speaking_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _speaking_of(path: Path) -> Iterator[None]:
    """Turn the disk's refusals into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BadInput(
                f"no space left to write {path}: free some, or set TLBENCH_CACHE to a folder on a larger disk"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
            raise BadInput(
                f"cannot write {path} ({error.strerror}): make the folder writable, or set TLBENCH_CACHE to one that is"
            ) from error
        raise
