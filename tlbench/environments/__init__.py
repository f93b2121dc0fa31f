"""Python environments: this project's own, which computes references, and those with a TransformerLens under test."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import distributions
from pathlib import Path

from tlbench.environments import installer
from tlbench.environments.provenance import RECORD_NAME
from tlbench.exceptions import BadInput
from tlbench.files import locked
from tlbench.paths import cache_dir, package_dir

Say = Callable[[str], None]
VERSION_PATTERN = re.compile(r"v?(\d+\.\d+(\.\d+)?\w*)")
COMMIT_PATTERN = re.compile(r"[0-9a-f]{7,40}")
PROJECT = "transformer-lens"


@dataclass(frozen=True)
class LensEnvironment:
    """An environment with a TransformerLens: its interpreter, and what is installed, as the user named it."""

    python: Path
    name: str


@contextmanager
def _as_bad_input() -> Iterator[None]:
    """Within the block, turn an installer's failure into ``BadInput``."""
    try:
        yield
    except installer.InstallError as error:
        raise BadInput(str(error)) from error


@_as_bad_input()
def reference_python(measuring: Path) -> Path:
    """An interpreter with the pinned torch and transformers, which compute goldens.

    The first of: the one that is ``measuring``, so that one import serves both; the environment that ``make`` created in the
    repository; one created in the cache.

    Raises:
        BadInput: if the environment must be created and that fails.
    """
    of_make = package_dir().parent / ".venv" / "bin" / "python"
    lock = package_dir().parent / "requirements.lock"
    if _is_pinned(measuring, lock):
        return measuring
    if of_make.exists():
        return of_make
    folder = cache_dir() / "envs" / f"reference-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    python, done = folder / "bin" / "python", folder / "complete"
    with locked(folder.with_suffix(".lock")):
        if not done.exists():
            installer.run_uv("venv", "--quiet", "--clear", str(folder), doing="creating the environment for references")
            install = ("pip", "install", "--quiet", "--python", str(python), "--requirements", str(lock))
            installer.run_uv(*install, doing="installing the packages for references")
            done.touch()
    return python


@_as_bad_input()
def lens_environment(wanted: str, say: Say = lambda _: None) -> LensEnvironment:
    """A separate environment with one TransformerLens installed. It is kept and reused.

    Args:
        wanted: the folder of a source tree, a release (``4.3.0``), or a commit of upstream's repository.
        say: receives a short progress message at each step.

    Raises:
        BadInput: if ``wanted`` is none of these, cannot be downloaded, or does not build or install.
    """
    source = Path(wanted).expanduser()
    if source.is_dir():
        if not (source / "pyproject.toml").is_file():
            advice = "give the top folder of a TransformerLens source tree"
            raise BadInput(f"--tl {wanted}: no pyproject.toml in this folder: {advice}")
        return _of_tree(source.resolve(), wanted, say)
    if match := VERSION_PATTERN.fullmatch(wanted):
        return _of_release(match[1], say)
    if COMMIT_PATTERN.fullmatch(wanted):
        return _of_commit(wanted, say)
    raise BadInput(f"invalid --tl {wanted!r}: expected a folder, a release, e.g. 4.3.0, or a commit hash")


def _of_tree(source: Path, name: str, say: Say, commit: str = "") -> LensEnvironment:
    with tempfile.TemporaryDirectory(prefix="tlbench-wheel-") as wheels:
        say("building TransformerLens")
        installer.build(source, Path(wheels))
        (wheel,) = Path(wheels).glob("*.whl")
        return _installed(f"tree-{_content_digest(wheel)}", wheel, commit, name, say)


def _of_release(release: str, say: Say) -> LensEnvironment:
    if python := _existing(release):
        return LensEnvironment(python, release)
    from tlbench.environments.package_index import wheel

    return _installed(release, wheel(PROJECT, release, cache_dir() / "downloads", say), f"v{release}", release, say)


def _of_commit(commit: str, say: Say) -> LensEnvironment:
    for repository in _repositories():
        done = _git(repository, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
        if done.returncode == 0:
            full = done.stdout.strip()
            if python := _existing(full[:12]):
                return LensEnvironment(python, full[:8])
            with tempfile.TemporaryDirectory(prefix="tlbench-tree-") as folder:
                say(f"checking out {full[:8]}")
                _git_archive(repository, full, Path(folder))
                return _of_tree(Path(folder), full[:8], say, full)
    raise BadInput(
        f"--tl {commit}: no such commit in the clones of TransformerLens on this machine: run `asv run` once where GitHub "
        "can be reached, or give the folder of a source tree"
    )


def _repositories() -> list[Path]:
    """The clones of TransformerLens in this repository: asv's clone of upstream, and the history of releases."""
    root = package_dir().parent
    return [path for path in (root / "transformer-lens", root / "releases" / "TransformerLens.git") if path.is_dir()]


def _git(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=False)


def _git_archive(repository: Path, commit: str, folder: Path) -> None:
    archive = folder / ".tar"
    done = _git(repository, "archive", "--format=tar", f"--output={archive}", commit)
    if done.returncode:
        raise BadInput(f"--tl {commit[:8]}: cannot read it from {repository}: {done.stderr.strip()}")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()


def _installed(key: str, wheel: Path, commit: str, name: str, say: Say) -> LensEnvironment:
    folder = _folder(key)
    python = folder / "bin" / "python"
    with locked(folder.with_suffix(".lock")):
        if not _existing(key):
            say("installing TransformerLens and its dependencies")
            doing = f"creating an environment for TransformerLens {name}"
            installer.run_uv("venv", "--quiet", "--clear", str(folder), doing=doing)
            installer.install(wheel, commit, str(python))
    return LensEnvironment(python, name)


def _existing(key: str) -> Path | None:
    """The interpreter of a complete environment, or None. The installer writes its record last, so the record proves it."""
    folder = _folder(key)
    return folder / "bin" / "python" if (folder / RECORD_NAME).exists() else None


def _folder(key: str) -> Path:
    pins = b"".join(path.read_bytes() for path in sorted(installer.ERAS.glob("*.txt")))
    return cache_dir() / "envs" / f"tl-{key}-{hashlib.sha256(pins).hexdigest()[:8]}"


def _content_digest(wheel: Path) -> str:
    """A hash of a wheel's content. The archive's own bytes would not do, because they include the build time."""
    with zipfile.ZipFile(wheel) as archive:
        members = sorted((info.filename, info.CRC, info.file_size) for info in archive.infolist())
    return hashlib.sha256(repr(members).encode()).hexdigest()[:12]


@lru_cache
def _is_pinned(python: Path, lock: Path) -> bool:
    """Whether an interpreter's environment has the pinned torch and transformers."""
    pins = dict(line.split("==") for line in lock.read_text().splitlines() if "==" in line)
    packages = [str(folder) for folder in python.parent.parent.glob("lib/python3*/site-packages")]
    installed = {
        name: {found.version.split("+")[0] for found in distributions(name=name, path=packages)}
        for name in ("torch", "transformers")
    }
    return all(versions == {pins[name]} for name, versions in installed.items())
