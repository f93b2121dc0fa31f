"""A mirror of upstream's branches and tags, and what happened there since the last look."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tlbench.environments import GIT_SETTINGS, run_git
from tlbench.environments.commits import Clone
from tlbench.exceptions import BadInput, TlbenchError
from tlbench.paths import cache_dir


class Unreachable(TlbenchError):
    """Upstream cannot be read now. The message gives git's reason."""


@dataclass
class Mirror:
    """A bare copy of a remote repository. Commits that upstream has rewritten stay in it."""

    upstream: str
    path: Path

    @classmethod
    def of(cls, upstream: str, folder: Path) -> Mirror:
        """The mirror in a folder, which is created if need be."""
        mirror = cls(upstream, folder)
        if not (folder / "HEAD").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            mirror._git("init", "--quiet", "--bare", ".")
        return mirror

    @property
    def clone(self) -> Clone:
        """What commits are in it."""
        return Clone(self.path, cache_dir() / "states" / "code.txt")

    def fetch(self) -> None:
        """Fetch every branch and tag as they are now. Raises Unreachable."""
        refs = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
        words = (*GIT_SETTINGS, "-c", "gc.auto=0", "fetch", "--quiet", "--prune", "--no-auto-maintenance")
        done = self._run(*words, "--end-of-options", self.upstream, *refs)
        if done.returncode:
            reason = _reason(done.stderr)
            raise Unreachable(f"cannot fetch {self.upstream} ({reason}): the next pass tries again")

    def heads(self, branches: tuple[str, ...]) -> dict[str, str]:
        """The newest commit of each branch that upstream has."""
        known = self._refs("refs/heads/")
        return {branch: known[branch] for branch in branches if branch in known}

    def tags(self) -> dict[str, str]:
        """The commit of each tag."""
        return self._refs("refs/tags/")

    def base(self, old: str, new: str) -> str | None:
        """The last commit that two histories share; None if they share none, or ``old`` is not here any more."""
        done = self._run("merge-base", old, new)
        return done.stdout.strip() if done.returncode == 0 else None

    def first_parents(self, *ends: str) -> list[str]:
        """The commits behind an end, but not behind those with a ``^``, along first parents, the newest first."""
        return self._git("rev-list", "--first-parent", *ends).split()

    def _refs(self, prefix: str) -> dict[str, str]:
        """Commits by the rest of the reference's name. A tag of something else than a commit is left out."""
        form = "%(refname) %(objecttype) %(objectname) %(*objecttype) %(*objectname)"
        found = {}
        for line in self._git("for-each-ref", f"--format={form}", prefix).splitlines():
            name, *objects = line.split()
            if "commit" in objects:
                found[name.removeprefix(prefix)] = objects[objects.index("commit") + 1]
        return found

    def _git(self, *words: str) -> str:
        done = self._run(*words)
        if done.returncode:
            reason = _reason(done.stderr)
            raise BadInput(f"git {words[0]} failed in {self.path} ({reason}): delete the folder, and it is fetched anew")
        return done.stdout

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run_git(self.path, *words, errors="replace")  # what it says is told on


def _reason(said: str) -> str:
    """The line of git's words that names the cause: what comes after it is advice."""
    lines = said.strip().splitlines() or ["no message"]
    return next((line for line in lines if line.startswith("fatal:")), lines[-1]).removeprefix("fatal: ")
