"""Store metadata beside every results file that asv writes: the environment, and why cells have no figure.

asv itself stores only the names of the matrix and the machine. It has no hook for more, so this module wraps the one
function that writes a results file.
"""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Any

from asv.console import log
from asv.results import Results

from tlbench.environments import metadata
from tlbench.exceptions import BadInput
from tlbench.paths import OUTCOMES
from tlbench.records import endings

_save = Results.save


@wraps(_save)
def save(self: Any, result_dir: str) -> None:
    """Write the results like asv's function does, then add the run's metadata."""
    _save(self, result_dir)
    # asv's working directory is the folder of its configuration.
    results = Path(result_dir) / self._filename
    outcomes = Path.cwd() / OUTCOMES / results.parent.name / self.commit_hash
    try:
        metadata.keep(outcomes / metadata.FILE_NAME, results)
        endings.keep(outcomes, results)
    except BadInput as error:
        log.warning(str(error))  # the figures are stored already, so let the run continue


Results.save = save
