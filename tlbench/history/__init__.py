"""A git history of TransformerLens's releases, made from the source archives on the package index.

One commit a release, with the upload time as its date, so that ``asv`` can walk releases of which no
clone is at hand. The hashes depend on the archives alone: they are the same on every machine, and a
release published later leaves the earlier ones as they are. Needs ``git``; no working tree is made.

``listing`` knows what the package index has, ``sdists`` reads an archive, ``repository`` writes commits,
and ``releases`` puts the three together.
"""

from tlbench.history.listing import Release
from tlbench.history.releases import History, build_history
from tlbench.history.repository import SourceCommit, SourceFile, build_from_trees
from tlbench.history.sdists import read_sdist

__all__ = [
    "History",
    "Release",
    "SourceCommit",
    "SourceFile",
    "build_from_trees",
    "build_history",
    "read_sdist",
]
