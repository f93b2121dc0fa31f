"""Write a bare git repository from file trees, with the same hashes on every machine, completely or not at all."""

from __future__ import annotations

import hashlib
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
"""Prefix of the ``description`` file in repositories built here. tlbench never replaces a repository without it."""
FAST = ("-c", "core.compression=1", "-c", "core.bigFileThreshold=100k")
"""Compress little, and compare large files with no other: a third of the time for an eighth more of the disk."""


class SourceFile(NamedTuple):
    """A file in a commit."""

    content: bytes
    executable: bool = False


@dataclass(frozen=True)
class SourceCommit:
    """A commit to write.

    Attributes:
        tag: the name of its tag, e.g. ``v2.8.1``.
        time: the date of author and committer, with a time zone. It is written in UTC, in whole seconds.
        message: the full commit message.
        files: the full tree: files by path, e.g. ``folder/name.py``.
        branch: the branch to move to this commit, or None if only the tag points to it.
        parent: the tag of the parent commit; by default the branch's newest commit, if there is one.
    """

    tag: str
    time: datetime
    message: str
    files: Mapping[str, SourceFile]
    branch: str | None = MAIN
    parent: str | None = None


def build_from_trees(repository: Path, commits: Iterable[SourceCommit], *, origin: str = "trees") -> dict[str, str]:
    """Write commits to a new bare repository, whose ``HEAD`` points to ``main``, and return commit hash by tag.

    The hashes depend only on the commits, never on the machine or the git configuration. Parents come first; an iterator of
    commits is consumed one at a time. ``origin`` says what the repository is built from; see :func:`origin_of`.

    Raises:
        BadInput: if git is missing, ``repository`` exists and tlbench did not build it, a path is unsafe, a tag occurs
            twice, or a parent does not come first. Nothing is written in any of these cases.
    """
    require_writable(repository)
    with folder_written_whole(repository) as folder:
        _git(folder, "init", "--quiet", "--bare", "--template=")
        _git(folder, "symbolic-ref", "HEAD", f"refs/heads/{MAIN}")
        _git(folder, "fast-import", "--quiet", "--done", "--date-format=raw", settings=FAST, feed=_stream(commits))
        (folder / "description").write_text(f"{MARK}{origin}\n")
        return tags_of(folder)


def require_writable(repository: Path) -> None:
    """Raise ``BadInput`` unless git exists and the path is free, an empty folder, or a repository built by tlbench."""
    if shutil.which("git") is None:
        raise BadInput("cannot build a git history: no git on PATH: install git")
    if repository.is_dir() and not any(repository.iterdir()):
        return
    if repository.exists() and origin_of(repository) is None:
        raise BadInput(f"cannot write {repository}: it exists and tlbench did not create it: choose another path")


def origin_of(repository: Path) -> str | None:
    """What the repository was built from, or None if it does not exist or tlbench did not build it."""
    try:
        description = (repository / "description").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    return description.removeprefix(MARK).strip() if description.startswith(MARK) else None


def tags_of(repository: Path) -> dict[str, str]:
    """Commit hash by tag, sorted by tag name."""
    lines = _git(repository, "for-each-ref", "--format=%(refname:strip=2) %(objectname)", "refs/tags").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def safe_parts(path: str, where: str) -> list[str]:
    """The parts of a path found in ``where``. Raises ``BadInput`` if it could lead outside its folder or into ``.git``."""
    parts = path.removeprefix("./").split("/")
    if any(part in ("", ".", "..") or part.lower() == ".git" for part in parts) or set(path) & set("\n\r\0"):
        raise BadInput(
            f"unsafe path {path!r} in {where}: use relative paths without '..' and '.git', and do not trust an archive that "
            "has others"
        )
    return parts


def _stream(commits: Iterable[SourceCommit]) -> Iterator[bytes]:
    """The commits for ``git fast-import``. Without ``from``, it makes the branch's newest commit the parent.

    A file's content is sent once and then named by git's hash: most files of a release are those of the one before.
    """
    marks: dict[str, int] = {}
    sent: set[str] = set()
    for mark, commit in enumerate(commits, start=1):
        if commit.tag in marks or (commit.parent and commit.parent not in marks) or commit.time.tzinfo is None:
            raise BadInput(
                f"cannot write commit {commit.tag!r} with parent {commit.parent!r} and time {commit.time}: each commit "
                "needs a unique tag, a parent that comes before it, and a time with a time zone"
            )
        ref = f"refs/heads/{commit.branch}" if commit.branch else f"refs/tags/{commit.tag}"
        who = f"{IDENTITY} {int(commit.time.timestamp())} +0000"
        yield f"commit {ref}\nmark :{mark}\nauthor {who}\ncommitter {who}\n".encode() + _data(commit.message.encode())
        if commit.parent:
            yield f"from :{marks[commit.parent]}\n".encode()
        yield b"deleteall\n"
        for path, file in sorted(commit.files.items()):
            quoted = "/".join(safe_parts(path, commit.tag)).replace("\\", "\\\\").replace('"', '\\"')
            blob = hashlib.sha1(b"blob %d\0" % len(file.content) + file.content, usedforsecurity=False).hexdigest()
            where = blob if blob in sent else "inline"
            yield f'M {"100755" if file.executable else "100644"} {where} "{quoted}"\n'.encode()
            if blob not in sent:
                sent.add(blob)
                yield _data(file.content)
        yield f"reset refs/tags/{commit.tag}\nfrom :{mark}\n\n".encode()
        marks[commit.tag] = mark
    yield b"done\n"


def _data(content: bytes) -> bytes:
    return b"data %d\n%b\n" % (len(content), content)


def _git(repository: Path, *arguments: str, settings: Iterable[str] = (), feed: Iterable[bytes] = ()) -> str:
    """Run git on the repository with ``feed`` as its input and no configuration but ``settings``. Returns its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "LC_ALL": "C"}
    command = ["git", *settings, f"--git-dir={repository}", *arguments]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as stderr_file:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=stderr_file, env=environment)
        assert process.stdin is not None
        try:
            with process:
                process.stdin.writelines(feed)
        except BrokenPipeError:
            pass  # git exited early; its exit status and stderr say why
        printed = stderr_file if process.returncode else output
        printed.seek(0)
        text = printed.read().decode(errors="replace").strip()
    if process.returncode:
        reason = text or "no error message"
        raise BadInput(f"git {arguments[0]} failed on {repository} ({reason}): fix the cause, or free disk space")
    return text
