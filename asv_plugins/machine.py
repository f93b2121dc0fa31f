"""Register this machine with asv under a chosen name, without prompts: ``python -m asv_plugins.machine NAME``.

asv cannot do this. ``asv machine --machine NAME`` drops the processor and memory, and ``asv machine --yes`` uses the host
name. Like both, this writes ``~/.asv-machine.json``, which is the only file ``asv run`` reads.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence

from asv.machine import Machine, MachineCollection


def main(arguments: Sequence[str]) -> int:
    """Store this machine's metadata under a name."""
    if len(arguments) != 1:
        print("usage: python -m asv_plugins.machine NAME", file=sys.stderr)
        return 2
    (name,) = arguments
    # Without the kernel's release, with which asv would start a new history after every update.
    MachineCollection.save(name, {**Machine.get_defaults(), "machine": name, "os": platform.system()})
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
