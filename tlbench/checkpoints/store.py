"""Checkpoints on disk, each in its own folder, addressed and pinned by the SHA-256 of its content.

``tlbench checkpoints`` makes or downloads what is missing (``ensure``). Measurements only read and verify (``locate``), so
the environment under test never creates a checkpoint.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors import safe_open

from tlbench import catalogue as catalogues
from tlbench.catalogue import Catalogue, Model, Source
from tlbench.checkpoints import hub
from tlbench.checkpoints import prompts as prompt_sets
from tlbench.checkpoints.contents import READ_SUFFIXES, WEIGHT_SUFFIX, require_safetensors
from tlbench.checkpoints.derived import CONFIG, Derived, derived
from tlbench.checkpoints.inputs import Inputs
from tlbench.exceptions import BadInput
from tlbench.files import folder_written_whole, locked, sha256_of_unchanged, tree_digest, write_json, written_whole
from tlbench.paths import cache_dir
from tlbench.spans import Category, span

DERIVED = "derived files"
"""The key, among a model's pins, for the files that are no links in its derived folder."""
NO_FILES = (DERIVED, hub.COMMIT)
"""The keys among a model's pins that are not the names of files."""

EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""The names that configurations have for the number of experts."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint.

    Attributes:
        model: its catalogue entry.
        folder: holds config.json, safetensors and tokenizer. If the original is not portable, it is derived in the cache.
        sha256: one hash of the names and bytes of all its files, including the prompts.
        prompts: its token ids.
    """

    model: Model
    folder: Path
    sha256: str
    prompts: prompt_sets.Prompts

    @property
    def architecture(self) -> str:
        """What config.json calls it, such as ``LlamaForCausalLM``."""
        config = json.loads((self.folder / CONFIG).read_text())
        return str((config.get("architectures") or [config.get("model_type", "unknown architecture")])[0])

    @cached_property
    def inputs(self) -> Inputs:
        """What its model reads."""
        return Inputs.of(self.folder, self.prompts.natural)

    @property
    def parameters(self) -> int:
        """The number of parameters in its safetensors, from their headers."""
        total = 0
        for path in self.folder.glob(f"*{WEIGHT_SUFFIX}"):
            with safe_open(path, "numpy") as tensors:
                total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        return total

    @property
    def has_experts(self) -> bool:
        """Whether it is a mixture of experts, judged by its configuration."""
        config = json.loads((self.folder / CONFIG).read_text())
        parts = (config, config.get("text_config") or {}, config.get("ffn_config") or {})
        return any(part.get(name) for part in parts for name in EXPERT_COUNTS)


Pins = dict[str, dict[str, str]]
"""SHA-256 by model name and file name."""


def read_pins(catalogue: Catalogue) -> Pins:
    """Read the lock file and, of the packaged catalogue, this machine's own pins. Raises ``BadInput`` if one is damaged."""
    own = _pins_in(_own_lock(), "delete it") if catalogue.is_packaged else {}
    return own | _pins_in(catalogue.lock_path, "restore it from version control")


def _pins_in(path: Path, advice: str) -> Pins:
    try:
        pins = json.loads(path.read_text()) if path.exists() else {}
        return {name: {str(k): str(v) for k, v in files.items()} for name, files in pins.items()}
    except (ValueError, AttributeError) as error:
        raise BadInput(f"cannot read {path} ({error}): {advice}") from error


def _own_lock() -> Path:
    """Pins of the packaged catalogue's Hub models. They are this machine's, unless someone asks to put them in the lock."""
    return cache_dir() / "hub.lock.json"


def _pin(model: Model, catalogue: Catalogue, pins: dict[str, str], in_lock: bool) -> None:
    is_own = model.source is Source.HUB and catalogue.is_packaged and not in_lock
    path = _own_lock() if is_own else catalogue.lock_path
    with locked(cache_dir() / "locks" / "pins.lock"):
        write_json(path, _pins_in(path, "delete it") | {model.name: pins})


