"""What can go wrong, sorted by what the reader must do about it.

Every message is one sentence of what was asked, one of what was found and one of what to do.
"""


class TlbenchError(Exception):
    """The base of every error that tlbench raises on purpose."""


class BadInput(TlbenchError):
    """The request cannot be met as it stands: a name, a file or a setting must change."""


class NotMeasured(TlbenchError):
    """This cell could exist, and was not measured here; the message says why."""


class CheckpointUnavailable(NotMeasured):
    """The checkpoint is not on this machine and cannot be had from here (no hub, not yet made)."""


class NotApplicable(TlbenchError):
    """This cell cannot exist: this TransformerLens has no such wrapper, option or architecture."""


class CellFailed(TlbenchError):
    """The cell exists and its measurement raised; the message is the cause in one sentence."""


class NonFiniteLogits(CellFailed):
    """A model produced NaN or infinity, which no error statistic may hide."""


class WrongTransformerLens(CellFailed):
    """The imported TransformerLens is not the commit that was asked for."""


class NotGolden(TlbenchError):
    """A reference that was to be exact is not float64 all the way."""


class NoGolden(NotMeasured):
    """There is no exact answer to measure against, and the message says why."""
