"""Keeps, beside every file of results that asv writes, the environment that made it and how cells ended without a figure.

asv stores the names of its matrix and of the machine, and neither versions nor reasons. It offers no hook for that, so its
one function that writes a file of results is wrapped.
"""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Any

from asv.console import log
from asv.results import Results

from tlbench.environments import metadata as facts
from tlbench.exceptions import BadInput
from tlbench.paths import OUTCOMES
from tlbench.records import endings

_save = Results.save


@wraps(_save)
def save(self: Any, result_dir: str) -> None:
    """Write the results as asv does, then what the run has left beside them."""
    _save(self, result_dir)
    # asv runs in the folder of its configuration.
    results = Path(result_dir) / self._filename
    left = Path.cwd() / OUTCOMES / results.parent.name / self.commit_hash
    try:
        facts.keep(left / facts.FILE_NAME, results)
        endings.keep(left, results)
    except BadInput as error:
        log.warning(str(error))  # what was measured is stored, and the run goes on


Results.save = save
