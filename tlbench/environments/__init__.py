"""Python environments: this project's own, which computes references, and those with a TransformerLens under test."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import distributions
from pathlib import Path

from tlbench.environments import installer
from tlbench.environments.provenance import PACKAGE, RECORD_NAME
from tlbench.exceptions import BadInput
from tlbench.files import locked, sha256_of, tree_digest
from tlbench.paths import cache_dir, checkout_dir, package_dir

Say = Callable[[str], None]
MakeWheel = Callable[[Path], Path]
"""Make or find a wheel; it may write into the folder."""
VERSION_PATTERN = re.compile(r"v?(\d+\.\d+(\.\d+)?\w*)")
COMMIT_PATTERN = re.compile(r"[0-9a-f]{7,40}")
FULL_HASH_LENGTH = 40
PROJECT = "transformer-lens"
LOCK_NAME = "requirements.lock"
UPSTREAM = "https://github.com/TransformerLensOrg/TransformerLens.git"
GIT_TIME_LIMIT_S = 600.0
GIT_SETTINGS = ("-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=30")
"""git gives up on a connection that stays below 1000 bytes a second for 30 s."""


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

    The first of these that has them: the one that is ``measuring``, so that one import serves both; the environment that
    ``make`` created in the repository; one created in the cache.

    Raises:
        BadInput: if there are no pins, or the environment must be created and that fails.
    """
    lock = _lock_file()
    if _is_pinned(measuring, lock):
        return measuring
    checkout = checkout_dir()
    if checkout and _is_pinned(of_make := checkout / ".venv" / "bin" / "python", lock):
        return of_make
    common = installer.ERAS / "common.txt"  # what tlbench needs in any environment
    digest = hashlib.sha256(lock.read_bytes() + common.read_bytes()).hexdigest()
    python = cache_dir() / "envs" / f"reference-{digest[:12]}" / "bin" / "python"
    done = python.parents[1] / "complete"
    with locked(lock_of(python.parents[1])):
        if not (done.exists() and python.exists()):
            create(python.parents[1], "references")
            pins = ("--requirements", str(common), "transformers", "--constraints", str(lock))
            install = ("pip", "install", "--quiet", "--python", str(python), *pins, *installer.torch_backend())
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
        if not is_source_tree(source):
            advice = "give the top folder of a TransformerLens source tree"
            raise BadInput(f"--tl {wanted}: no pyproject.toml and {PACKAGE}/ in this folder: {advice}")
        return _of_tree(source.resolve(), wanted, say)
    if match := VERSION_PATTERN.fullmatch(wanted):
        return _of_release(match[1], say)
    if COMMIT_PATTERN.fullmatch(wanted):
        return _of_commit(wanted, say)
    raise BadInput(f"invalid --tl {wanted!r}: expected a folder, a release, e.g. 4.3.0, or a commit hash")


def is_source_tree(folder: Path) -> bool:
    """Whether a folder is the top of a TransformerLens source tree."""
    return (folder / "pyproject.toml").is_file() and (folder / PACKAGE).is_dir()


def _of_tree(source: Path, name: str, say: Say) -> LensEnvironment:
    return _installed(f"tree-{_source_digest(source)}", lambda folder: _built(source, folder, say), "", name, say)


def _of_release(release: str, say: Say) -> LensEnvironment:
    def download(_: Path) -> Path:
        from tlbench.environments.package_index import wheel

        return wheel(PROJECT, release, cache_dir() / "downloads", say)

    return _installed(release, download, f"v{release}", release, say)


def _of_commit(commit: str, say: Say) -> LensEnvironment:
    repository, full = _found(commit, say)

    def build(folder: Path) -> Path:
        say(f"checking out {full[:8]}")
        source = folder / "source"
        source.mkdir()
        _git_archive(repository, full, source)
        return _built(source, folder, say)

    return _installed(full[:12], build, full, full[:8], say)


