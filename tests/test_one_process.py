"""Figures read in one process are what asv's own fork server reads, failures, skips and output included."""

import json
import os
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

from asv_plugins.one_process import READER, ReadingServer, _ForkServer, is_track

SUITE = """
import os, time
from asv_runner.benchmarks.mark import SkipNotImplemented
from tlbench.exceptions import CellFailed

class Suite:
    params = [[0.1 + 0.2, 2.0]]

    def setup(self, number):
        if number == 2.0 and "absent" in os.listdir():
            raise NotImplementedError("cannot exist")

    def track_value(self, number):
        print("hello from", number)
        return number

    def track_folder(self, number):
        return len(os.listdir())

    def track_failure(self, number):
        raise ValueError("it broke")

    def track_skip(self, number):
        raise SkipNotImplemented("not here")

    def track_cell_failure(self, number):
        raise CellFailed("it broke, so do that")

    def track_end(self, number):
        raise SystemExit(3)

    def track_forever(self, number):
        time.sleep(60)

    def track_process(self, number):
        return os.getpid()

    def track_death(self, number):
        os.kill(os.getpid(), 9)

    def time_process(self, number):
        pass
"""


class Environment:
    """What asv's launcher needs of one: this Python."""

    env_vars = {}

    def run(self, words, return_popen, redirect_stderr, env):
        return subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )


class Launched:
    """A launcher with its suite imported."""

    def __init__(self, kind, suite, folder):
        self.folder, self.server = folder, kind(Environment(), str(suite))
        assert self.server.preimport()[0]

    def run(self, name, timeout=30.0):
        """The stored value (None if there is none), the exit status, and what was printed."""
        if isinstance(self.server, ReadingServer) and is_track(name):
            self.server.ask([name], "{}", timeout, str(self.folder))
            if answer := self.server.answer():
                return answer["result"], answer["errcode"], answer["out"]
        result = self.folder.parent / f"{type(self.server).__name__}-result"
        result.unlink(missing_ok=True)
        words = {"params_str": "{}", "profile_path": "None", "result_file_name": str(result), "timeout": timeout}
        out, status = self.server.run(name=name, cwd=str(self.folder), **words)
        return (result.read_text() if result.exists() else None), status, out


@pytest.fixture(scope="module")
def launchers(tmp_path_factory):
    """asv's own launcher and ours, on one suite and with one working folder."""
    top = tmp_path_factory.mktemp("one-process")
    suite, folder = top / "suite", top / "run"
    suite.mkdir()
    folder.mkdir()
    (suite / "__init__.py").write_text("")
    (suite / "some.py").write_text(SUITE)
    (folder / "absent").write_text("")
    both = [Launched(kind, suite, folder) for kind in (_ForkServer, ReadingServer)]
    yield both
    for one in both:
        one.server.close()


@pytest.mark.parametrize(
    ("name", "value", "status", "printed"),
    [
        ("track_value-0", "0.30000000000000004", 0, "hello from 0.3"),
        ("track_value-1", "NaN", 0, ""),
        ("track_folder-0", "1", 0, ""),
        ("track_skip-0", "NaN", 0, ""),
        ("track_failure-0", None, 1, "ValueError: it broke"),
        ("track_end-0", None, 1, "SystemExit: 3"),
    ],
)
def test_a_figure_is_what_asv_s_own_launcher_reads(launchers, name, value, status, printed):
    for one in launchers:
        found = one.run(f"some.Suite.{name}")
        assert found[:2] == (value, status)
        assert printed in found[2]


def test_a_skip_prints_nothing_and_a_failure_with_a_reason_prints_one_line(launchers):
    reading = launchers[1]
    assert reading.run("some.Suite.track_skip-0")[2] == ""
    assert reading.run("some.Suite.track_value-1")[2] == ""
    assert reading.run("some.Suite.track_cell_failure-0") == (None, 1, "CellFailed: it broke, so do that\n")


def test_a_benchmark_that_takes_too_long_is_told_as_asv_tells_it_and_the_next_one_runs(launchers):
    for one in launchers:
        assert one.run("some.Suite.track_forever-0", timeout=0.3)[1] == -256
        assert one.run("some.Suite.track_folder-0")[0] == "1"


def test_tracks_are_read_in_one_process_and_by_asv_in_many(launchers):
    forked, ours = ({json.loads(one.run("some.Suite.track_process-0")[0]) for _ in range(3)} for one in launchers)
    assert len(forked) == 3
    assert len(ours) == 1
    assert os.getpid() not in ours


def test_what_is_no_track_is_left_to_asv(launchers):
    assert not is_track("some.Suite.time_process-0")
    stored, status, _ = launchers[1].run("some.Suite.time_process-0")
    assert status == 0
    assert "samples" in json.loads(stored)


def test_a_benchmark_that_takes_its_process_with_it_fails_alone(launchers):
    """The last test of these: from here on asv's own launcher reads everything."""
    for one in launchers:
        value, status, _ = one.run("some.Suite.track_death-0")
        assert value is None
        assert status
        assert one.run("some.Suite.track_folder-0")[:2] == ("1", 0)


def test_the_process_ends_with_asv_even_if_that_is_killed(tmp_path):
    (tmp_path / "suite").mkdir()
    words = [sys.executable, str(READER), "run_server", str(tmp_path / "suite"), str(tmp_path / "socket")]
    starting = f"import subprocess, time; print(subprocess.Popen({words!r}).pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", starting], stdout=subprocess.PIPE, text=True) as asv:
        reader = psutil.Process(int(asv.stdout.readline()))
        try:
            while not (tmp_path / "socket").exists():
                assert reader.is_running()
            asv.kill()
            with suppress(psutil.NoSuchProcess):
                reader.wait(10)
            assert not reader.is_running() or reader.status() == psutil.STATUS_ZOMBIE
        finally:
            with suppress(psutil.NoSuchProcess):
                reader.kill()
