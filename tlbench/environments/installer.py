"""Build one commit of TransformerLens and install it into an environment, in about a second.

asv runs this script with the environment's own Python, as ``asv.conf.json`` says. It needs nothing installed::

    python installer.py build BUILD_DIR WHEEL_DIR
    python installer.py install WHEEL COMMIT

The result depends only on the commit, not on what was installed before. ``uv pip install --exact`` removes every package
that the commit does not need. An *era* is the range of TransformerLens releases that works with one major version of
transformers; it pins every dependency that matters. The package itself is always reinstalled, because every commit has
version 0.0.0. The installer leaves a record that :mod:`tlbench.environments.provenance` verifies later.

Settings (environment variables):
    TLBENCH_TORCH_BACKEND: the build of torch, as uv names it (``cpu``, ``cu130``, ``auto``). By default, the build that the
        machine's own indexes and links provide.
    PIP_FIND_LINKS: passed on to uv, which does not read it itself, so that uv finds a build stored on the machine.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from email.parser import Parser
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ERAS = HERE / "eras"
PACKAGE = "transformer-lens"
PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)$", re.MULTILINE)
OF_TORCH = re.compile(r"nvidia-|cuda-|(triton|torchvision|torchaudio)$")
"""Packages that belong to one build of torch. They depend on the machine, so no lock has them."""
REQUIRES = "Requires-Dist:"
TIME_LIMIT_S = 3600.0
"""For one step. asv's own ``install_timeout`` is as long."""
REFUSALS = {
    "No space left on device": "free some disk space, or set TLBENCH_CACHE and UV_CACHE_DIR to folders on a larger disk",
    "Read-only file system": "set TLBENCH_CACHE and UV_CACHE_DIR to folders that can be written",
    "Permission denied": "set TLBENCH_CACHE and UV_CACHE_DIR to folders that can be written",
}
"""What to do if a step's output has one of these."""


def main(arguments: Sequence[str]) -> int:
    """Run one step. On failure, print one sentence to stderr and return exit status 1."""
    sys.path.insert(0, str(HERE.parents[1]))
    from tlbench.exceptions import TlbenchError
    from tlbench.spans import Category, span

    try:
        with span(Category.INSTALL):
            match arguments:
                case ["build", source, wheels]:
                    build(Path(source), Path(wheels))
                case ["install", wheel, commit]:
                    install(Path(wheel), commit)
                case _:
                    raise InstallError("usage: installer.py build BUILD_DIR WHEEL_DIR | install WHEEL COMMIT")
    except (InstallError, TlbenchError) as error:
        print(f"tlbench installer: {error}", file=sys.stderr)
        return 1
    return 0


class InstallError(Exception):
    """A step failed; the message says which, and why."""


def build(source: Path, wheels: Path) -> None:
    """Build a wheel from the checkout ``source`` into the folder ``wheels``."""
    run_uv("build", "--wheel", "--quiet", "--out-dir", str(wheels), str(source), doing=f"building {source}")


def install(wheel: Path, commit: str, python: str = sys.executable) -> None:
    """Install a wheel of ``commit`` and its era's dependencies, nothing else, for ``python``, and record what was installed.

    Raises:
        InstallError: if it cannot be installed.
    """
    era = era_of(wheel)
    pins = [str(path) for path in pins_of(era)]
    with tempfile.TemporaryDirectory(prefix="tlbench-wheel-") as folder:
        arguments = (
            *("pip", "install", "--quiet", "--python", python, "--upgrade", "--exact"),
            *(word for file in pins for word in ("--requirements", file, "--overrides", file)),
            *("--constraints", str(lock_of(era)), "--reinstall-package", PACKAGE),
            *torch_backend(),
            str(with_torchs_own(wheel, Path(folder))),
        )
        if not _installed_from_cache(arguments, era, python):
            of_commit = f" from commit {commit[:8]}" if commit else ""
            run_uv(*arguments, doing=f"installing {wheel.name}{of_commit} with the pins of {era}")
    _record(wheel, commit, era, python)


def torch_backend() -> tuple[str, ...]:
    """uv's words for the build of torch that the user asks for."""
    backend = os.environ.get("TLBENCH_TORCH_BACKEND")
    return ("--torch-backend", backend) if backend else ()