def locate(model: Model, catalogue: Catalogue) -> Checkpoint:
    """Find the model's checkpoint and verify every byte against its pin.

    A process and its forks verify each file once, and again if it changes.

    Raises:
        CheckpointUnavailable: if it is a Hub model that is not in this machine's HuggingFace cache.
        BadInput: if it was never made, is not pinned, or differs from its pin in a single bit.
    """
    with span(Category.VERIFY):
        pins = read_pins(catalogue).get(model.name, {})
        folder = _folder(model, pins)
        advice = f"run `tlbench checkpoints {model.name}`"
        if not pins:
            raise BadInput(f"{model.name} is not pinned in {catalogue.lock_path}: {advice} to pin it")
        _verify(model, folder, pins)
        portable = _portable(model, folder)
        if pins.get(DERIVED) != (portable.sha256 if portable else None):
            raise BadInput(f"{model.name}: the derived config.json or tokenizer does not match its pin: {advice}")
        if portable:
            # The derived folder must hold the files just verified. transformers reads all of them but the prompts.
            for name in {*_of_files(pins), CONFIG} - {prompt_sets.FILE_NAME}:
                if not portable.has(name):
                    raise BadInput(f"{model.name}: missing or altered file {portable.folder / name}: {advice} to restore it")
        prompts = prompt_sets.load(_prompts_file(model, folder))
        files = {name: digest for name, digest in pins.items() if name != hub.COMMIT}
        return Checkpoint(model, portable.folder if portable else folder, tree_digest(files), prompts)


def named(name: str) -> Checkpoint:
    """The verified checkpoint of a model of the catalogue in use. Raises as :func:`locate` does, and for unknown names."""
    catalogue = catalogues.load()
    return locate(catalogue.get(name), catalogue)


def ensure(
    model: Model, catalogue: Catalogue, say: Callable[[str], None] = lambda _: None, *, in_lock: bool = False
) -> Checkpoint:
    """Find the model's checkpoint; make or download it if it is missing. Safe to interrupt and to run concurrently.

    A model without a pin is pinned in the catalogue's lock file. A Hub model of tlbench's own catalogue is pinned in the
    cache, unless its pins shall be ``in_lock``. ``say`` receives a short progress message at each step.

    Raises:
        CheckpointUnavailable: if it is a Hub model and the Hub cannot be reached.
        BadInput: if a local folder is not a checkpoint, the disk is full or not writable, or the new checkpoint differs from
            its pin.
    """
    from tlbench.checkpoints import making

    with locked(cache_dir() / "locks" / f"{model.name}.lock"):
        pins = read_pins(catalogue).get(model.name, {})
        if model.source.is_made:
            folder = _made_folder(model, pins)
            if not folder.is_dir() or not _is_intact(model, folder, pins):
                say("making")
                folder = _make(model, pins, say)
        else:
            folder = _fetched(model, pins, say) if model.source is Source.HUB else _folder(model, pins)
            require_safetensors(model.name, folder)
            if not _prompts_file(model, folder).exists():
                say("tokenizing")
                prompts = making.make_prompts(model, folder)
                with written_whole(_prompts_file(model, folder)) as path:
                    path.write_text(prompt_sets.to_json(prompts))
        # Verify before deriving anything from these files.
        _verify(model, folder, pins)
        portable = _portable(model, folder)
        if portable and not portable.is_intact():
            say("translating config.json")
            portable.make()
        derived_pin = {DERIVED: portable.sha256} if portable else {}
        if not pins or pins.get(DERIVED) != derived_pin.get(DERIVED) or in_lock:
            say("pinning")
            files = _of_files(pins) or hashes(model, folder, _prompts_file(model, folder))
            commit = {hub.COMMIT: hub.commit_of(folder)} if model.source is Source.HUB else {}
            _pin(model, catalogue, files | commit | derived_pin, in_lock)
        say("verifying")
        return locate(model, catalogue)


def hashes(model: Model, folder: Path, prompts_file: Path) -> dict[str, str]:
    """The SHA-256 of every file that affects a figure: configuration, weights and their index, tokenizer, prompts."""
    files = {
        path.name: sha256_of_unchanged(path)
        for path in sorted(folder.iterdir())
        if path.suffix in READ_SUFFIXES and path.is_file()
    }
    return files | {prompt_sets.FILE_NAME: sha256_of_unchanged(prompts_file)}


def _of_files(pins: dict[str, str]) -> dict[str, str]:
    """The pins of the original files."""
    return {name: digest for name, digest in pins.items() if name not in NO_FILES}


