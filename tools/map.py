"""Is the map of steps what `asv run` stored at the steps, and are the true history's figures those of the releases?

``python -m tools.map CLONE`` compares, in the results of the root:

1. the mean error of every cell at the commit before each step of ``docs/steps/main.json`` and at the step: how many of the
   map's cells moved, and which others did. Those moved back later, so that a search between two ends passes over them;
2. every figure at a release's tag in ``CLONE``, a clone of TransformerLens, with the one that ``releases/results`` has of
   the same release from PyPI. Exit status 1 if any differs.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tools.sweeps import figures

ROOT = Path(__file__).resolve().parents[1]
MACHINE = "shared-x86-64"
MEAN = "accuracy.Logit.track_mean"


def main(clone):
    of_main, of_releases = (by_commit(ROOT / name / MACHINE) for name in ("results", "releases/results"))
    steps = json.loads((ROOT / "docs" / "steps" / "main.json").read_text())["steps"]
    counts = Counter()
    for step in steps:
        known = {words(cell["cell"].values()) for cell in step["cells"]}
        before, after = of_main.get(step["before"]), of_main.get(step["after"])
        if before is None or after is None:
            counts["steps without results"] += 1
            continue
        moved = {cell for name, cell in before.keys() | after.keys() if name == MEAN and differ(before, after, cell)}
        counts["steps compared"] += 1
        counts["moved as the map says"] += len(moved & known)
        counts["moved, and not in the map"] += len(moved - known)
        for cell in sorted(moved - known):
            print(f"{step['after'][:8]} {' '.join(cell)}: {before.get((MEAN, cell))} -> {after.get((MEAN, cell))}")
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    differing = 0
    for commit in sorted(of_releases):
        tag = git(ROOT / "releases" / "TransformerLens.git", "describe", "--tags", "--exact-match", commit)
        own, theirs = of_main.get(git(clone, "rev-parse", f"{tag}^{{commit}}")), of_releases[commit]
        if tag and own:
            both = own.keys() & theirs.keys()
            other = sum(own[key] != theirs[key] for key in both)
            differing += other
            print(f"{tag}: {len(both)} figures of both, {other} differ")
    sys.exit(bool(differing))


def by_commit(folder):
    """The stored figures by commit, and then by benchmark and cell."""
    found = {}
    for (commit, name, point), value in figures(folder).items():
        found.setdefault(commit, {})[name, words(" ".join(point).replace("'", "").split())] = value
    return found


def words(cell):
    """A cell's words in one order: results of different ages have them in different ones."""
    return tuple(sorted(cell))


def differ(before, after, cell):
    return before.get((MEAN, cell)) != after.get((MEAN, cell))


def git(folder, *command):
    return subprocess.run(["git", "-C", folder, *command], capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main(*sys.argv[1:])
