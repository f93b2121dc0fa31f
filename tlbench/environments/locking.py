"""Make the locks of the eras: ``python -m tlbench.environments.locking``, after a pin or the list of releases has changed.

A lock holds what any release of an era needs beside the era's own pins, each in the version that uv resolves today. So an
environment depends on the commit alone and not on the day on which it is installed, and uv needs no network for one whose
packages it has kept.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.version import Version
from rich.console import Console

from tlbench.cli.common import progress_bar
from tlbench.environments.installer import PACKAGE, InstallError, era_of, lock_of, pins_of, run_uv
from tlbench.package_index import client, download, packages_of
from tlbench.paths import cache_dir

OLDEST = Version("1.2.2")
"""The first release that runs with this torch."""
OF_TORCH = re.compile(r"nvidia-|cuda-|triton$")
"""What a build of torch brings along, which is the machine's choice."""
PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)$", re.MULTILINE)
HEADER = "# What releases of this era need beside its pins. Made by `python -m tlbench.environments.locking`; do not edit.\n"


def main() -> int:
    """Write the lock of every era. A release that cannot be resolved is told and left out: exit status 1."""
    failed = 0
    found: dict[str, dict[str, str]] = defaultdict(dict)
    with client() as index, progress_bar(Console(stderr=True)) as bar:
        wheels = {p.version: p for p in packages_of(index, PACKAGE) if p.version and p.package_type == "wheel"}
        # The newest last: where two releases of an era ask for two versions, its choice stands.
        for version in bar.track(sorted((v for v in wheels if Version(v) >= OLDEST), key=Version), description="resolving"):
            wheel = download(index, wheels[version], cache_dir() / "downloads")
            try:
                found[era_of(wheel)] |= resolved(wheel)
            except InstallError as error:
                failed += 1
                print(error, file=sys.stderr)
    for era, packages in found.items():
        pinned = {name for path in pins_of(era) for name, _ in PINNED.findall(path.read_text())}
        names = sorted(name for name in packages.keys() - pinned if not OF_TORCH.match(name))
        lock_of(era).write_text(HEADER + "".join(f"{name}=={packages[name]}\n" for name in names))
    return 1 if failed else 0


def resolved(wheel: Path) -> dict[str, str]:
    """Name to version of all that a wheel needs with its era's pins, but itself.

    Raises:
        InstallError: if there is no such set of packages.
    """
    pins = [str(path) for path in pins_of(era_of(wheel))]
    overrides = [word for path in pins for word in ("--overrides", path)]
    with TemporaryDirectory() as folder:
        asked = Path(folder) / "requirements.in"
        asked.write_text(f"{PACKAGE} @ {wheel.as_uri()}\n")
        words = ("pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", "3.11")
        printed = run_uv(*words, str(asked), *pins, *overrides, doing=f"resolving {wheel.name}")
    return {name: version for name, version in PINNED.findall(printed) if name != PACKAGE}


if __name__ == "__main__":
    raise SystemExit(main())
