"""Write the eras' lock files: run ``python -m tlbench.environments.locking`` after a pin or the list of releases changes.

A lock pins everything else that an era's releases need, at the versions that uv resolves today. So an environment depends
only on the commit and not on the day of installation, and uv needs no network if its cache has the packages.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.version import Version
from rich.console import Console
from rich.progress import track

from tlbench.environments.installer import (
    OF_TORCH,
    PACKAGE,
    PINNED,
    InstallError,
    era_of,
    lock_of,
    pins_of,
    run_uv,
    with_torchs_own,
)
from tlbench.environments.package_index import client, download, packages_of
from tlbench.paths import cache_dir

OLDEST = Version("1.2.2")
"""The first release that runs with the pinned torch."""
HEADER = "# What releases of this era need beside its pins. Made by `python -m tlbench.environments.locking`; do not edit.\n"


def main() -> int:
    """Write each era's lock. If a release cannot be resolved, print why, skip its era and return exit status 1."""
    failed: set[str] = set()
    packages_by_era: dict[str, dict[str, str]] = defaultdict(dict)
    with client() as index:
        wheels = {p.version: p for p in packages_of(index, PACKAGE) if p.version and p.package_type == "wheel"}
        # Newest last, so that its versions win where releases of an era disagree.
        versions = sorted((version for version in wheels if Version(version) >= OLDEST), key=Version)
        for version in track(versions, "resolving", console=Console(stderr=True)):
            wheel = download(index, wheels[version], cache_dir() / "downloads")
            try:
                packages_by_era[era_of(wheel)] |= resolved(wheel)
            except InstallError as error:
                failed.add(era_of(wheel))
                print(error, file=sys.stderr)
    for era in packages_by_era.keys() - failed:
        packages = packages_by_era[era]
        pinned = {name for path in pins_of(era) for name, _ in PINNED.findall(path.read_text())}
        names = sorted(name for name in packages.keys() - pinned if not OF_TORCH.match(name))
        lock_of(era).write_text(HEADER + "".join(f"{name}=={packages[name]}\n" for name in names))
    return 1 if failed else 0


def resolved(wheel: Path) -> dict[str, str]:
    """Resolve a wheel's dependencies under its era's pins. Returns versions by package name, without the wheel itself."""
    pins = [str(path) for path in pins_of(era_of(wheel))]
    overrides = [word for path in pins for word in ("--overrides", path)]
    with TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.in"
        requirements.write_text(f"{PACKAGE} @ {with_torchs_own(wheel, Path(folder)).as_uri()}\n")
        words = ("pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", "3.11")
        output = run_uv(*words, str(requirements), *pins, *overrides, doing=f"resolving {wheel.name}")
    return {name: version for name, version in PINNED.findall(output) if name != PACKAGE}


if __name__ == "__main__":
    raise SystemExit(main())
