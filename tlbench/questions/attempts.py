"""Independent attempts at one model: a failure leaves its reason and the rest go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from tlbench.exceptions import NoGolden, NotApplicable

T = TypeVar("T")
NOT_APPLICABLE = "n/a"
"""The prefix of a reason that means not applicable."""


@dataclass
class Attempts:
    """Collects the reasons why figures are missing, by attempt."""

    reasons: dict[str, str] = field(default_factory=dict)

    def attempt(self, name: str, find: Callable[[], T]) -> T | None:
        """The result of ``find``, or None after recording why it raised."""
        try:
            return find()
        except (NotApplicable, NoGolden, NotImplementedError) as reason:
            self.reasons[name] = f"{NOT_APPLICABLE}: {reason}"
        except Exception as error:
            self.reasons[name] = f"{type(error).__name__}: {error}"
        return None