def with_torchs_own(wheel: Path, folder: Path) -> Path:
    """The wheel; or, if it requires packages that belong to one build of torch, a copy in ``folder`` that does not.

    TransformerLens 1.7 to 1.9.0 pins triton 2.1.0 and nvidia's packages, for a fault of torch 2.1.0's wheels, and three
    commits of June 2026 pin torchvision 0.22, which is torch 2.7's. Neither torch nor transformers imports with another
    torch's, and no language model needs them.
    """
    if not any(OF_TORCH.match(requirement.name) for requirement in requirements_of(wheel)):
        return wheel
    folder.mkdir(exist_ok=True)
    copy = folder / wheel.name
    with zipfile.ZipFile(wheel) as archive, zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as changed:
        for info in archive.infolist():
            content = archive.read(info)
            if info.filename.endswith(".dist-info/METADATA"):
                head, *description = content.decode().split("\n\n", 1)
                lines = [line for line in head.split("\n") if not OF_TORCH.match(_required(line))]
                content = "\n\n".join(["\n".join(lines), *description]).encode()
            changed.writestr(info, content)
    return copy


def _required(line: str) -> str:
    """The name of the package that a line of a wheel's metadata requires, or ""."""
    return re.split(r"[^\w.-]", line.removeprefix(REQUIRES).strip())[0] if line.startswith(REQUIRES) else ""


def _installed_from_cache(arguments: Sequence[str], era: str, python: str) -> bool:
    """Try to install from uv's cache alone, which saves the index's seconds. Returns whether the result can be used.

    It can if every installed version is pinned, because the index would give the same. A machine's own indexes may have
    another build of the same version, so with those the cache alone is never used.
    """
    if any("INDEX" in name for name in os.environ if name.startswith("UV_")) or "://" in os.environ.get("UV_FIND_LINKS", ""):
        return False
    try:
        run_uv(*arguments, "--offline", doing="installing from the cache")
    except InstallError:
        return False
    pinned = {pin for path in (*pins_of(era), lock_of(era)) for pin in PINNED.findall(path.read_text())}
    installed = {(name, version.split("+")[0]) for name, version in PINNED.findall(_frozen(python))}
    return all(OF_TORCH.match(name) or name == PACKAGE for name, _ in installed - pinned)


def _frozen(python: str) -> str:
    return run_uv("pip", "freeze", "--quiet", "--python", python, doing="listing what was installed")


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
    from packaging.version import Version

    lower = Version("0")
    for requirement in requirements_of(wheel):
        marker = requirement.marker
        if requirement.name.lower() == "transformers" and (marker is None or marker.evaluate({"extra": ""})):
            bounds = [Version(s.version) for s in requirement.specifier if s.operator in (">=", "==", "~=", ">")]
            lower = max([lower, *bounds])
    if lower < Version("5"):
        return "era4"
    return "era5a" if lower < Version("5.9") else "era5"


def requirements_of(wheel: Path) -> Iterator[Any]:
    """The requirements that a wheel's metadata lists."""
    from packaging.requirements import Requirement

    with zipfile.ZipFile(wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    yield from map(Requirement, Parser().parsestr(text).get_all(REQUIRES.rstrip(":")) or [])


def _record(wheel: Path, commit: str, era: str, python: str) -> None:
    """Write the record of what is installed, for tlbench.environments.provenance."""
    importlib.invalidate_caches()
    from tlbench.environments.provenance import RECORD_NAME, wheel_digest
    from tlbench.files import write_json

    with zipfile.ZipFile(wheel) as archive:
        digest = wheel_digest({name: archive.read(name) for name in archive.namelist()})
    packages = sorted(line for line in _frozen(python).splitlines() if "==" in line)
    record = {"commit": commit, "era": era, "package_digest": digest, "packages": packages, "wheel": wheel.name}
    write_json(Path(python).parents[1] / RECORD_NAME, record)


def run_uv(*arguments: str, doing: str) -> str:
    """Run uv and return its output. If uv is missing, install it first. Raises :class:`InstallError`, naming ``doing``."""
    if importlib.util.find_spec("uv") is None:
        pin = next(line for line in (ERAS / "common.txt").read_text().splitlines() if line.startswith("uv=="))
        _run([sys.executable, "-m", "pip", "install", "--quiet", pin], doing="installing uv")
    environment = dict(os.environ)
    if "PIP_FIND_LINKS" in environment:
        environment.setdefault("UV_FIND_LINKS", ",".join(environment["PIP_FIND_LINKS"].split()))
    return _run([sys.executable, "-m", "uv", *arguments], doing=doing, environment=environment)


def _run(command: Sequence[str], *, doing: str, environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", check=False, timeout=TIME_LIMIT_S
        )
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"{doing} took longer than {TIME_LIMIT_S:.0f} s: check the network and try again") from error
    if done.returncode:
        advice = next((advice for refusal, advice in REFUSALS.items() if refusal in done.stderr), "")
        raise InstallError(f"{doing} failed{advice and f' ({advice})'}:\n{done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
