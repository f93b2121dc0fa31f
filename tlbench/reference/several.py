"""References are computed in another process, one that no TransformerLens was imported into, for several models at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tlbench import catalogue as catalogues
from tlbench.catalogue import Source
from tlbench.checkpoints import Checkpoint, locate
from tlbench.exceptions import CellFailed, TlbenchError
from tlbench.execution.client import beside


def zoo_with(checkpoint: Checkpoint) -> list[str]:
    """The model's name and, if it is of the zoo, the names of all the zoo behind it."""
    names = [checkpoint.model.name]
    if checkpoint.model.source is Source.ZOO:
        names += [m.name for m in catalogues.load().models if m.source is Source.ZOO and m is not checkpoint.model]
    return names


def compute_elsewhere(python: Path, compute: Callable[..., None], *arguments: object, doing: str) -> None:
    """Call a function of this package in a fork of a server that computes references.

    Args:
        python: the interpreter of that server.
        compute: the function.
        arguments: its arguments, as JSON has them.
        doing: what the function does, for the message.

    Raises:
        CellFailed: if it fails.
    """
    try:
        beside("references", python=python, preload="tlbench.reference.preload:preload").call(compute, *arguments)
    except TlbenchError as error:
        raise CellFailed(f"{doing} failed: {error}") from error


def compute_each(names: Sequence[str], compute: Callable[[Checkpoint], None]) -> None:
    """Compute something for each model. A failure stops no other model.

    Raises:
        CellFailed: if the first model failed. The others were not asked for.
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
