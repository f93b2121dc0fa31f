"""File utilities: hashes, atomic writes, and locks between processes."""

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

SETTLED_S = 2.0
"""Much longer than the resolution of any file system's timestamps."""


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_unchanged(path: Path) -> str:
    """The same hash, computed once per process and its forks until something writes to the file.

    The kernel updates a file's ctime at every write, and no call can set it back. So an unchanged inode, size, ctime and
    mtime means unchanged bytes. A ctime is only as fine as the kernel's clock, so a file just written is hashed again.
    """
    state = path.stat()
    if abs(time.time() - state.st_ctime) < SETTLED_S:
        return sha256_of(path)
    return _sha256_of_state(path, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@lru_cache(maxsize=1024)
def _sha256_of_state(path: Path, *_: int) -> str:
    return sha256_of(path)


def tree_digest(files: dict[str, str]) -> str:
    """One SHA-256 for a set of files, from the hash of each by relative name."""
    return hashlib.sha256(canonical_json(files).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values give the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Provide a temporary path beside ``target``, and move it there only if the block succeeds.

    Raises BadInput, with what to change, if the folder is not writable or the disk is full.
    """
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
        try:
            yield Path(name)
            with open(name, "rb") as file:
                os.fsync(file)  # else a crash of the machine may leave the new name without the content
            os.replace(name, target)
        finally:
            Path(name).unlink(missing_ok=True)


def write_json(target: Path, value: Any, *, sort: bool = True) -> None:
    """Write ``value`` as indented JSON, whole or not at all. Sorted keys make the files of equal values equal."""
    with written_whole(target) as path:
        path.write_text(json.dumps(value, sort_keys=sort, indent=1) + "\n")


@contextmanager
def folder_written_whole(target: Path) -> Iterator[Path]:
    """The same with a temporary folder, which replaces the ``target`` folder."""
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield temporary
            if target.exists():
                shutil.rmtree(target)
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` against other processes and threads. It is released even if the process dies."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path).acquire()
    with lock:
        yield


@contextmanager
def disk_errors(path: Path, variable: str = "TLBENCH_CACHE") -> Iterator[None]:
    """Within the block, turn a full or read-only disk into ``BadInput``. The ``variable`` says where ``path`` lies."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = f"free some, or set {variable} to a folder on a larger disk"
            raise BadInput(f"no disk space left to write {path}: {advice}") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
            advice = f"make the folder writable, or set {variable} to one that is"
            raise BadInput(f"cannot write {path} ({error.strerror}): {advice}") from error
        raise
