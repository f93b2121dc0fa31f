"""Build one commit of TransformerLens and install it into an environment, in about a second.

asv runs this script with the environment's own Python, as ``asv.conf.json`` says. It needs nothing installed::

    python installer.py build BUILD_DIR WHEEL_DIR
    python installer.py install WHEEL COMMIT

The result depends only on the commit, not on what was installed before. ``uv pip install --exact`` removes every package
that the commit does not need. Every dependency that matters is pinned by *era*, the range of TransformerLens releases that
works with one major version of transformers. The package itself is always reinstalled, because every commit has version
0.0.0. The installer leaves a record that :mod:`tlbench.environments.provenance` verifies later.

Settings (environment variables):
    TLBENCH_TORCH_BACKEND: which build of torch to install, as uv names it (``cpu``, ``cu130``, ``auto``). By default the one
        that the machine's own indexes and links provide.
    PIP_FIND_LINKS: passed on to uv, which does not read it itself, so that uv finds a build stored on the machine.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from email.message import Message
from email.parser import Parser
from pathlib import Path

HERE = Path(__file__).resolve().parent
ERAS = HERE / "eras"
PACKAGE = "transformer-lens"
PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)$", re.MULTILINE)
OF_TORCH = re.compile(r"nvidia-|cuda-|triton$")
"""Packages that come with a build of torch. They depend on the machine, so no lock has them."""


def main(arguments: Sequence[str]) -> int:
    """Run one step. On failure, print one sentence to stderr and return exit status 1."""
    sys.path.insert(0, str(HERE.parents[1]))
    from tlbench.spans import Category, span

    try:
        with span(Category.INSTALL):
            _run_step(arguments)
    except InstallError as error:
        print(f"tlbench installer: {error}", file=sys.stderr)
        return 1
    return 0


def _run_step(arguments: Sequence[str]) -> None:
    if len(arguments) == 3 and arguments[0] == "build":
        build(Path(arguments[1]), Path(arguments[2]))
    elif len(arguments) == 3 and arguments[0] == "install":
        install(Path(arguments[1]), arguments[2])
    else:
        raise InstallError("usage: installer.py build BUILD_DIR WHEEL_DIR | install WHEEL COMMIT")


class InstallError(Exception):
    """A step failed; the message says which, and why."""


def build(source: Path, wheels: Path) -> None:
    """Build a wheel from the checkout ``source`` into the folder ``wheels``."""
    run_uv("build", "--wheel", "--quiet", "--out-dir", str(wheels), str(source), doing=f"building {source}")


def install(wheel: Path, commit: str, python: str = sys.executable) -> None:
    """Install a wheel with its era's dependencies and nothing else, then record what was installed.

    Args:
        wheel: the wheel of TransformerLens.
        commit: the commit that it was built from, for the record.
        python: the interpreter of the environment to install into.

    Raises:
        InstallError: if it cannot be installed.
    """
    era = era_of(wheel)
    pins = [str(path) for path in pins_of(era)]
    backend = os.environ.get("TLBENCH_TORCH_BACKEND")
    arguments = (
        *("pip", "install", "--quiet", "--python", python, "--upgrade", "--exact"),
        *(word for file in pins for word in ("--requirements", file)),
        *(word for file in pins for word in ("--overrides", file)),
        *("--constraints", str(lock_of(era))),
        *("--reinstall-package", PACKAGE, str(wheel)),
        *(("--torch-backend", backend) if backend else ()),
    )
    doing = f"installing {wheel.name} from commit {commit[:8]} with the pins of {era}"
    if not _installed_from_cache(arguments, era, python):
        run_uv(*arguments, doing=doing)
    _record(wheel, commit, era, python)


def _installed_from_cache(arguments: Sequence[str], era: str, python: str) -> bool:
    """Try to install from uv's cache alone, which saves the index's seconds. Returns whether the result can be used.

    It can if every installed version is pinned, because the index would then give the same. A machine with its own indexes
    never uses the cache alone, because those may have another build of the same version.
    """
    if any("INDEX" in name for name in os.environ if name.startswith("UV_")) or "://" in os.environ.get("UV_FIND_LINKS", ""):
        return False
    try:
        run_uv(*arguments, "--offline", doing="installing from the cache")
    except InstallError:
        return False
    pinned = {pin for path in (*pins_of(era), lock_of(era)) for pin in PINNED.findall(path.read_text())}
    return all(OF_TORCH.match(name) or name == PACKAGE for name, version in _frozen(python) if (name, version) not in pinned)


def _frozen(python: str) -> list[tuple[str, str]]:
    """Name and version of every package in an environment."""
    output = run_uv("pip", "freeze", "--quiet", "--python", python, doing="listing what was installed")
    return [(name, version.split("+")[0]) for name, version in PINNED.findall(output)]


def pins_of(era: str) -> list[Path]:
    """The files with an era's pins, chosen by hand. They override a commit's own requirements."""
    return [ERAS / "common.txt", ERAS / f"{era}.txt"]


def lock_of(era: str) -> Path:
    """The file that pins everything else an era's releases need; see :mod:`tlbench.environments.locking`."""
    return ERAS / f"{era}.lock.txt"


