"""Asking one thing of a model after another, so that what fails leaves its reason and the rest goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from tlbench.exceptions import NoGolden, NotApplicable

T = TypeVar("T")
NOT_APPLICABLE = "n/a"
"""How the reason of what cannot exist begins."""


@dataclass
class Attempts:
    """Collects the reasons of what could not be measured.

    Attributes:
        reasons: by the name of what was asked.
    """

    reasons: dict[str, str] = field(default_factory=dict)

    def attempt(self, name: str, find: Callable[[], T]) -> T | None:
        """What ``find`` returns, or None and a reason."""
        try:
            return find()
        except (NotApplicable, NoGolden, NotImplementedError) as reason:
            self.reasons[name] = f"{NOT_APPLICABLE}: {reason}"
        except Exception as error:
            self.reasons[name] = f"{type(error).__name__}: {error}"
        return None
