"""A bare git repository from whole trees: the same hashes everywhere, written whole or not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from tlbench.exceptions import BadInput
from tlbench.files import folder_written_whole

MAIN = "main"
IDENTITY = "TransformerLens releases <releases@localhost>"
MARK = "built by tlbench from "
"""How the ``description`` file of each repository made here begins; nothing else is ever replaced."""


class SourceFile(NamedTuple):
    """One file of a commit."""

    content: bytes
    executable: bool = False


@dataclass(frozen=True)
class SourceCommit:
    """One commit to be written.

    Attributes:
        tag: the name of its tag, such as ``v2.8.1``.
        time: the date of author and committer, with a time zone; written in UTC, whole seconds.
        message: the whole message.
        files: the whole tree, from path (``folder/name.py``) to file.
        branch: the branch that moves to it; none if only the tag shall hold it.
        parent: the tag of its parent; by default the newest commit of the branch, if there is one.
    """

    tag: str
    time: datetime
    message: str
    files: Mapping[str, SourceFile]
    branch: str | None = MAIN
    parent: str | None = None


def build_from_trees(repository: Path, commits: Iterable[SourceCommit], *, origin: str = "trees") -> dict[str, str]:
    """Write ``commits``, parents first, as a new bare repository.

    The hashes depend on the commits alone, never on the machine or on git's configuration. ``HEAD``
    points at ``main``. An iterator is consumed one commit at a time. ``origin`` goes into git's own
    ``description`` file, to tell later what the repository was built from.

    Returns:
        From tag to commit hash.

    Raises:
        BadInput: without git; if ``repository`` exists and is not ours; for a path that is unsafe, a tag
            that occurs twice or a parent that does not come before. Nothing is written then.
    """
    require_writable(repository)
    with folder_written_whole(repository) as folder:
        _git(folder, "init", "--quiet", "--bare", "--template=")
        _git(folder, "symbolic-ref", "HEAD", f"refs/heads/{MAIN}")
        _git(folder, "fast-import", "--quiet", "--done", "--date-format=raw", feed=_stream(commits))
        (folder / "description").write_text(f"{MARK}{origin}\n")
        return tags_of(folder)


def require_writable(repository: Path) -> None:
    """Refuse to start without git, or to replace anything but an empty folder or a repository made here.

    Raises:
        BadInput: in either case.
    """
    if shutil.which("git") is None:
        raise BadInput("asked for a git history; no git was found on PATH: install git")
    if repository.is_dir() and not any(repository.iterdir()):
        return
    if repository.exists() and origin_of(repository) is None:
        raise BadInput(f"asked to write {repository}; it is there and tlbench did not make it: choose another path")


def origin_of(repository: Path) -> str | None:
    """What the repository was built from; none if it is absent or was not built here."""
    try:
        description = (repository / "description").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    return description.removeprefix(MARK).strip() if description.startswith(MARK) else None


def tags_of(repository: Path) -> dict[str, str]:
    """From tag to commit hash, in order of names."""
    lines = _git(repository, "for-each-ref", "--format=%(refname:strip=2) %(objectname)", "refs/tags").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def safe_parts(path: str, where: str) -> list[str]:
    """The folders and the name of a relative path; ``where`` is what it was found in.

    Raises:
        BadInput: if it could lead out of its folder or into git's own.
    """
    parts = path.removeprefix("./").split("/")
    if any(part in ("", ".", "..") or part.lower() == ".git" for part in parts) or set(path) & set("\n\r\0"):
        raise BadInput(
            f"{where} has a file {path!r}, whose path is unsafe: use relative paths without '..' and '.git', "
            "and do not trust an archive that has others"
        )
    return parts


def _stream(commits: Iterable[SourceCommit]) -> Iterator[bytes]:
    """The commits in the language of ``git fast-import``, which moves branches and tags only at the end.

    It takes a branch's newest commit for the parent of one that has no ``from``.
    """
    marks: dict[str, int] = {}
    for mark, commit in enumerate(commits, start=1):
        if commit.tag in marks or (commit.parent and commit.parent not in marks) or commit.time.tzinfo is None:
            raise BadInput(
                f"cannot write the commit {commit.tag!r} with parent {commit.parent!r} and time {commit.time}: give "
                "each a tag of its own, a parent that comes before it, and a time with a time zone"
            )
        ref = f"refs/heads/{commit.branch}" if commit.branch else f"refs/tags/{commit.tag}"
        who = f"{IDENTITY} {int(commit.time.timestamp())} +0000"
        yield f"commit {ref}\nmark :{mark}\nauthor {who}\ncommitter {who}\n".encode() + _data(commit.message.encode())
        if commit.parent:
            yield f"from :{marks[commit.parent]}\n".encode()
        yield b"deleteall\n"
        for path, file in sorted(commit.files.items()):
            quoted = "/".join(safe_parts(path, commit.tag)).replace("\\", "\\\\").replace('"', '\\"')
            yield f'M {"100755" if file.executable else "100644"} inline "{quoted}"\n'.encode() + _data(file.content)
        yield f"reset refs/tags/{commit.tag}\nfrom :{mark}\n\n".encode()
        marks[commit.tag] = mark
    yield b"done\n"


def _data(content: bytes) -> bytes:
    return b"data %d\n%b\n" % (len(content), content)


def _git(repository: Path, *arguments: str, feed: Iterable[bytes] = ()) -> str:
    """Run git on the repository with ``feed`` as its input, and hand back its output."""
    command = ["git", f"--git-dir={repository}", *arguments]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as complaint:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=complaint, env=_environment())
        assert process.stdin is not None
        try:
            with process:
                process.stdin.writelines(feed)
        except BrokenPipeError:
            pass  # git stopped early; its exit status and complaint say why
        said = complaint if process.returncode else output
        said.seek(0)
        text = said.read().decode(errors="replace").strip()
    if process.returncode:
        raise BadInput(
            f"git {arguments[0]} failed on {repository} ({text or 'no reason given'}): "
            "free space there, or mend what git complains of"
        )
    return text


def _environment() -> dict[str, str]:
    """The environment without anything by which a user or a system tells git to do otherwise."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**plain, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "LC_ALL": "C"}
