"""`asv publish` writes tlbench's own site, instead of asv's pages, which show only an error without the internet.

asv builds a graph for every cell and looks for steps in all of them before it calls a publisher, which takes the better part
of an hour for five hundred commits. So this module replaces the function of the command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asv.commands.publish import Publish
from asv.console import log
from asv.repo import get_repo
from asv.util import ProcessError, UserError

from tlbench.exceptions import BadInput
from tlbench.site.publish import publish


def run(cls: Any, conf: Any, range_spec: Any = None, pull: bool = True) -> None:
    """Publish like asv's command does: of all commits, of a range, or of a list; to ``html_dir``.

    Without the repository the site has no subjects and no release names but those that the results themselves hold.
    """
    only = None
    try:
        repo = get_repo(conf)
        if pull:
            repo.pull()
        if range_spec is not None:
            only = range_spec if isinstance(range_spec, list) else repo.get_hashes_from_range(range_spec)
    except (UserError, ProcessError) as error:
        if range_spec is not None:
            raise
        log.warning(f"commits have no subjects on the site: {str(error).strip().splitlines()[0]}")
    try:
        problems = publish(conf, Path(conf.html_dir), only)
    except BadInput as error:
        raise UserError(str(error)) from error
    for problem in problems:
        log.warning(problem)
    log.info(f"Site: {Path(conf.html_dir) / 'index.html'}")


Publish.run = classmethod(run)
