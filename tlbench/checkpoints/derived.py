"""Derived folders: read in place of a user's checkpoint folder, with a portable config.json and, if missing, a tokenizer.

All other files are links to the user's. Derived folders are in tlbench's cache, so tlbench never writes to the user's
folder. The name of each has a hash of its source folder and of the files written anew, so it is not reused when the source
moves or :func:`~tlbench.checkpoints.portable.portable_config` changes.

TransformerLens fails to load a model without a tokenizer. tlbench needs none, because prompts.json holds token ids. So a
folder without a tokenizer gets the zoo's byte tokenizer.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlbench.checkpoints import byte_tokenizer
from tlbench.checkpoints.portable import portable_config
from tlbench.exceptions import BadInput
from tlbench.files import folder_written_whole, sha256_of_unchanged, tree_digest
from tlbench.paths import cache_dir

CONFIG = "config.json"
TOKENIZER_NAMES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "tokenizer_config.json")


@dataclass(frozen=True)
class Derived:
    """A folder to read in place of another. It need not exist yet.

    Attributes:
        source: the folder it derives from, which is never written to.
        folder: its path in the cache.
        written: the text of each file written anew, by name.
    """

    source: Path
    folder: Path
    written: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """One hash of the files written anew, with their expected content."""
        return _digest(self.written)

    def make(self) -> None:
        """Create the folder, completely or not at all. Subfolders of the source are skipped: no checkpoint needs them."""
        with folder_written_whole(self.folder) as folder:
            for name, text in self.written.items():
                (folder / name).write_text(text)
            for name in self._linked():
                _link((self.source / name).absolute(), folder / name)

    def is_intact(self) -> bool:
        """Whether it holds the files written anew, every other file of its source, and nothing else."""
        if not self.folder.is_dir():
            return False
        names = {path.name for path in self.folder.iterdir()}
        return names == {*self.written, *self._linked()} and all(map(self.has, names))

    def has(self, name: str) -> bool:
        """Whether a file is as expected: the text written anew, or else the source's own file or a copy of it."""
        path = self.folder / name
        if not path.is_file():
            return False
        if name in self.written:
            return path.read_bytes() == self.written[name].encode()
        source = self.source / name
        return path.samefile(source) or sha256_of_unchanged(path) == sha256_of_unchanged(source)

    def _linked(self) -> set[str]:
        return {path.name for path in self.source.iterdir() if path.is_file()} - {*self.written}


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """The config.json of the model of this ``name``. Raises ``BadInput`` if it is not a JSON object."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise BadInput(f"{name}: invalid JSON in {path} ({error}): restore the file, or save the model again") from error
    if not isinstance(config, dict):
        raise BadInput(f"{name}: {path} is not a JSON object: restore the file, or save the model again")
    return config


def derived(source: Path, name: str) -> Derived | None:
    """The folder to read in place of the one at ``source``, or None if every transformers reads the original alike.

    The model's ``name`` becomes part of the folder's. Raises what :func:`read_config` raises.
    """
    config = read_config(source, name)
    portable = portable_config(config)
    written = {} if portable == config else {CONFIG: json.dumps(portable, indent=1, sort_keys=True) + "\n"}
    if not any((source / tokenizer).is_file() for tokenizer in TOKENIZER_NAMES):
        written |= byte_tokenizer.files()
    if not written:
        return None
    key = tree_digest({"folder": str(source.absolute()), "written": _digest(written)})
    return Derived(source, cache_dir() / "portable" / f"{name}-{key[:12]}", written)


def _digest(written: Mapping[str, str]) -> str:
    return tree_digest({name: hashlib.sha256(text.encode()).hexdigest() for name, text in written.items()})


def _link(source: Path, target: Path) -> None:
    """Link to a file: a symbolic link if the file system supports it, else a hard link, else a copy."""
    for link in (target.symlink_to, target.hardlink_to):
        with suppress(OSError):
            link(source)
            return
    shutil.copyfile(source, target)
