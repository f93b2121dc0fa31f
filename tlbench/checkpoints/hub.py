"""Checkpoints of the HuggingFace Hub, through HuggingFace's own cache.

huggingface_hub does the work, so ``HF_HOME``, ``HF_ENDPOINT``, ``HF_TOKEN`` and the variables for proxies have their usual
meanings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from tlbench.catalogue import Model
from tlbench.checkpoints.contents import READ_SUFFIXES, WEIGHT_SUFFIX, has_weights, no_safetensors
from tlbench.checkpoints.derived import TOKENIZER_NAMES
from tlbench.exceptions import BadInput, CheckpointUnavailable
from tlbench.files import disk_errors

COMMIT = "commit on the Hub"
"""The key, among a model's pins, of the commit that its files are from. A branch or tag may move."""
TIMEOUT_S = 3.0
"""How long the Hub may take to say what a repository has."""
PATTERNS = {"allow_patterns": [f"*{suffix}" for suffix in READ_SUFFIXES], "ignore_patterns": ["*/*", "consolidated*"]}
"""Not what repositories hold beside a checkpoint: other formats, in folders, and the weights in their original format."""


def snapshot(model: Model, commit: str | None) -> Path:
    """The folder of a snapshot in HuggingFace's cache, of a commit or of the model's revision. Files may be missing.

    Raises:
        CheckpointUnavailable: if it is not there.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model.repo, revision=commit or model.revision, local_files_only=True, **PATTERNS))
    except HFValidationError as error:
        raise BadInput(f"{model.name}: invalid Hub repo id {model.repo!r}: {error}") from error
    except LocalEntryNotFoundError as error:
        raise CheckpointUnavailable(
            f"{model.name}: {_at(model, commit)} is not in this machine's HuggingFace cache: run `tlbench checkpoints "
            f"{model.name}` where the Hub can be reached"
        ) from error


def commit_of(snapshot_folder: Path) -> str:
    """The commit of a snapshot, by which HuggingFace's cache names its folder."""
    return snapshot_folder.name


def fetch(model: Model, needed: Collection[str], commit: str | None, say: Callable[[str], None]) -> Path:
    """The folder of a snapshot in HuggingFace's cache, after what is missing was downloaded.

    Args:
        model: its repository and revision.
        needed: names of the files that it must have; if none is given, weights and a tokenizer. Where the Hub cannot be
            reached, no tokenizer is needed.
        commit: the commit on the Hub; None for that of the model's revision.
        say: receives a short progress message at each step.

    Raises:
        CheckpointUnavailable: if files are missing and the Hub cannot be reached, or does not give them.
        BadInput: if the repository has no safetensors, or the disk is full.
    """
    kept = None
    try:
        kept = snapshot(model, commit)
        if _is_complete(kept, needed):
            return kept
        say("downloading what is missing")
    except CheckpointUnavailable:
        say("downloading")
    try:
        return _download(model, commit)
    except CheckpointUnavailable:
        if kept and not needed and has_weights(kept):
            return kept
        raise


def _is_complete(folder: Path, needed: Collection[str]) -> bool:
    if needed:
        return all((folder / name).exists() for name in needed)
    return has_weights(folder) and any((folder / name).exists() for name in TOKENIZER_NAMES)


def _download(model: Model, commit: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub import constants, errors

    where, revision = _at(model, commit), commit or model.revision
    try:
        if constants.HF_HUB_OFFLINE:
            raise errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
        info: Any = huggingface_hub.HfApi().model_info(model.repo, revision=revision, timeout=TIMEOUT_S)
        names = [file.rfilename for file in info.siblings or []]
        if not any(name.endswith(WEIGHT_SUFFIX) and "/" not in name for name in names):
            raise no_safetensors(model.name, where, names)
        with disk_errors(Path(constants.HF_HUB_CACHE), "HF_HOME"):
            return Path(huggingface_hub.snapshot_download(model.repo, revision=revision, **PATTERNS))
    except BadInput:
        raise
    except errors.GatedRepoError as error:
        reason = f"the Hub denies access to {where}: accept its licence there and set HF_TOKEN"
        raise CheckpointUnavailable(f"{model.name}: {reason}") from error
    except errors.RepositoryNotFoundError as error:
        reason = f"the Hub has no repository {model.repo} that you may read: correct the name, or set HF_TOKEN"
        raise CheckpointUnavailable(f"{model.name}: {reason}") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointUnavailable(f"{model.name}: the Hub has no {where}: correct the revision or its pin") from error
    except Exception as error:  # whatever the HTTP client raises, which is another one in each version of huggingface_hub
        raise CheckpointUnavailable(
            f"{model.name}: {where} is not complete in the HuggingFace cache, and the Hub cannot be reached at "
            f"{constants.ENDPOINT} ({type(error).__name__}: {' '.join(str(error).split())})"
        ) from error


def _at(model: Model, commit: str | None) -> str:
    return f"{model.repo} at {commit or model.revision}"
