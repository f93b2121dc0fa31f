"""The model that a command names: in the catalogue, on the Hub, or in a local folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tlbench import catalogue as catalogues
from tlbench.catalogue import CATALOGUE_VARIABLE, Catalogue, Source
from tlbench.checkpoints import Checkpoint, ensure
from tlbench.exceptions import BadInput, CheckpointUnavailable, choices
from tlbench.files import locked, written_whole
from tlbench.paths import cache_dir

THREADS = 2


@contextmanager
def prepared(
    name: str, hooked_name: str = "", say: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[Checkpoint, Catalogue]]:
    """The checkpoint of a model, and the catalogue in use within the block, which has it.

    A folder, or a branch on the Hub, may have changed since the last run, so pins and token ids are made anew. Two runs of
    the same model wait for each other, so that neither deletes files that the other reads.

    Args:
        name: a catalogue name, a folder with config.json and safetensors, or a Hub repo id.
        hooked_name: the official model name to use for HookedTransformer's architecture.
        say: receives a short progress message at each step.

    Raises:
        BadInput: if the name is none of these, or not a checkpoint.
        CheckpointUnavailable: if it is a Hub model and the Hub cannot be reached.
    """
    catalogue = catalogues.load()
    if name in catalogue.known_names():
        if hooked_name:
            raise BadInput(
                f"--hooked-name {hooked_name} is for a folder or a Hub repo id, and {name} is in {catalogue.path}: leave it "
                "out, or change the entry's hooked_name"
            )
        yield ensure(catalogue.get(name), catalogue, say), catalogue
        return
    entry = _entry(name, catalogue) | ({"hooked_name": hooked_name} if hooked_name else {})
    say("waiting for any other run of this model")
    with locked(cache_dir() / "locks" / f"subject-{entry['name']}.lock"), _in_use(entry) as catalogue:
        (model,) = catalogue.models
        try:
            checkpoint = ensure(model, catalogue, say)
        except CheckpointUnavailable as error:
            raise CheckpointUnavailable(f"{error}; and there is no folder {Path(name).absolute()}") from error
        yield checkpoint, catalogue


@contextmanager
def _in_use(entry: dict[str, str]) -> Iterator[Catalogue]:
    """A catalogue of this entry alone, in use within the block."""
    path = cache_dir() / "subjects" / entry["name"] / "models.toml"
    shutil.rmtree(path.parent, ignore_errors=True)
    shutil.rmtree(cache_dir() / "prompts" / entry["name"], ignore_errors=True)
    with written_whole(path) as temporary:
        fields = [f"{key} = {_toml(value)}" for key, value in {**entry, "threads": THREADS}.items()]
        temporary.write_text("\n".join(["[[model]]", *fields, ""]), encoding="utf-8")
    before = os.environ.get(CATALOGUE_VARIABLE)
    os.environ[CATALOGUE_VARIABLE] = str(path)
    try:
        yield catalogues.load(path)
    finally:
        if before is None:
            del os.environ[CATALOGUE_VARIABLE]
        else:
            os.environ[CATALOGUE_VARIABLE] = before


def _toml(value: object) -> str:
    """A value as TOML, which is JSON but for characters beyond 16 bits, that it does not escape in halves, and for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _entry(name: str, catalogue: Catalogue) -> dict[str, str]:
    folder = Path(name).expanduser().resolve()
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"the path {str(folder)!r} is not UTF-8, which transformers needs: rename it") from error
    if folder.is_file():
        raise BadInput(f"{name} is a file: name its folder, with config.json and safetensors")
    if folder.is_dir():
        digest = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
        return {"name": f"{_plain(folder.name)}-{digest}", "source": Source.LOCAL.value, "path": str(folder)}
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not name.startswith((".", "/")):
        return {"name": _plain(name), "source": Source.HUB.value, "repo": name}
    raise BadInput(
        f"no model {name!r}: not in {catalogue.path}, not a local folder, not a Hub repo id: "
        f"{choices(name, catalogue.known_names())}, or name a folder with config.json and safetensors"
    )


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name) or "model"
