"""Read stored references. Compute the missing ones in a process that has not imported TransformerLens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tlbench.exceptions import CellFailed, TlbenchError
from tlbench.reference.preload import before_computing, reference_server
from tlbench.reference.tensor_store import Kept, read_or_make

Step = Callable[..., None]


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
    """Call a function of this package in a fork of the reference server that runs in ``python``.

    The arguments are JSON values, and the last one is the model's name.

    Raises:
        CellFailed: if it fails; the message begins with what it was ``doing``.
    """
    try:
        reference_server(python).call(compute, *arguments, before=before_computing)
    except TlbenchError as error:
        raise CellFailed(f"{doing} failed: {error}") from error
