"""Make the locks of the eras: ``python -m tlbench.environments.locking``, after a pin or the list of releases has changed.

A lock holds what any release of an era needs beside the era's own pins, each in the version that uv resolves today. So an
environment depends on the commit alone and not on the day on which it is installed, and uv needs no network for one whose
packages it has kept.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.version import Version
from rich.console import Console
from rich.progress import track

from tlbench.environments.installer import OF_TORCH, PACKAGE, PINNED, InstallError, era_of, lock_of, pins_of, run_uv
from tlbench.environments.package_index import client, download, packages_of
from tlbench.paths import cache_dir

OLDEST = Version("1.2.2")
"""The first release that runs with this torch."""
HEADER = "# What releases of this era need beside its pins. Made by `python -m tlbench.environments.locking`; do not edit.\n"


def main() -> int:
    """Write the lock of every era, but of one with a release that cannot be resolved: it is told, and exit status 1."""
    failed: set[str] = set()
    found: dict[str, dict[str, str]] = defaultdict(dict)
    with client() as index:
        wheels = {p.version: p for p in packages_of(index, PACKAGE) if p.version and p.package_type == "wheel"}
        # The newest last: where two releases of an era ask for two versions, its choice stands.
        wanted = sorted((version for version in wheels if Version(version) >= OLDEST), key=Version)
        for version in track(wanted, "resolving", console=Console(stderr=True)):
            wheel = download(index, wheels[version], cache_dir() / "downloads")
            try:
                found[era_of(wheel)] |= resolved(wheel)
            except InstallError as error:
                failed.add(era_of(wheel))
                print(error, file=sys.stderr)
    for era, packages in found.items():
        if era in failed:
            continue
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
