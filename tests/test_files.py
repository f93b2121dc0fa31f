"""A file that nothing wrote to is hashed once, and any other as often as it is asked for."""

import hashlib
import os
import time

import pytest

from tlbench import files
from tlbench.files import sha256_of_unchanged


@pytest.fixture
def hashed(monkeypatch):
    """The paths that were hashed."""
    seen = []
    real = files.sha256_of
    monkeypatch.setattr(files, "sha256_of", lambda path: seen.append(path) or real(path))
    files._sha256_of_state.cache_clear()
    return seen


@pytest.fixture
def settled(tmp_path, monkeypatch):
    """A file that may be taken as settled at once."""
    monkeypatch.setattr(files, "SETTLED_S", 0.0)
    path = tmp_path / "weights"
    path.write_bytes(b"one bit")
    return path


def test_a_file_that_nothing_wrote_to_is_hashed_once(settled, hashed):
    digests = {sha256_of_unchanged(settled) for _ in range(3)}
    assert digests == {hashlib.sha256(b"one bit").hexdigest()}
    assert hashed == [settled]


def test_a_write_that_keeps_the_size_and_puts_the_time_back_is_seen(settled, hashed):
    first, before = sha256_of_unchanged(settled), settled.stat()
    time.sleep(0.05)  # longer than a tick of the kernel's clock
    settled.write_bytes(b"one bix")
    os.utime(settled, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert settled.stat().st_mtime_ns == before.st_mtime_ns
    assert sha256_of_unchanged(settled) != first


def test_another_file_in_its_place_is_seen(settled, hashed):
    first = sha256_of_unchanged(settled)
    other = settled.with_name("other")
    other.write_bytes(b"one bix")
    other.rename(settled)
    assert sha256_of_unchanged(settled) != first


def test_what_was_written_just_now_is_hashed_every_time(tmp_path, hashed):
    path = tmp_path / "weights"
    path.write_bytes(b"one bit")
    sha256_of_unchanged(path)
    sha256_of_unchanged(path)
    assert hashed == [path, path]
