"""Folders that differ from a user's own in config.json alone: the portable one, beside links to all other files.

They lie in tlbench's cache, so that the user's folder is never written. Each is named by the folder it derives from and by
its config.json, so that neither a change of the one nor of :func:`~tlbench.checkpoints.portable.portable_config` meets an
older one's links.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tlbench.checkpoints.portable import portable_config
from tlbench.exceptions import BadInput
from tlbench.files import folder_written_whole, sha256_of_unchanged, tree_digest
from tlbench.paths import cache_dir

CONFIG = "config.json"


@dataclass(frozen=True)
class Derived:
    """A folder to be read in place of another; it need not be there yet.

    Attributes:
        source: the folder it derives from, which is only read.
        folder: where it lies in the cache.
        config: the whole text of its config.json.
    """

    source: Path
    folder: Path
    config: str

    @property
    def config_sha256(self) -> str:
        """The SHA-256 of its config.json as it has to be."""
        return hashlib.sha256(self.config.encode()).hexdigest()

    def make(self) -> None:
        """Write it, whole or not at all. A name of the source that is no file is left out: no checkpoint needs one.

        Raises:
            BadInput: if the disk refuses.
        """
        with folder_written_whole(self.folder) as folder:
            (folder / CONFIG).write_text(self.config)
            for name in self._linked():
                _link((self.source / name).absolute(), folder / name)

    def is_intact(self) -> bool:
        """Whether it has the right config.json, every other file of its source, and nothing else."""
        if not self.folder.is_dir():
            return False
        names = {path.name for path in self.folder.iterdir()}
        return names == {CONFIG, *self._linked()} and all(map(self.has, names))

    def has(self, name: str) -> bool:
        """Whether a file is what it has to be: the portable config.json, or the source's own file or a copy of it."""
        path = self.folder / name
        if not path.is_file():
            return False
        if name == CONFIG:
            return path.read_bytes() == self.config.encode()
        source = self.source / name
        return path.samefile(source) or sha256_of_unchanged(path) == sha256_of_unchanged(source)

    def _linked(self) -> set[str]:
        return {path.name for path in self.source.iterdir() if path.is_file()} - {CONFIG}


def derived(source: Path, name: str) -> Derived | None:
    """What is to be read in place of a checkpoint's folder; None where that itself is read alike everywhere.

    Args:
        source: a folder with a config.json.
        name: the model's, for the folder's name.

    Raises:
        BadInput: if config.json is not a JSON object.
    """
    path = source / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise BadInput(f"{name}: {path} is not JSON ({error}): restore it, or save the model again") from error
    if not isinstance(config, dict):
        raise BadInput(f"{name}: {path} holds no JSON object: restore it, or save the model again")
    portable = portable_config(config)
    if portable == config:
        return None
    text = json.dumps(portable, indent=1, sort_keys=True) + "\n"
    key = tree_digest({"folder": str(source.absolute()), "config": hashlib.sha256(text.encode()).hexdigest()})
    return Derived(source, cache_dir() / "portable" / f"{name}-{key[:12]}", text)


def _link(source: Path, target: Path) -> None:
    """A link to a file, symbolic if the file system has them, else hard, else a copy."""
    try:
        target.symlink_to(source)
    except OSError:
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