def _found(commit: str, say: Say) -> tuple[Path, str]:
    """A repository that has a commit, and its full hash. One that no clone here has is fetched from upstream."""
    fetched = cache_dir() / "clones" / "TransformerLens.git"
    clones = [*repositories(), *([fetched] if fetched.is_dir() else [])]
    for repository in clones:
        done = run_git(repository, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
        if done.returncode == 0:
            return repository, done.stdout.strip()
    absent = f"--tl {commit}: no such commit in the clones of TransformerLens on this machine"
    if len(commit) < FULL_HASH_LENGTH:
        raise BadInput(f"{absent}: give all {FULL_HASH_LENGTH} digits, so that it can be fetched, or a source tree")
    say(f"fetching {commit[:8]}")
    with locked(lock_of(fetched)):
        done = run_git(fetched.parent, "init", "--quiet", "--bare", str(fetched))
        if done.returncode == 0:
            done = run_git(fetched, *GIT_SETTINGS, "fetch", "--quiet", "--depth", "1", UPSTREAM, commit)
    if done.returncode:
        raise BadInput(f"{absent}, and fetching it failed ({_last_line(done.stderr)}): correct it, or give a source tree")
    return fetched, commit


def repositories() -> list[Path]:
    """The clones of TransformerLens in this repository: asv's clone of upstream, and the history of releases."""
    root = checkout_dir()
    clones = [root / "transformer-lens", root / "releases" / "TransformerLens.git"] if root else []
    return [path for path in clones if path.is_dir()]


def run_git(folder: Path, *arguments: str, errors: str = "surrogateescape") -> subprocess.CompletedProcess[str]:
    """Run git in a folder. If it is not installed, or takes too long, that is a failure like any other.

    Args:
        errors: what becomes of bytes that are no UTF-8; by default they are kept, as names of files may have them.
    """
    command = ["git", "-C", str(folder), *arguments]
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        return subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            errors=errors,
            check=False,
            timeout=GIT_TIME_LIMIT_S,
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", "git is not installed")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"git took longer than {GIT_TIME_LIMIT_S:.0f} s")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def _git_archive(repository: Path, commit: str, folder: Path) -> None:
    archive = folder / ".zip"  # Python 3.11.2, which Debian 12 has, cannot extract a tar file safely
    done = run_git(repository, "archive", "--format=zip", f"--output={archive}", commit)
    if done.returncode:
        raise BadInput(f"--tl {commit[:8]}: cannot read it from {repository}: {_last_line(done.stderr)}")
    with zipfile.ZipFile(archive) as files:
        files.extractall(folder)
    archive.unlink()


def _built(source: Path, folder: Path, say: Say) -> Path:
    say("building TransformerLens")
    installer.build(source, folder / "wheels")
    (wheel,) = (folder / "wheels").glob("*.whl")
    return wheel


def _source_digest(source: Path) -> str:
    """A hash of the files of a source tree that may be in its wheel: those in its top folder and those of the package.

    What git ignores is left out and, where git does not know the folder, what Python has compiled.
    """
    listed = run_git(source, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", ":(glob)*", PACKAGE)
    names = listed.stdout.split("\0") if listed.returncode == 0 else []
    files = {source / name for name in names if name}
    if not files:
        inside = (path for path in (source / PACKAGE).rglob("*") if "__pycache__" not in path.parts)
        files = {*source.iterdir(), *inside}
    digests = {path.relative_to(source).as_posix(): sha256_of(path) for path in files if path.is_file()}
    return tree_digest(digests)[:12]


def _installed(key: str, make_wheel: MakeWheel, commit: str, name: str, say: Say) -> LensEnvironment:
    """The environment of a key, which is created if there is none yet."""
    folder = folder_of(key)
    python = folder / "bin" / "python"
    if not _is_complete(folder):
        with locked(lock_of(folder)), tempfile.TemporaryDirectory(prefix="tlbench-wheel-") as temporary:
            if not _is_complete(folder):
                wheel = make_wheel(Path(temporary))
                say("installing TransformerLens and its dependencies")
                create(folder, f"TransformerLens {name}")
                installer.install(wheel, commit, str(python))
    return LensEnvironment(python, name)


def create(folder: Path, purpose: str) -> None:
    """Create an environment with this interpreter's version of Python, which is the one that the locks are for."""
    words = ("venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
    installer.run_uv(*words, doing=f"creating an environment for {purpose}")


def _is_complete(folder: Path) -> bool:
    """Whether an environment can be used. The installer writes its record last, so the record proves it."""
    return (folder / RECORD_NAME).exists() and (folder / "bin" / "python").exists()


def folder_of(key: str) -> Path:
    """Where an environment lies: under what is installed, the pins, and the code that installs it."""
    made_by = b"".join(path.read_bytes() for path in (Path(installer.__file__), *sorted(installer.ERAS.glob("*.txt"))))
    return cache_dir() / "envs" / f"tl-{key}-{hashlib.sha256(made_by).hexdigest()[:8]}"


def lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _lock_file() -> Path:
    """The pins of tlbench's own packages: beside its modules in a wheel, in the top folder of a checkout.

    Raises:
        BadInput: if there are none.
    """
    for folder in (package_dir(), package_dir().parent):
        if (folder / LOCK_NAME).is_file():
            return folder / LOCK_NAME
    raise BadInput(
        f"this installation of tlbench has no {LOCK_NAME}, so it has no pins for references: install the wheel that "
        "`uv build` makes in a checkout"
    )


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
