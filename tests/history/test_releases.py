"""The history of releases: where each hangs, and that once is enough, with and without a network."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tlbench.exceptions import BadInput
from tlbench.history import History

from .helpers import FIRST_UPLOAD, FakeIndex, git, git_hash, link

Build = Callable[..., History]


# The commits


def test_a_commit_has_the_hash_that_git_defines_for_its_tree_date_and_message(build: Build, index: FakeIndex) -> None:
    sdist = index.packages[0]
    blob = git_hash("blob", b"__version__ = '1.2.1'\n")
    folder = git_hash("tree", b"100644 __init__.py\0" + bytes.fromhex(blob))
    tree = git_hash("tree", b"40000 transformer_lens\0" + bytes.fromhex(folder))
    who = f"TransformerLens releases <releases@localhost> {int(FIRST_UPLOAD.timestamp())} +0000"
    message = f"TransformerLens 1.2.1\n\nsdist: {sdist.filename}\nsha256: {sdist.digests['sha256']}\n"
    commit = git_hash("commit", f"tree {tree}\nauthor {who}\ncommitter {who}\n\n{message}".encode())

    assert build().commits["v1.2.1"] == commit


def test_main_holds_the_final_releases_and_prereleases_the_others(build: Build) -> None:
    repository = build().repository

    def subjects(*walk: str) -> list[str]:
        return git(repository, "log", "--first-parent", "--format=%s", *walk).splitlines()

    assert subjects("HEAD") == [f"TransformerLens {version}" for version in ("3.9.0", "3.0.0", "2.17.0", "1.2.1")]
    assert subjects("main..prereleases") == [f"TransformerLens {v}" for v in ("4.0.0rc1", "3.0.0b1", "3.0.0a2")]
    assert git(repository, "merge-base", "main", "prereleases") == git(repository, "rev-parse", "v2.17.0")


def test_a_final_release_that_comes_late_hangs_on_the_one_before_its_version(build: Build, index: FakeIndex) -> None:
    for version in ("3.0.1", "0.9"):
        index.upload(version)
    repository = build().repository

    assert git(repository, "rev-parse", "v3.0.1^") == git(repository, "rev-parse", "v3.0.0")
    assert git(repository, "rev-list", "--count", "v0.9") == "1"
    assert git(repository, "rev-parse", "main") == git(repository, "rev-parse", "v3.9.0")
    assert git(repository, "branch", "--contains", "v3.0.1") == ""


def test_releases_uploaded_later_leave_earlier_commits_as_they_are(build: Build, index: FakeIndex) -> None:
    before = build()
    index.fetched.clear()
    for version in ("4.0.0", "3.9.1", "5.0.0a1"):
        index.upload(version)
    after = build()

    assert after.built
    assert index.fetched == ["4.0.0", "3.9.1", "5.0.0a1"]
    assert set(after.commits) - set(before.commits) == {"v4.0.0", "v3.9.1", "v5.0.0a1"}
    assert {tag: after.commits[tag] for tag in before.commits} == before.commits


def test_another_archive_under_the_same_name_is_another_commit(build: Build, index: FakeIndex) -> None:
    before = build()
    last = index.packages.pop()
    index.upload(str(last.version), mode=0o755)
    after = build()

    assert {tag for tag in before.commits if before.commits[tag] != after.commits[tag]} == {f"v{last.version}"}


def test_the_message_says_what_is_left_out(build: Build, index: FakeIndex) -> None:
    index.upload("4.1.0", extra=[(link("transformer_lens-4.1.0/docs/data.json", "../../../etc/passwd"), b"")])
    repository = build().repository

    assert git(repository, "log", "-1", "--format=%b", "v4.1.0").endswith("left out: docs/data.json (a link)")


def test_only_the_versions_asked_for_are_taken(build: Build, index: FakeIndex) -> None:
    history = build(versions=["v3.0.0", "1.2.1"])

    assert [release.version for release in history.releases] == ["1.2.1", "3.0.0"]
    assert set(history.commits) == {"v1.2.1", "v3.0.0"}
    assert sorted(index.fetched) == ["1.2.1", "3.0.0"]


# Once is enough, with and without a network


def test_a_second_run_downloads_and_writes_nothing(build: Build, index: FakeIndex) -> None:
    first = build()
    index.fetched.clear()
    inode = first.repository.stat().st_ino
    second = build()

    assert first.built
    assert not second.built
    assert second.commits == first.commits
    assert second.repository.stat().st_ino == inode
    assert index.fetched == []
    assert "already up to date" in str(second)


def test_a_repository_that_lost_a_tag_is_written_again(build: Build) -> None:
    first = build()
    git(first.repository, "tag", "-d", "v3.0.0")
    second = build()

    assert second.built
    assert second.commits == first.commits


def test_without_a_network_what_is_there_suffices_and_is_said_to_be_perhaps_not_the_newest(
    build: Build, index: FakeIndex
) -> None:
    online = build()
    index.reachable = False
    offline = build("another.git")

    assert offline.built
    assert (online.offline, offline.offline) == (False, True)
    assert offline.commits == online.commits
    assert offline.releases == online.releases
    assert "could not be reached" in str(offline)
    assert "could not be reached" not in str(online)


def test_without_a_network_an_archive_that_is_missing_is_named(build: Build, index: FakeIndex, tmp_path: Path) -> None:
    build()
    index.reachable = False
    (tmp_path / "sdists" / index.packages[1].filename).unlink()
    with pytest.raises(
        BadInput, match=r"cannot download transformer_lens-2\.17\.0\.tar\.gz \(ConnectionError\): connect to the network"
    ):
        build("another.git")


def test_an_interrupted_download_keeps_what_it_has(
    build: Build, index: FakeIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download = index.download_package

    def breaking_at_the_third(pkg: object, path: Path, **options: object) -> None:
        if len(index.fetched) == 2:
            path.write_bytes(b"half")
            raise ConnectionError("cut off")
        download(pkg, path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(index, "download_package", breaking_at_the_third)
    with pytest.raises(BadInput, match="2 archives before it are kept"):
        build()
    kept = {path.name for path in (tmp_path / "sdists").iterdir()}
    assert kept == {"releases.json", *(package.filename for package in index.packages[:2])}
    assert not (tmp_path / "tl.git").exists()

    monkeypatch.setattr(index, "download_package", download)
    assert build().built
    assert index.fetched == [package.version for package in index.packages]


def test_a_damaged_archive_is_fetched_again(build: Build, index: FakeIndex, tmp_path: Path) -> None:
    build()
    index.fetched.clear()
    (tmp_path / "sdists" / index.packages[0].filename).write_bytes(b"damaged")

    assert build("another.git").built
    assert index.fetched == ["1.2.1"]


# Refused, and nothing half-written


def test_a_wrong_digest_is_refused_and_nothing_is_written(build: Build, index: FakeIndex, tmp_path: Path) -> None:
    index.packages[2].digests["sha256"] = "0" * 64
    with pytest.raises(BadInput, match=r"transformer_lens-3\.0\.0a2\.tar\.gz with SHA-256 0000"):
        build()

    assert not (tmp_path / "tl.git").exists()
    assert not (tmp_path / "sdists" / index.packages[2].filename).exists()


def test_the_index_cannot_name_a_file_outside_of_the_downloads(build: Build, index: FakeIndex, tmp_path: Path) -> None:
    honest = index.packages[0].filename
    index.packages[0] = replace(index.packages[0], filename=f"../index/{honest}")

    assert build().built
    assert (tmp_path / "sdists" / honest).is_file()


def test_an_unsafe_archive_leaves_the_old_repository_as_it_was(build: Build, index: FakeIndex, tmp_path: Path) -> None:
    before = build()
    index.upload("4.1.0", extra=[(tarfile.TarInfo("transformer_lens-4.1.0/../../outside.py"), b"x = 1\n")])
    with pytest.raises(BadInput, match="unsafe path"):
        build()

    assert git(before.repository, "rev-parse", "main") == before.commits["v3.9.0"]
    assert {path.name for path in tmp_path.iterdir()} == {"index", "sdists", "tl.git", "tl.git.lock"}


def test_a_folder_that_is_not_ours_is_refused_before_anything_is_downloaded(
    build: Build, index: FakeIndex, tmp_path: Path
) -> None:
    subprocess.run(["git", "init", "--quiet", "--bare", str(tmp_path / "tl.git")], check=True)
    with pytest.raises(BadInput, match="tlbench did not create it"):
        build()
    assert index.fetched == []


def test_without_git_nothing_is_downloaded(
    build: Build, index: FakeIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="install git"):
        build()
    assert index.fetched == []


@pytest.mark.parametrize(
    ("versions", "complaint"),
    [
        (["2.17.0", "9.9"], r"no source release 9\.9: .* 7 source releases, 1\.2\.1 to 4\.0\.0rc1"),
        (["newest"], "newest.*give versions as on PyPI"),
        ([], "no source release selected"),
    ],
)
def test_versions_that_do_not_exist_are_refused(build: Build, versions: list[str], complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        build(versions=versions)
