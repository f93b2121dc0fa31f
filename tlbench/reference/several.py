"""Compute references for several models in a subprocess that has not imported TransformerLens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tlbench import catalogue as catalogues
from tlbench.catalogue import Source
from tlbench.checkpoints import Checkpoint, locate
from tlbench.exceptions import CellFailed, TlbenchError
from tlbench.execution.client import beside
from tlbench.reference.tensor_store import Kept, read_or_make

Step = Callable[..., None]


def zoo_with(checkpoint: Checkpoint) -> list[str]:
    """The model's name, followed by the rest of the zoo if it is a zoo model."""
    names = [checkpoint.model.name]
    if checkpoint.model.source is Source.ZOO:
        names += [m.name for m in catalogues.load().models if m.source is Source.ZOO and m is not checkpoint.model]
    return names


def read_or_compute(
    path: Path, lock: str, python: Path, compute: Step, *arguments: object, what: str, check: Step = lambda: None
) -> Kept:
    """Read a stored file. If it is missing or damaged, compute it first, in one process at a time.

    Before that it calls ``check``, which may raise. ``what`` names the content in error messages, in the plural.

    Raises:
        CellFailed: if computing it fails, or does not write the file. That is no verdict on the model: the server may run
            other code, e.g. because a file was edited meanwhile.
    """

    def make() -> None:
        check()
        compute_elsewhere(python, compute, *arguments, doing=f"computing the {what}")

    stored = read_or_make(path, lock, make)
    if stored is None:
        raise CellFailed(f"no {what} were stored at {path}: run the command again")
    return stored


def compute_elsewhere(python: Path, compute: Step, *arguments: object, doing: str) -> None:
    """Call a function of this package, with JSON values, in a fork of the reference server that runs in ``python``.

    Raises:
        CellFailed: if it fails; the message begins with what it was ``doing``.
    """
    try:
        beside("references", python=python, preload="tlbench.reference.preload:preload").call(compute, *arguments)
    except TlbenchError as error:
        raise CellFailed(f"{doing} failed: {error}") from error


def compute_each(names: Sequence[str], compute: Callable[[Checkpoint], None]) -> None:
    """Call ``compute`` for each model; a failure does not stop the others.

    Raises:
        CellFailed: if the first model failed. The caller did not request the others, so their failures are ignored.
    """
    catalogue = catalogues.load()
    failures = {}
    for name in names:
        try:
            compute(locate(catalogue.get(name), catalogue))
        except TlbenchError as error:
            failures[name] = str(error)
        except Exception as error:
            failures[name] = f"{name}: {type(error).__name__}: {error}".replace("\n", " ")
    if failure := failures.get(names[0]):
        raise CellFailed(failure)
