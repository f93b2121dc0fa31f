"""Tell asv which machine this is, under a name of one's own and without a question: ``python -m asv_plugins.machine NAME``.

``asv machine --machine NAME`` keeps the name and loses processor and memory, and ``asv machine --yes`` takes the
host's name. Both write ``~/.asv-machine.json``, as this does, since ``asv run`` reads nothing else.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence

from asv.machine import Machine, MachineCollection


def main(arguments: Sequence[str]) -> int:
    """Store this machine's facts under a name.

    The system is stored without the kernel's release: with it asv would begin another history at every update.
    """
    if len(arguments) != 1:
        print("usage: python -m asv_plugins.machine NAME", file=sys.stderr)
        return 2
    (name,) = arguments
    MachineCollection.save(name, {**Machine.get_defaults(), "machine": name, "os": platform.system()})
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