def era_of(wheel: Path) -> str:
    """The era of a wheel, chosen by its lower bound on transformers.

    A bound below 5 is ``era4`` (TransformerLens 1.x to 3.2.1). From 5 up to but excluding 5.9 it is ``era5a`` (3.3 to 3.5,
    and the 4.0 alphas). From 5.9 on it is ``era5``.
    """
    from packaging.requirements import Requirement
    from packaging.version import Version

    lower = Version("0")
    for line in _metadata(wheel).get_all("Requires-Dist") or []:
        requirement = Requirement(line)
        if requirement.name.lower() == "transformers" and (
            requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ):
            bounds = [Version(s.version) for s in requirement.specifier if s.operator in (">=", "==", "~=", ">")]
            lower = max([lower, *bounds])
    if lower < Version("5"):
        return "era4"
    return "era5a" if lower < Version("5.9") else "era5"


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def _record(wheel: Path, commit: str, era: str, python: str) -> None:
    """Write the record of what is installed, for tlbench.environments.provenance."""
    importlib.invalidate_caches()
    from tlbench.environments.provenance import RECORD_NAME, wheel_digest
    from tlbench.files import write_json

    with zipfile.ZipFile(wheel) as archive:
        digest = wheel_digest({name: archive.read(name) for name in archive.namelist()})
    frozen = run_uv("pip", "freeze", "--quiet", "--python", python, doing="listing what was installed")
    record = {
        "commit": commit,
        "era": era,
        "package_digest": digest,
        "packages": sorted(line for line in frozen.splitlines() if "==" in line),
        "wheel": wheel.name,
    }
    write_json(Path(python).parents[1] / RECORD_NAME, record)


def run_uv(*arguments: str, doing: str) -> str:
    """Run uv and return its output. uv is installed into the environment first if it is missing.

    Args:
        arguments: uv's command and arguments.
        doing: what uv does, for the error message.

    Raises:
        InstallError: if it fails.
    """
    if importlib.util.find_spec("uv") is None:
        pin = next(line for line in (ERAS / "common.txt").read_text().splitlines() if line.startswith("uv=="))
        _run([sys.executable, "-m", "pip", "install", "--quiet", pin], doing="installing uv")
    environment = dict(os.environ)
    if "PIP_FIND_LINKS" in environment:
        environment.setdefault("UV_FIND_LINKS", ",".join(environment["PIP_FIND_LINKS"].split()))
    return _run([sys.executable, "-m", "uv", *arguments], doing=doing, environment=environment)


def _run(command: Sequence[str], *, doing: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InstallError(f"{doing} failed:\n{done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
