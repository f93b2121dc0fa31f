"""Reading a source archive: every file without the top folder, and nothing unsafe."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pytest

from tlbench.exceptions import BadInput
from tlbench.history import SourceFile, read_sdist

from .helpers import link, write_sdist


def test_files_come_without_the_top_folder_and_with_only_the_owners_executable_bit(tmp_path: Path) -> None:
    script = tarfile.TarInfo("transformer_lens-4.1.0/run.sh")
    script.mode = 0o744
    files, left_out = read_sdist(write_sdist(tmp_path, "4.1.0", extra=[(script, b"exit\n")], mode=0o655))

    assert files == {
        "transformer_lens/__init__.py": SourceFile(b"__version__ = '4.1.0'\n", executable=False),
        "run.sh": SourceFile(b"exit\n", executable=True),
    }
    assert left_out == {}


def test_what_is_no_file_is_left_out_with_the_reason(tmp_path: Path) -> None:
    pipe = tarfile.TarInfo("transformer_lens-4.1.0/pipe")
    pipe.type = tarfile.FIFOTYPE
    extra = [(link("transformer_lens-4.1.0/docs/data.json", "../../../etc/passwd"), b""), (pipe, b"")]
    files, left_out = read_sdist(write_sdist(tmp_path, "4.1.0", extra=extra))

    assert list(files) == ["transformer_lens/__init__.py"]
    assert left_out == {"docs/data.json": "a link", "pipe": "not a regular file"}


@pytest.mark.parametrize(
    "name",
    [
        "/etc/cron.d/job",
        "../outside.py",
        "transformer_lens-4.1.0/../../outside.py",
        "transformer_lens-4.1.0/.git/hooks/post-checkout",
        "transformer_lens-4.1.0/docs/.GIT/config",
        "transformer_lens-4.1.0/two\nlines.py",
    ],
)
def test_an_unsafe_path_is_refused(tmp_path: Path, name: str) -> None:
    archive = write_sdist(tmp_path, "4.1.0", extra=[(tarfile.TarInfo(name), b"x = 1\n")])
    with pytest.raises(BadInput, match=r"unsafe path .* in transformer_lens-4\.1\.0\.tar\.gz"):
        read_sdist(archive)


@pytest.mark.parametrize("names", [["setup.py"], ["one_top/a.py", "another_top/setup.py"]])
def test_an_archive_without_one_top_folder_is_refused(tmp_path: Path, names: list[str]) -> None:
    with tarfile.open(tmp_path / "odd.tar.gz", "w:gz") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(BadInput, match=r"odd\.tar\.gz has '.*setup\.py' outside its single top folder"):
        read_sdist(tmp_path / "odd.tar.gz")


@pytest.mark.parametrize("damage", ["a web page", "cut off", "overwritten"])
def test_what_is_no_whole_archive_is_refused(tmp_path: Path, damage: str) -> None:
    digits = "\n".join(hashlib.sha256(bytes([number])).hexdigest() for number in range(256)).encode()
    member = tarfile.TarInfo("transformer_lens-1.0.0/digits.txt")
    archive = write_sdist(tmp_path, "1.0.0", extra=[(member, digits)])
    whole = archive.read_bytes()
    middle = len(whole) // 2
    damaged = {
        "a web page": b"<html>",
        "cut off": whole[:middle],
        "overwritten": whole[:middle] + b"\xff" * 64 + whole[middle + 64 :],
    }
    archive.write_bytes(damaged[damage])
    with pytest.raises(BadInput, match=r"cannot read transformer_lens-1\.0\.0\.tar\.gz"):
        read_sdist(archive)
