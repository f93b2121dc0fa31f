"""The errors that tlbench raises. Every message says what was requested, what tlbench found, and what to do."""

from collections.abc import Collection
from difflib import get_close_matches


class TlbenchError(Exception):
    """Base class of all errors that tlbench raises on purpose."""


class BadInput(TlbenchError):
    """The request is invalid: a name, a file or a setting must change."""


class NotMeasured(TlbenchError):
    """This cell is applicable but was not measured here. The message says why."""


class CheckpointUnavailable(NotMeasured):
    """The checkpoint is not on this machine: the Hub cannot be reached, or it has not been made yet."""


class NotApplicable(TlbenchError):
    """This cell is not applicable: this TransformerLens has no such wrapper, option or architecture."""


class CellFailed(TlbenchError):
    """The measurement of this cell raised. The message gives the cause in one sentence."""


class DoesNotImport(CellFailed):
    """Importing this TransformerLens raises, with the libraries that it has here. It will again."""


class NonFiniteLogits(CellFailed):
    """A model returned NaN or infinity, which no error statistic may hide."""


class WrongTransformerLens(NotMeasured):
    """The imported TransformerLens is not the requested commit, so nothing is known of that."""


class WrongLibrary(NotMeasured):
    """The imported torch or transformers is not the one that was installed for the TransformerLens under test."""


class NotGolden(TlbenchError):
    """An evaluation meant as a golden is not float64 all the way."""


class NoGolden(NotMeasured):
    """There is no golden to measure against. The message says why."""


def choices(word: str, known: Collection[str], most: int = 6) -> str:
    """What to choose instead of an unknown word: the nearest known ones, or all if they are few or none is near."""
    spelled = {name.lower(): name for name in known}
    typed = word.lower()
    near = [name for name in spelled if typed and (typed in name or name in typed)]
    near += [name for name in get_close_matches(typed, spelled, n=3) if name not in near]
    if near and len(known) > most:
        return f"the nearest: {', '.join(spelled[name] for name in near[:3])}"
    return f"choose one of {', '.join(known)}"
