"""One process computes what several models need, since importing transformers costs more than a whole zoo's forwards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from tlbench import catalogue as catalogues
from tlbench.catalogue import Source
from tlbench.checkpoints import Checkpoint, locate
from tlbench.exceptions import TlbenchError


def zoo_with(checkpoint: Checkpoint) -> list[str]:
    """The model's name and, if it is of the zoo, the names of all the zoo behind it."""
    names = [checkpoint.model.name]
    if checkpoint.model.source is Source.ZOO:
        names += [m.name for m in catalogues.load().models if m.source is Source.ZOO and m is not checkpoint.model]
    return names


def compute_each(names: Sequence[str], compute: Callable[[Checkpoint], None]) -> int:
    """Compute something of each model. Only the first model's failure is told, on standard error, and makes the status 1."""
    catalogue = catalogues.load()
    status = 0
    for name in names:
        try:
            compute(locate(catalogue.get(name), catalogue))
        except TlbenchError as error:
            failure = str(error)
        except Exception as error:
            failure = f"{name}: {type(error).__name__}: {error}".replace("\n", " ")
        else:
            continue
        if name == names[0]:
            print(failure, file=sys.stderr)
            status = 1
    return status
