"""The command line: everything that asv has no command for."""

from __future__ import annotations

import errno
import sys

from tlbench.cli import cache, judge, prepare, read
from tlbench.cli.common import app
from tlbench.exceptions import TlbenchError

__all__ = ["app", "cache", "judge", "main", "prepare", "read"]


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
