"""Store beside every results file that asv writes: the environment, why cells have no figure, and profiles.

asv itself stores only the names of the matrix and the machine. It has no hook for more, so this module wraps the function
that writes a results file, and the one that reads it before a run adds to it.
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
from tlbench.records import endings, profiles

_save, _load_data = Results.save, Results.load_data


def outcomes_of(results: Any) -> Path:
    """The folder of a commit's outcomes. asv's working directory is that of its configuration."""
    return Path.cwd() / OUTCOMES / Path(results._filename).parent.name / str(results.commit_hash)


@wraps(_load_data)
def load_data(self: Any, result_dir: str) -> None:
    """Read earlier results like asv's function does, and forget what an earlier run was measured in: this one will say."""
    _load_data(self, result_dir)
    (outcomes_of(self) / metadata.FILE_NAME).unlink(missing_ok=True)


@wraps(_save)
def save(self: Any, result_dir: str) -> None:
    """Write the results like asv's function does, then add the run's metadata."""
    _save(self, result_dir)
    results, outcomes = Path(result_dir) / self._filename, outcomes_of(self)
    try:
        metadata.keep(outcomes / metadata.FILE_NAME, results)
        endings.keep(outcomes, results)
        profiles.keep(outcomes, results)
    except BadInput as error:
        log.warning(str(error))  # the figures are stored already, so let the run continue


Results.save, Results.load_data = save, load_data