# Paths ---------------------------------------------------------------------------------------------------------------


def _folder(model: Model, pins: dict[str, str]) -> Path:
    if model.source is Source.HUB:
        return hub.snapshot(model, pins.get(hub.COMMIT))
    folder = Path(model.path) if model.source is Source.LOCAL else _made_folder(model, pins)
    if not folder.is_dir():
        if model.source is Source.LOCAL:
            raise BadInput(f"{model.name}: no folder {folder}: correct `path` in the catalogue")
        raise BadInput(f"no checkpoint of {model.name} on this machine: run `tlbench checkpoints {model.name}`")
    return folder


def _fetched(model: Model, pins: dict[str, str], say: Callable[[str], None]) -> Path:
    needed = _of_files(pins).keys() - {prompt_sets.FILE_NAME}
    return hub.fetch(model, needed, pins.get(hub.COMMIT), say)


def _made_folder(model: Model, files: dict[str, str]) -> Path:
    """The folder of a checkpoint made by tlbench, named by its content."""
    return cache_dir() / "checkpoints" / f"{model.name}-{tree_digest(files)[:12]}"


def _portable(model: Model, folder: Path) -> Derived | None:
    """The derived folder of a checkpoint that tlbench did not make. tlbench's own checkpoints are portable already."""
    return None if model.source.is_made else derived(folder, model.name)


def _prompts_file(model: Model, folder: Path) -> Path:
    """The prompt file: beside the weights, or in tlbench's cache if a folder that tlbench did not make has none."""
    beside_weights = folder / prompt_sets.FILE_NAME
    if beside_weights.exists() or model.source.is_made:
        return beside_weights
    return cache_dir() / "prompts" / model.name / prompt_sets.FILE_NAME


# Verifying -----------------------------------------------------------------------------------------------------------


_ADVICE = {
    Source.LOCAL: "restore the file or, to accept the change, remove its pins from the lock file",
    Source.HUB: "if the revision moved, name the pinned commit or, to accept the change, remove the pins from the lock file",
}


def _verify(model: Model, folder: Path, pins: dict[str, str]) -> None:
    """Verify the original files, which are all the pinned ones but the derived."""
    require_safetensors(model.name, folder)
    for name, expected in _of_files(pins).items():
        path = _prompts_file(model, folder) if name == prompt_sets.FILE_NAME else folder / name
        if not path.is_file():
            raise BadInput(f"{model.name}: missing {path}: run `tlbench checkpoints {model.name}` to restore it")
        digest = sha256_of_unchanged(path)
        if digest != expected:
            raise BadInput(
                f"{model.name}: {path} is truncated or altered (SHA-256 {digest[:16]}…, expected {expected[:16]}…): "
                f"{_ADVICE.get(model.source, f'delete the folder and run `tlbench checkpoints {model.name}`')}"
            )


def _is_intact(model: Model, folder: Path, pins: dict[str, str]) -> bool:
    try:
        _verify(model, folder, pins)
    except BadInput:
        return False
    return True


# Making --------------------------------------------------------------------------------------------------------------


def _make(model: Model, pins: dict[str, str], say: Callable[[str], None]) -> Path:
    from tlbench.checkpoints import making

    staging = cache_dir() / "checkpoints" / f"{model.name}-new"
    with folder_written_whole(staging) as folder:
        if model.source is Source.ZOO:
            making.make_zoo(model, folder)
        elif model.source is Source.CONFIG:
            making.make_from_config(model, folder)
        else:
            if model.terms:
                print(model.terms, file=sys.stderr)
            making.make_from_gguf(model, folder, say)
        digests = hashes(model, folder, folder / prompt_sets.FILE_NAME)
        if pins and digests != pins:
            differing = sorted(name for name in digests.keys() | pins.keys() if digests.get(name) != pins.get(name))
            raise BadInput(
                f"{model.name}: the new checkpoint differs from its pin in {', '.join(differing)}: install the packages "
                "that requirements.lock pins, or pin the checkpoint again if its recipe changed"
            )
    target = _made_folder(model, digests)
    if target.exists():
        shutil.rmtree(target)
    return staging.rename(target)
