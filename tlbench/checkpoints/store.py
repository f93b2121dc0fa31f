"""Checkpoints on disk: each in a folder of its own, addressed and pinned by the SHA-256 of its content.

``locate`` is what a measurement uses: it only reads and verifies, so that nothing is ever made in the environment under
test. ``ensure`` is what ``tlbench checkpoints`` uses: it makes or fetches what is missing.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tlbench.catalogue import Catalogue, Model, Source
from tlbench.checkpoints import prompts as prompt_sets
from tlbench.checkpoints.derived import CONFIG, TOKENIZER_NAMES, Derived, derived
from tlbench.exceptions import BadInput, CheckpointUnavailable
from tlbench.files import (
    folder_written_whole,
    locked,
    sha256_of,
    sha256_of_unchanged,
    tree_digest,
    write_json,
    written_whole,
)
from tlbench.paths import cache_dir
from tlbench.spans import Category, span

HUB_PROBE_TIMEOUT_S = 0.8
WEIGHT_SUFFIX = ".safetensors"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
DERIVED = "derived files"
"""The pin of what is read in place of the folder's own files, or for want of them, where there is any."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint.

    Attributes:
        model: its catalogue entry.
        folder: where config.json, the safetensors and the tokenizer lie. Where the config.json that a user or the hub has is
            not read alike by every transformers, or there is no tokenizer, it is a folder in the cache that has them, with
            links to the other files.
        sha256: one hash of all its files' names and bytes, prompts included.
        prompts: its token ids.
    """

    model: Model
    folder: Path
    sha256: str
    prompts: prompt_sets.Prompts

    @property
    def has_experts(self) -> bool:
        """Whether its configuration is that of a mixture of experts."""
        config = json.loads((self.folder / "config.json").read_text())
        return any(config.get(name) for name in ("num_local_experts", "num_experts", "n_routed_experts"))


Pins = dict[str, dict[str, str]]
"""Model name to file name to SHA-256."""


def read_pins(catalogue: Catalogue) -> Pins:
    """The lock file's content; empty where there is none.

    Raises:
        BadInput: if the file is not what this module writes.
    """
    path = catalogue.lock_path
    if not path.exists():
        return {}
    try:
        pins = json.loads(path.read_text())
        return {name: {str(k): str(v) for k, v in files.items()} for name, files in pins.items()}
    except (ValueError, AttributeError) as error:
        raise BadInput(f"{path} is damaged ({error}): restore it from version control") from error


def locate(model: Model, catalogue: Catalogue) -> Checkpoint:
    """The model's checkpoint, every byte verified against its pin, once a process and its forks unless a file changed.

    Raises:
        CheckpointUnavailable: if it is a hub model that is not in this machine's HuggingFace cache.
        BadInput: if it was never made, is not pinned, or differs from its pin in as little as one bit.
    """
    with span(Category.VERIFY):
        pins = read_pins(catalogue).get(model.name)
        folder = _folder(model, pins)
        prompts_file = _prompts_file(model, folder)
        if not pins:
            raise BadInput(
                f"{model.name} has no entry in {catalogue.lock_path}: run `tlbench checkpoints {model.name}` to pin it"
            )
        _verify(model, folder, prompts_file, pins)
        portable = _portable(model, folder)
        _verify_portable(model, portable, pins)
        read = portable.folder if portable else folder
        return Checkpoint(model, read, tree_digest(pins), prompt_sets.load(prompts_file))


def ensure(model: Model, catalogue: Catalogue, say: Callable[[str], None] = lambda _: None) -> Checkpoint:
    """The model's checkpoint, made or fetched if it is not there. Safe to interrupt and to run twice at once.

    Args:
        model: the catalogue entry.
        catalogue: where it stands; a model without a pin is pinned in its lock file.
        say: told in a few words what is being done.

    Raises:
        CheckpointUnavailable: if it is a hub model and the hub cannot be reached.
        BadInput: if a local folder is not a checkpoint, the disk refuses, or what was made differs from its pin.
    """
    with locked(cache_dir() / "locks" / f"{model.name}.lock"):
        pins = read_pins(catalogue).get(model.name)
        if model.source in (Source.ZOO, Source.PYPI):
            folder = _made_folder(model, pins)
            if folder is None or not _is_intact(model, folder, pins or {}):
                say("making")
                folder = _make(model, pins, say)
        else:
            if model.source is Source.HUB:
                say("fetching")
                folder = _fetch(model)
            else:
                folder = _folder(model, pins)
            _require_safetensors(model, folder)
            if not _prompts_file(model, folder).exists():
                say("tokenizing")
                _write_prompts(model, folder)
        if pins:
            # Before anything is derived from them.
            _verify(model, folder, _prompts_file(model, folder), pins)
        portable = _portable(model, folder)
        if portable and not portable.is_intact():
            say("translating config.json")
            portable.make()
        if pins is None or pins.get(DERIVED) != _portable_pin(portable).get(DERIVED):
            say("pinning")
            files = pins or hashes(model, folder, _prompts_file(model, folder))
            _pin(model, catalogue, _of_user(files) | _portable_pin(portable))
        say("verifying")
        return locate(model, catalogue)


def hashes(model: Model, folder: Path, prompts_file: Path) -> dict[str, str]:
    """The SHA-256 of every file that decides a figure: configuration, weights, tokenizer, prompts."""
    files = {
        path.name: sha256_of(path)
        for path in sorted(folder.iterdir())
        if path.name == "config.json" or path.suffix == WEIGHT_SUFFIX or path.name in TOKENIZER_NAMES
    }
    files[prompt_sets.FILE_NAME] = sha256_of(prompts_file)
    return files


# Where things lie ----------------------------------------------------------------------------------------------------


def _folder(model: Model, pins: Mapping[str, str] | None) -> Path:
    if model.source is Source.HUB:
        return _hub_snapshot(model)
    if model.source is Source.LOCAL:
        folder = Path(model.path)
        if not folder.is_dir():
            raise BadInput(f"{model.name}: there is no folder {folder}: correct `path` in the catalogue")
        return folder
    folder_or_none = _made_folder(model, pins)
    if folder_or_none is None:
        raise BadInput(
            f"the checkpoint {model.name} has not been made on this machine: run `tlbench checkpoints {model.name}`"
        )
    return folder_or_none


def _made_folder(model: Model, pins: Mapping[str, str] | None) -> Path | None:
    """The folder of a checkpoint that tlbench makes, named by its content, if it exists."""
    if not pins:
        return None
    folder = _content_folder(model, pins)
    return folder if folder.is_dir() else None


def _content_folder(model: Model, files: Mapping[str, str]) -> Path:
    return cache_dir() / "checkpoints" / f"{model.name}-{tree_digest(dict(files))[:12]}"


def _portable(model: Model, folder: Path) -> Derived | None:
    """What is read in place of a folder that tlbench did not make; its own are portable as they are."""
    return None if model.source in (Source.ZOO, Source.PYPI) else derived(folder, model.name)


def _prompts_file(model: Model, folder: Path) -> Path:
    """Beside the weights; for folders that are not tlbench's own, in tlbench's cache."""
    own = folder / prompt_sets.FILE_NAME
    if own.exists() or model.source in (Source.ZOO, Source.PYPI):
        return own
    return cache_dir() / "prompts" / model.name / prompt_sets.FILE_NAME


# Verifying -----------------------------------------------------------------------------------------------------------


def _verify(model: Model, folder: Path, prompts_file: Path, pins: Mapping[str, str]) -> None:
    _require_safetensors(model, folder)
    for name, expected in _of_user(pins).items():
        path = prompts_file if name == prompt_sets.FILE_NAME else folder / name
        if not path.is_file():
            raise BadInput(f"{model.name}: {path} is missing: run `tlbench checkpoints {model.name}` to restore it")
        found = sha256_of_unchanged(path)
        if found != expected:
            raise BadInput(
                f"{model.name}: {path} has SHA-256 {found[:16]}… and is pinned as {expected[:16]}…: it is truncated or "
                f"altered; delete the folder and run `tlbench checkpoints {model.name}`"
            )


def _verify_portable(model: Model, portable: Derived | None, pins: Mapping[str, str]) -> None:
    """Prove that what is read in place of the folder is its translation, and its files the verified ones."""
    again = f"run `tlbench checkpoints {model.name}`"
    if _portable_pin(portable).get(DERIVED) != pins.get(DERIVED):
        raise BadInput(f"{model.name}: what is read in place of the folder's own files is not what was pinned: {again}")
    for name in _names_read(pins) if portable else ():
        if portable and not portable.has(name):
            raise BadInput(f"{model.name}: {portable.folder / name} is missing or altered: {again} to restore it")


def _names_read(pins: Mapping[str, str]) -> set[str]:
    """The pinned files that transformers reads; the prompts are read from where they lie."""
    return {*_of_user(pins), CONFIG} - {prompt_sets.FILE_NAME}


def _of_user(pins: Mapping[str, str]) -> dict[str, str]:
    """The pins of the folder's own files."""
    return {name: digest for name, digest in pins.items() if name != DERIVED}


