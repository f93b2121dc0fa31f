"""The command line: everything that asv has no command for."""

from __future__ import annotations

import errno
import sys

from tlbench.cli import cache, coverage, judge, prepare, read, steps, sweep, watch
from tlbench.cli.common import app
from tlbench.exceptions import TlbenchError

PANELS = {
    "Read what was measured": ("status", "advise", "table", "verdicts", "costs", "slower", "outcomes", "env"),
    "Measure a model": ("verify", "where", "budget", "coverage"),
    "Search the history": ("steps", "find", "check", "watch", "review", "comment"),
    "Measure the history": ("sweep", "merge"),
}
"""The commands of each part of the help, in order. The others prepare what these need."""

__all__ = ["app", "cache", "coverage", "judge", "main", "prepare", "read", "steps", "sweep", "watch"]


def _arrange_help() -> None:
    order = [name for names in PANELS.values() for name in names]
    panels = {name: panel for panel, names in PANELS.items() for name in names}
    for command in app.registered_commands:
        command.name = str(command.name or getattr(command.callback, "__name__", ""))
        command.rich_help_panel = panels.get(command.name, "Prepare")
    app.registered_commands.sort(key=lambda command: [*order, command.name].index(command.name))


_arrange_help()


def main() -> None:
    """Run the command line. An error is one sentence on standard error and exit status 2."""
    try:
        app()
    except TlbenchError as error:
        print(f"tlbench: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        advice = "free some disk space, or set TMPDIR and TLBENCH_CACHE to folders on a larger disk"
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            advice = "check that it exists and that you may read or write it"
        print(f"tlbench: cannot use{where or ' a file'} ({error.strerror or error}): {advice}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("tlbench: interrupted. Finished work is kept: run the command again to continue", file=sys.stderr)
        raise SystemExit(130) from None
