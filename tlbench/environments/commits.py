"""Commits in a clone of TransformerLens: their order, files, and code."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path

from tlbench.environments.provenance import PACKAGE
from tlbench.exceptions import BadInput, CellFailed
from tlbench.files import canonical_json, tree_digest, written_whole

BUILD_FILE = re.compile(r"(pyproject\.toml|setup\.(py|cfg)|.*build.*\.py)$")
"""Files in the top folder that decide how a wheel is built. Of the others, such as README.md, only their presence counts."""
LEFT_OUT = re.compile(r".*\.(ipynb|lock)$")
PULL_REQUEST = re.compile(r"\(#(\d+)\)\s*$|^Merge pull request #(\d+)")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Commit:
    """What a reader wants to know of a commit.

    Attributes:
        date: the author's date, YYYY-MM-DD.
        pull_request: its number; "" if neither the subject nor the merge that brought the commit names one.
    """

    hash: str
    subject: str
    author: str
    date: str
    pull_request: str

    @property
    def short(self) -> str:
        """The first characters of the hash."""
        return self.hash[:8]


@dataclass
class Clone:
    """A git repository of TransformerLens.

    Attributes:
        code_file: where the digests of files' code are kept between runs, if anywhere.
    """

    path: Path
    code_file: Path | None = None
    _trees: dict[str, dict[str, str]] = field(default_factory=dict)

    def resolve(self, name: str) -> str:
        """The full hash of a commit, tag, release or branch. Raises BadInput if the repository has none of this name."""
        spellings = (name, f"v{name}") if re.match(r"\d+\.", name) else (name,)
        for spelling in spellings:
            done = self._run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{spelling}^{{commit}}")
            if done.returncode == 0:
                return done.stdout.decode().strip()
        raise BadInput(
            f"no commit {name!r} in {self.path}: give a hash, tag, release or branch of it, fetch upstream if it is newer "
            "or rewritten, or name another clone with --repository"
        )

    def last_release(self, commit: str) -> str:
        """The commit of the last tag behind a commit. Raises BadInput if there is none."""
        done = self._run("describe", "--tags", "--abbrev=0", f"{commit}^")
        if done.returncode:
            raise BadInput(f"no tag is behind {commit[:8]} in {self.path}: name a commit to compare with")
        return self.resolve(done.stdout.decode().strip())

    def last_releases(self, commit: str, count: int) -> list[str]:
        """The commits of the last tags behind a commit, the newest first. Raises BadInput if there are fewer."""
        found = [*islice(self.releases(commit), count)]
        if len(found) < count:
            raise BadInput(
                f"{len(found)} tags are behind {commit[:8]} in {self.path}, and {count} are needed: ask for fewer"
            )
        return found

    def releases(self, commit: str) -> Iterator[str]:
        """The commits of all tags behind a commit, the newest first."""
        with suppress(BadInput):
            while True:
                commit = self.last_release(commit)
                yield commit

    def release_behind(self, commit: str) -> str:
        """The last tag at or behind a commit, or ""."""
        return self._run("describe", "--tags", "--abbrev=0", commit).stdout.decode().strip()

    def release_with(self, commit: str) -> str:
        """The first tag that has a commit, or ""."""
        found = self._run("tag", "--contains", commit, "--sort=creatordate").stdout.decode().split()
        return found[0] if found else ""

    def common(self, one: str, other: str) -> str:
        """The last commit in the histories of both. Raises BadInput if there is none."""
        done = self._run("merge-base", one, other)
        if done.returncode:
            raise BadInput(f"{one[:8]} and {other[:8]} have no commit in common in {self.path}: fetch it whole")
        return done.stdout.decode().strip()

    def require_range(self, good: str, bad: str) -> None:
        """Raise BadInput unless ``good`` is another commit than ``bad`` and behind it."""
        if good == bad:
            raise BadInput(f"{good[:8]} is both ends of the range: name two commits")
        if self._run("merge-base", "--is-ancestor", good, bad).returncode:
            base = self._run("merge-base", good, bad).stdout.decode().strip()
            other = f"the last commit in both histories is {base}" if base else "they have no commit in common"
            turned = "; turn the range round" if base == bad else ""
            raise BadInput(f"{good[:8]} is not behind {bad[:8]} in {self.path}: {other}{turned}")

    def parents(self, newest: str) -> dict[str, tuple[str, ...]]:
        """A commit and all behind it, each with its parents, parents first."""
        lines = self._git("rev-list", "--parents", "--topo-order", "--reverse", newest).decode().splitlines()
        return {commit: tuple(parents) for commit, *parents in map(str.split, lines)}

    def commits(self, range: str) -> list[str]:
        """The first-parent commits of a git range such as ``v4.0.0..v4.3.0``, or of one name, the newest first.

        Raises BadInput if the repository has none of these names, or the range is empty.
        """
        if ".." not in range and not range.endswith("^!"):
            return [self.resolve(range)]
        for name in filter(None, range.removesuffix("^!").split("..")):
            self.resolve(name)
        found = self._git("rev-list", "--first-parent", range, "--").decode().split()
        if not found:
            raise BadInput(f"no commit is in {range}: the first name of a range is the older one and is left out")
        return found

    def details(self, commit: str, newest: str) -> Commit:
        """A commit's details. If its subject names no pull request, the merge on the way to ``newest`` may."""
        fields = self._git("log", "-1", "--format=%s%x09%an%x09%as", commit, "--").decode().strip().split("\t")
        subject, author, date = ("\t".join(fields[:-2]), *fields[-2:])
        number = pull_request(subject)
        if not number and newest != commit:
            number = self._brought_by(commit, newest)
        return Commit(commit, subject, author, date, number)

    def _brought_by(self, commit: str, newest: str) -> str:
        """The pull request of the first merge on the way to ``newest`` that brought a commit to its first parent, or ""."""
        if commit in self._git("rev-list", "--first-parent", newest).decode().split():
            return ""
        way = ("--ancestry-path", "--merges", "--reverse", "--topo-order", "--format=%H %s", f"{commit}..{newest}", "--")
        for line in self._git("log", *way).decode(errors="replace").splitlines():
            merge, _, subject = line.partition(" ")
            if self._run("merge-base", "--is-ancestor", commit, f"{merge}^1").returncode:
                return pull_request(subject)
        return ""

    def files(self, commit: str) -> dict[str, str]:
        """The blob of each file of the package, and of each in the top folder, by path."""
        if commit not in self._trees:
            package = self._git("ls-tree", "-r", "-z", commit, "--", PACKAGE)
            top = self._git("ls-tree", "-z", commit)
            entries = (line.split(maxsplit=3) for line in (top + package).decode().split("\0") if line)
            self._trees[commit] = {name: blob for _, kind, blob, name in entries if kind == "blob"}
        return self._trees[commit]

    def build_files(self, commit: str) -> dict[str, str]:
        """What decides a commit's wheel but for the package's own files."""
        top = {name: blob for name, blob in self.files(commit).items() if "/" not in name and not LEFT_OUT.match(name)}
        return {name: blob if BUILD_FILE.match(name) else "" for name, blob in top.items()}

    def package(self, commit: str) -> dict[str, str]:
        """The blob of each file of the package, by its path in the package. Empty if there is no package."""
        prefix = f"{PACKAGE}/"
        return {name.removeprefix(prefix): blob for name, blob in self.files(commit).items() if name.startswith(prefix)}

    def content(self, commit: str) -> str:
        """A hash of everything in a commit that can move a figure: code without comments and docstrings, and the build."""
        files = self.package(commit)
        self._learn(blob for name, blob in files.items() if name.endswith(".py"))
        code = {name: self._code.get(blob, blob) for name, blob in files.items()}
        return tree_digest({**code, "build": canonical_json(self.build_files(commit))})

    def blobs(self, names: Iterable[str]) -> dict[str, bytes]:
        """The contents of blobs. Those that the clone does not have are left out."""
        wanted = list(dict.fromkeys(names))
        found: dict[str, bytes] = {}
        output = self._git("cat-file", "--batch", feed="".join(f"{name}\n" for name in wanted).encode())
        position = 0
        for name in wanted:
            end = output.index(b"\n", position)
            header = output[position:end].split()
            position = end + 1
            if header[-1] != b"missing":
                size = int(header[2])
                found[name] = output[position : position + size]
                position += size + 1
        return found

    def write(self, commit: str, folder: Path, *, top: bool = False) -> dict[str, bytes]:
        """Write the package into a folder, with ``top`` also the files beside it, and return the package's files.

        Raises CellFailed if the clone lacks a file with code.
        """
        files = {f"{PACKAGE}/{name}": blob for name, blob in self.package(commit).items()}
        if not files:
            raise CellFailed(f"it has no folder {PACKAGE}")
        if top:
            files |= {
                name: blob for name, blob in self.files(commit).items() if "/" not in name and not LEFT_OUT.match(name)
            }
        contents = self.blobs(files.values())
        if lacking := [name for name, blob in files.items() if blob not in contents and name.endswith(".py")]:
            raise CellFailed(f"{self.path} lacks {lacking[0]}: fetch it whole")
        written = {name: contents[blob] for name, blob in files.items() if blob in contents}
        for name, content in written.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return {name: content for name, content in written.items() if name.startswith(f"{PACKAGE}/")}

    def keep_code(self) -> None:
        """Keep the digests of code for the next run."""
        if self.code_file:
            with written_whole(self.code_file) as path:
                path.write_text("".join(f"{blob} {digest}\n" for blob, digest in self._code.items()))

    @cached_property
    def _code(self) -> dict[str, str]:
        """By blob, a digest of the code in it."""
        lines = self.code_file.read_text().splitlines() if self.code_file and self.code_file.is_file() else []
        return {blob: digest for blob, _, digest in (line.partition(" ") for line in lines)}

    def _learn(self, blobs: Iterable[str]) -> None:
        if unknown := [blob for blob in blobs if blob not in self._code]:
            contents = self.blobs(unknown)
            self._code.update({blob: code_of(contents[blob]) if blob in contents else blob for blob in unknown})

    def _git(self, *words: str, feed: bytes = b"") -> bytes:
        done = self._run(*words, feed=feed)
        if done.returncode:
            reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
            raise BadInput(f"git {words[0]} failed in {self.path} ({reason}): fetch the clone whole, or name another")
        return done.stdout

    def _run(self, *words: str, feed: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
        return subprocess.run(
            ["git", "-C", str(self.path), *words], input=feed, capture_output=True, check=False, env=environment
        )


def pull_request(subject: str) -> str:
    """The number of the pull request that a subject names, or ""."""
    match = PULL_REQUEST.search(subject)
    return next(filter(None, match.groups()), "") if match else ""


@lru_cache
def code_of(source: bytes) -> str:
    """A digest of a module's code without comments, docstrings and places. What does not parse counts as it stands."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return hashlib.sha256(source).hexdigest()
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
