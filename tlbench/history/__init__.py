"""A git history of TransformerLens's releases, built from their source archives on the package index.

Each release becomes one commit, dated by its upload time, so ``asv`` can walk the releases without a clone of
TransformerLens. The commit hashes depend only on the archives: they are the same on every machine, and a later release does
not change earlier ones. Needs ``git``; creates no working tree.

``listing`` lists the releases, ``sdists`` reads an archive, ``repository`` writes commits, ``releases`` combines the three.
"""

from tlbench.history.listing import Release
from tlbench.history.releases import History, build_history
from tlbench.history.repository import SourceCommit, SourceFile, build_from_trees
from tlbench.history.sdists import read_sdist

__all__ = ["History", "Release", "SourceCommit", "SourceFile", "build_from_trees", "build_history", "read_sdist"]
