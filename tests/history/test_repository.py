"""A repository from trees: exactly what it was given, the same hashes everywhere, whole or not at all."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from tlbench.exceptions import BadInput
from tlbench.history import SourceCommit, SourceFile, build_from_trees

from .helpers import FIRST_UPLOAD, git, git_hash


def commit(tag: str, **changes: object) -> SourceCommit:
    files = {"transformer_lens/scale.py": SourceFile(f"SCALE = {tag!r}\n".encode())}
    return replace(SourceCommit(tag, FIRST_UPLOAD, f"{tag}\n", files), **changes)  # type: ignore[arg-type]


HOSTILE = "[user]\nname = Somebody\n[init]\ndefaultBranch = trunk\n[core]\nautocrlf = true\nignoreCase = true\n"


@pytest.mark.parametrize("configuration", [HOSTILE, "no [configuration at all"])
def test_hashes_do_not_depend_on_the_folder_or_on_the_users_git_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configuration: str
) -> None:
    trees = [commit("first"), commit("second", files={"Readme": SourceFile(b"\r\n"), "README": SourceFile(b"")})]
    plain = build_from_trees(tmp_path / "here" / "tl.git", trees)

    (tmp_path / ".gitconfig").write_text(configuration)
    for name, value in {
        "HOME": str(tmp_path),
        "GIT_CONFIG_GLOBAL": str(tmp_path / ".gitconfig"),
        "GIT_AUTHOR_NAME": "Somebody Else",
        "GIT_COMMITTER_DATE": "2001-01-01T00:00:00Z",
        "GIT_DEFAULT_HASH": "sha256",
        "GIT_DIR": str(tmp_path / "nowhere"),
        "TZ": "Asia/Tokyo",
    }.items():
        monkeypatch.setenv(name, value)
    hostile = tmp_path / "there" / "tl.git"

    assert build_from_trees(hostile, trees) == plain
    assert list(plain) == ["first", "second"]
    assert (hostile / "HEAD").read_text() == "ref: refs/heads/main\n"
    assert not (hostile / "hooks").exists()


def test_a_planted_fault_is_the_only_difference_between_two_commits(tmp_path: Path) -> None:
    files = {"setup.py": SourceFile(b""), "transformer_lens/__init__.py": SourceFile(b"SCALE = 1\n")}
    faulty = {**files, "transformer_lens/__init__.py": SourceFile(b"SCALE = 2\n")}
    trees = [commit(f"c{number}", files=faulty if number >= 2 else files) for number in range(4)]
    commits = build_from_trees(tmp_path / "tiny.git", trees)

    changed = git(tmp_path / "tiny.git", "log", "--format=%H", "main", "--", "transformer_lens").splitlines()
    assert changed == [commits["c2"], commits["c0"]]
    assert git(tmp_path / "tiny.git", "rev-list", "--reverse", "main").splitlines() == list(commits.values())


def test_a_file_that_a_commit_lacks_is_gone(tmp_path: Path) -> None:
    fewer = commit("fewer", files={"other.py": SourceFile(b"")})
    build_from_trees(tmp_path / "tiny.git", [commit("more"), fewer])

    assert git(tmp_path / "tiny.git", "ls-tree", "-r", "--name-only", "fewer") == "other.py"


def test_only_an_executable_file_has_an_executables_mode(tmp_path: Path) -> None:
    files = {"run.sh": SourceFile(b"", executable=True), "setup.py": SourceFile(b"")}
    build_from_trees(tmp_path / "tiny.git", [commit("modes", files=files)])

    listed = git(tmp_path / "tiny.git", "ls-tree", "modes").splitlines()
    assert [line.split()[0] for line in listed] == ["100755", "100644"]


def test_odd_names_and_bytes_survive(tmp_path: Path) -> None:
    files = {
        name: SourceFile(content)
        for name, content in {
            'a "quoted" \\name.py': b"done\n",
            "a space/é.bin": bytes(range(256)),
            "empty": b"",
            '"': b"\r\n",
        }.items()
    }
    build_from_trees(tmp_path / "odd.git", [commit("odd", files=files)])

    listed = git(tmp_path / "odd.git", "ls-tree", "-r", "-z", "odd").rstrip("\0").split("\0")
    blobs = {line.split("\t")[1]: line.split("\t")[0].split()[2] for line in listed}
    assert blobs == {name: git_hash("blob", file.content) for name, file in files.items()}


@pytest.mark.parametrize(
    ("commits", "complaint"),
    [
        ([commit("same"), commit("same")], "cannot write commit 'same'"),
        ([commit("child", parent="later"), commit("later")], "'child' with parent 'later'"),
        ([commit("naive", time=datetime(2024, 1, 1))], "a time with a time zone"),
        ([commit("good"), commit("escaping", files={"../outside.py": SourceFile(b"")})], "unsafe path"),
        (
            [commit("a tag with spaces"), commit("large", files={"large": SourceFile(bytes(1 << 20))})],
            "git fast-import",
        ),
    ],
)
def test_a_history_that_cannot_be_is_refused_whole(tmp_path: Path, commits: list[SourceCommit], complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        build_from_trees(tmp_path / "refused.git", commits)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_ours_is_refused_and_unharmed(tmp_path: Path) -> None:
    clone = tmp_path / "clone.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(clone)], check=True)
    before = sorted(clone.rglob("*"))
    with pytest.raises(BadInput, match="tlbench did not create it"):
        build_from_trees(clone, [commit("first")])

    assert sorted(clone.rglob("*")) == before


def test_an_empty_folder_may_be_filled_and_a_repository_of_ours_replaced(tmp_path: Path) -> None:
    repository = tmp_path / "tiny.git"
    repository.mkdir()
    build_from_trees(repository, [commit("first")])

    assert list(build_from_trees(repository, [commit("second")])) == ["second"]
