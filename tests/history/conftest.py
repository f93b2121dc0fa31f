"""Seven releases on an index without a network, and how to build their history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tlbench.history import History, build_history

from .helpers import FakeIndex

VERSIONS = ("1.2.1", "2.17.0", "3.0.0a2", "3.0.0b1", "3.0.0", "4.0.0rc1", "3.9.0")


@pytest.fixture
def index(tmp_path: Path) -> FakeIndex:
    return FakeIndex(tmp_path / "index", VERSIONS)


@pytest.fixture
def build(tmp_path: Path, index: FakeIndex) -> Callable[..., History]:
    """Build ``repository`` (a name) from the fake index; every folder lies in ``tmp_path``."""

    def building(repository: str = "tl.git", downloads: str = "sdists", versions: Sequence[str] | None = None) -> History:
        return build_history(tmp_path / repository, downloads=tmp_path / downloads, versions=versions, index=index)

    return building