def _portable_pin(portable: Derived | None) -> dict[str, str]:
    return {DERIVED: portable.sha256} if portable else {}


def _is_intact(model: Model, folder: Path, pins: Mapping[str, str]) -> bool:
    try:
        _verify(model, folder, folder / prompt_sets.FILE_NAME, pins)
    except BadInput:
        return False
    return True


def _require_safetensors(model: Model, folder: Path) -> None:
    names = [path.name for path in folder.iterdir()]
    if "config.json" not in names:
        raise BadInput(f"{model.name}: {folder} has no config.json: it is not a HuggingFace checkpoint")
    if not any(name.endswith(WEIGHT_SUFFIX) for name in names):
        pickles = [name for name in names if name.endswith(PICKLE_SUFFIXES)]
        found = f"only the pickle {pickles[0]}" if pickles else "no weights"
        raise BadInput(
            f"{model.name}: {folder} holds {found}: tlbench reads safetensors only, since loading a pickle runs code; "
            "save the model with `save_pretrained(..., safe_serialization=True)`"
        )


def _pin(model: Model, catalogue: Catalogue, files: dict[str, str]) -> None:
    with locked(cache_dir() / "locks" / "pins.lock"):
        pins = read_pins(catalogue)
        pins[model.name] = files
        write_json(catalogue.lock_path, pins)


