"""Folders that stand in for a user's own: a config.json that every transformers reads, a tokenizer where there is none.

The other files are links. Such folders lie in tlbench's cache, so that the user's is never written. Each is named by the
folder it derives from and by what is written anew, so that neither a change of the one nor of
:func:`~tlbench.checkpoints.portable.portable_config` meets an older one's links.

TransformerLens loads a tokenizer with every model and fails where there is none, though no figure here needs one: token ids
stand in prompts.json. So a folder without one is given the zoo's, of bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tlbench.checkpoints import byte_tokenizer
from tlbench.checkpoints.portable import portable_config
from tlbench.exceptions import BadInput
from tlbench.files import folder_written_whole, sha256_of_unchanged, tree_digest
from tlbench.paths import cache_dir

CONFIG = "config.json"
TOKENIZER_NAMES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "tokenizer_config.json")


@dataclass(frozen=True)
class Derived:
    """A folder to be read in place of another; it need not be there yet.

    Attributes:
        source: the folder it derives from, which is only read.
        folder: where it lies in the cache.
        written: the whole text of each file that is not the source's, by name.
    """

    source: Path
    folder: Path
    written: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """One hash of all that is written, as it has to be."""
        return _digest(self.written)

    def make(self) -> None:
        """Write it, whole or not at all. A name of the source that is no file is left out: no checkpoint needs one.

        Raises:
            BadInput: if the disk refuses.
        """
        with folder_written_whole(self.folder) as folder:
            for name, text in self.written.items():
                (folder / name).write_text(text)
            for name in self._linked():
                _link((self.source / name).absolute(), folder / name)

    def is_intact(self) -> bool:
        """Whether it has what is written anew, every other file of its source, and nothing else."""
        if not self.folder.is_dir():
            return False
        names = {path.name for path in self.folder.iterdir()}
        return names == {*self.written, *self._linked()} and all(map(self.has, names))

    def has(self, name: str) -> bool:
        """Whether a file is what it has to be: what is written anew, or the source's own file or a copy of it."""
        path = self.folder / name
        if not path.is_file():
            return False
        if name in self.written:
            return path.read_bytes() == self.written[name].encode()
        source = self.source / name
        return path.samefile(source) or sha256_of_unchanged(path) == sha256_of_unchanged(source)

    def _linked(self) -> set[str]:
        return {path.name for path in self.source.iterdir() if path.is_file()} - {*self.written}


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
    """A link to a file, symbolic if the file system has them, else hard, else a copy."""
    try:
        target.symlink_to(source)
    except OSError:
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
