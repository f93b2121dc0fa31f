"""One small test for each private part of other people's code that this repository leans on.

Such a part may change without notice. Then its canary fails, and the message says what changed and which of our files
depends on it. ``python -m tools.canaries --latest`` runs the canaries against the newest releases, before anyone installs
them.

Each canary imports what it tests inside its function, so one change breaks one canary. This module needs only the standard
library, because ``tools/canaries_of_tl.py`` runs where pytest is not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

OURS = ("asv_plugins", "benchmarks", "tests", "tlbench", "tools")
NO_FAILURE = ("KeyboardInterrupt", "Skipped", "Exit")
"""Names of exceptions that end a test without failing it; the last two are pytest's."""


def leaned_on(what: str, where: str) -> str:
    """The message of a failing canary.

    Args:
        what: what changed, as in "asv changed runner.ForkServer.run".
        where: our file that depends on it.
    """
    return f"{what}: see {where}"


def canary(what: str, where: str) -> Callable[[F], F]:
    """Make a test fail with the message of :func:`leaned_on`, whatever goes wrong in it; the cause follows in brackets.

    An error of importing one of our own modules passes through: that is our fault, not an upstream change.
    """

    def decorate(test: F) -> F:
        @wraps(test)
        def checked(*args: Any, **kwargs: Any) -> None:
            try:
                test(*args, **kwargs)
            except BaseException as error:  # pytest and asv raise some that are no Exception
                is_ours = isinstance(error, ImportError) and (error.name or "").split(".")[0] in OURS
                if is_ours or type(error).__name__ in NO_FAILURE:
                    raise
                raise AssertionError(f"{leaned_on(what, where)}{_cause(error)}") from error

        checked.what, checked.where = what, where
        return checked  # type: ignore[return-value]

    return decorate


def _cause(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    kind = "" if isinstance(error, AssertionError) else type(error).__name__
    said = ": ".join(part for part in (kind, lines[0] if lines else "") if part)
    return f" ({said})" if said else ""
