"""Keeps, beside every file of results that asv writes, the facts of the environment that made it.

asv stores the names of its matrix and of the machine, and no version of what was resolved. It offers no hook for that, so
its one function that writes a file of results is wrapped.
"""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Any

from asv.console import log
from asv.results import Results

from tlbench.exceptions import BadInput
from tlbench.facts import FILE_NAME, keep
from tlbench.paths import OUTCOMES

_save = Results.save


@wraps(_save)
def save(self: Any, result_dir: str) -> None:
    """Write the results as asv does, then the facts, where the run has left any."""
    _save(self, result_dir)
    try:
        # asv runs in the folder of its configuration.
        keep(Path.cwd() / OUTCOMES / self.commit_hash / FILE_NAME, Path(result_dir) / self._filename)
    except BadInput as error:
        log.warning(str(error))  # what was measured is stored, and the run goes on


Results.save = save
