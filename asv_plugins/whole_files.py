"""Write results whole or not at all: an `asv run` that is killed while it saves must not lose what was stored before.

asv empties a file before it writes it anew. It has no hook for this, so this module wraps the functions that save results
and benchmarks, and within them replaces the one that writes JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from asv import util
from asv.benchmarks import Benchmarks
from asv.results import Results

from tlbench.files import written_whole

MODE = 0o644

_write_json = util.write_json


def write_json(path: str, data: Any, *args: Any, **named: Any) -> None:
    """Write like asv's function does, into a temporary file that then takes the place of the old one."""
    with written_whole(Path(path).absolute()) as temporary:
        _write_json(str(temporary), data, *args, **named)
        temporary.chmod(MODE)


def whole(save: Callable[..., None]) -> Callable[..., None]:
    """The same function, with files written whole."""

    @wraps(save)
    def saving(*args: Any, **named: Any) -> None:
        with patch.object(util, "write_json", write_json):
            save(*args, **named)

    return saving


Benchmarks.save, Results.save = whole(Benchmarks.save), whole(Results.save)
