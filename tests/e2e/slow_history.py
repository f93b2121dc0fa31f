"""A history of TransformerLens 2.18.0 in which the last commit is slower: one block sleeps in proportion to its time."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

from tests.e2e.conftest import BIN, ROOT, Project, asv_configuration, replace_content, source_of
from tlbench.history import SourceCommit, SourceFile, build_from_trees
from tlbench.paths import cache_dir

RELEASE = "2.18.0"
BLOCK = "transformer_lens/components/transformer_block.py"
SLEEP = """

def _slowed(forward):
    import functools
    import time

    @functools.wraps(forward)
    def slowed(self, *args, **kwargs):
        started = time.perf_counter()
        result = forward(self, *args, **kwargs)
        if self.attn.layer_id == 1:
            time.sleep({share} * self.cfg.n_layers * (time.perf_counter() - started))
        return result

    return slowed


TransformerBlock.forward = _slowed(TransformerBlock.forward)
"""
PATTERN = r"runtime\.(Slowdown|Interval)\.track_forward\('{model} HookedTransformer', 'all_options', 'float32 1x64 cpu'"


def slow_project(folder, share):
    """A folder in which asv's commands work, over the commits ``plain``, ``documented`` and ``slow``.

    Args:
        folder: an empty one.
        share: of the time of all blocks together, how much longer the slow commit takes.
    """
    files = source_of(RELEASE, folder)
    slow = replace_content(files[BLOCK], files[BLOCK].content + SLEEP.format(share=share).encode())
    trees = {
        "plain": files,
        "documented": {**files, "CHANGES": SourceFile(b"words\n")},
        "slow": {**files, BLOCK: slow},
    }
    start = datetime(2025, 1, 1, tzinfo=UTC)
    commits = [
        SourceCommit(f"v{number}", start + timedelta(days=number), name, tree)
        for number, (name, tree) in enumerate(trees.items())
    ]
    hashes = build_from_trees(folder / "history.git", commits)
    (folder / "asv.conf.json").write_text(asv_configuration(folder / "history.git"))
    return Project(folder, {commit.message: hashes[commit.tag] for commit in commits})


def measure(project, model, *commits):
    """Have asv measure the slowdown of the forward pass of models (a pattern) at some commits, again if it was there."""
    (project.folder / "commits").write_text("".join(f"{project.commits[name]}\n" for name in commits))
    environment = {"TLBENCH_CACHE": str(cache_dir()), "PATH": f"{BIN}:{os.environ['PATH']}"}
    subprocess.run([sys.executable, "-m", "asv_plugins.machine", "slow"], check=True, cwd=ROOT)
    project.asv("run", "--machine", "slow", "--bench", PATTERN.format(model=model), "HASHFILE:commits", **environment)
