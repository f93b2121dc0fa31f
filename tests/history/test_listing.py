"""What the package index says of TransformerLens, what is kept of it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pypi_simple import NoSuchProjectError, ProjectPage, PyPISimple

from tlbench.exceptions import BadInput
from tlbench.history import History, Release, build_history
from tlbench.history.listing import Listing, list_releases, newest

from .helpers import FIRST_UPLOAD, FakeIndex, package

SDIST = "transformer_lens-1.2.2.tar.gz"


def test_every_sdist_is_a_release_dated_in_whole_seconds_yanked_or_not(tmp_path: Path) -> None:
    index = FakeIndex(tmp_path)
    index.packages = [
        package(SDIST, is_yanked=True, upload_time=FIRST_UPLOAD + timedelta(microseconds=999_999)),
        package("transformer_lens-1.2.2-py3-none-any.whl"),
        package("transformer_lens-1.2.3-py3-none-any.whl"),
    ]
    listing = list_releases(index, tmp_path)

    assert listing.releases == (Release("1.2.2", SDIST, "a" * 64, FIRST_UPLOAD),)
    assert listing.skipped == {"1.2.3": "has no .tar.gz sdist"}


def test_what_was_listed_is_known_without_a_network(tmp_path: Path) -> None:
    index = FakeIndex(tmp_path)
    index.packages = [package(SDIST), package("transformer_lens-1.2.3-py3-none-any.whl")]
    online = list_releases(index, tmp_path)
    index.reachable = False
    offline = list_releases(index, tmp_path)

    assert (online.offline, offline.offline) == (False, True)
    assert offline.releases == online.releases
    assert offline.skipped == online.skipped


@pytest.mark.parametrize("kept", [None, "[]", '{"releases": '])
def test_without_a_network_and_without_a_listing_the_error_says_so(tmp_path: Path, kept: str | None) -> None:
    index = FakeIndex(tmp_path)
    index.reachable = False
    if kept is not None:
        (tmp_path / "releases.json").write_text(kept)
    with pytest.raises(BadInput, match=r"could not be reached .* no earlier listing"):
        list_releases(index, tmp_path)


def test_an_empty_answer_is_refused_and_does_not_replace_the_kept_listing(
    build: Callable[..., History], index: FakeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = build()
    monkeypatch.setattr(index, "packages", [])
    with pytest.raises(BadInput, match="no source release selected: the package index has 0 source releases"):
        build()
    index.reachable = False

    assert build().commits == before.commits


def test_an_index_without_the_project_is_not_taken_for_a_missing_network(
    index: FakeIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(project: str, timeout: float) -> ProjectPage:
        raise NoSuchProjectError(project, index.get_project_url(project))

    list_releases(index, tmp_path)
    monkeypatch.setattr(index, "get_project_page", answer)
    with pytest.raises(BadInput, match=r"NoSuchProjectError.*PIP_INDEX_URL"):
        list_releases(index, tmp_path)


@pytest.mark.parametrize("missing", [{"upload_time": None}, {"digests": {}}, {"version": None}])
def test_an_index_without_dates_or_digests_is_refused(tmp_path: Path, missing: dict[str, object]) -> None:
    index = FakeIndex(tmp_path)
    index.packages = [package(SDIST, **missing)]
    with pytest.raises(BadInput, match=r"transformer_lens-1\.2\.2\.tar\.gz"):
        list_releases(index, tmp_path)


def test_pips_own_variable_names_another_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(self: PyPISimple, project: str, timeout: float) -> ProjectPage:
        asked.append(self.get_project_url(project))
        raise ConnectionError

    monkeypatch.setattr(PyPISimple, "get_project_page", answer)
    monkeypatch.setenv("PIP_INDEX_URL", "http://localhost:1/simple")
    with pytest.raises(BadInput, match="could not be reached"):
        build_history(tmp_path / "tl.git", downloads=tmp_path / "sdists")
    assert asked == ["http://localhost:1/simple/transformer-lens/"]
    assert not (tmp_path / "tl.git").exists()


def test_the_newest_release_is_the_final_one_with_the_highest_version() -> None:
    dates = {"2.9.0": 5, "2.10.0": 2, "3.0.0b1": 9}
    releases = tuple(Release(v, f"{v}.tar.gz", "", datetime(2026, 1, day, tzinfo=UTC)) for v, day in dates.items())
    assert newest(Listing(releases, {})).version == "2.10.0"
    with pytest.raises(BadInput, match="no release of TransformerLens"):
        newest(Listing(releases[2:], {}))