# Making --------------------------------------------------------------------------------------------------------------


def _make(model: Model, pins: Mapping[str, str] | None, say: Callable[[str], None]) -> Path:
    from tlbench.checkpoints import making

    staging = cache_dir() / "checkpoints" / f"{model.name}-new"
    with folder_written_whole(staging) as folder:
        if model.source is Source.ZOO:
            making.make_zoo(model, folder)
        else:
            making.make_from_gguf(model, folder, say)
        made = hashes(model, folder, folder / prompt_sets.FILE_NAME)
        if pins and made != dict(pins):
            differing = sorted(name for name in made.keys() | pins.keys() if made.get(name) != pins.get(name))
            raise BadInput(
                f"{model.name}: what was made differs from its pin in {', '.join(differing)}: the packages installed "
                "are not the locked ones (requirements.lock), or the recipe changed without a new pin"
            )
    target = _content_folder(model, made)
    if target.exists():
        shutil.rmtree(target)
    return staging.rename(target)


def _write_prompts(model: Model, folder: Path) -> None:
    from tlbench.checkpoints import making

    text = prompt_sets.to_json(making.tokenized_prompts(model, folder))
    with written_whole(_prompts_file(model, folder)) as path:
        path.write_text(text)


# The hub -------------------------------------------------------------------------------------------------------------


def _hub_snapshot(model: Model) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model.repo, revision=model.revision, local_files_only=True))
    except HFValidationError as error:
        raise BadInput(f"{model.name}: repo {model.repo!r} is not a hub name: {error}") from error
    except LocalEntryNotFoundError as error:
        raise CheckpointUnavailable(
            f"{model.name}: {model.repo} is not in this machine's HuggingFace cache: run `tlbench checkpoints "
            f"{model.name}` where the hub can be reached"
        ) from error


def _fetch(model: Model) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        return _hub_snapshot(model)
    except CheckpointUnavailable:
        _require_hub(model)
    try:
        patterns = ["config.json", f"*{WEIGHT_SUFFIX}", "*.safetensors.index.json", *TOKENIZER_NAMES]
        return Path(huggingface_hub.snapshot_download(model.repo, revision=model.revision, allow_patterns=patterns))
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise CheckpointUnavailable(
            f"{model.name}: the hub does not give {model.repo} to this account: accept its licence there and set HF_TOKEN"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointUnavailable(f"{model.name}: fetching {model.repo} failed: {error}") from error


def _require_hub(model: Model) -> None:
    """Find out within a second whether the hub can be reached."""
    from urllib.parse import urlparse

    from huggingface_hub import constants

    host = urlparse(constants.ENDPOINT).hostname or ""
    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
    if not reason:
        try:
            socket.create_connection((host, 443), timeout=HUB_PROBE_TIMEOUT_S).close()
        except OSError as error:
            reason = f"no connection ({error})"
    if reason:
        raise CheckpointUnavailable(
            f"{model.name}: {model.repo} is not in the HuggingFace cache and the hub cannot be reached: {reason}"
        )
