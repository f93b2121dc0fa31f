"""A fork server answers, reports what died, and outlives neither its client's patience nor its owner."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from tlbench.exceptions import BadInput, CellFailed, NoGolden
from tlbench.execution import client, server
from tlbench.execution.client import Server, beside

HERE = __name__
MARKER = "TLBENCH_TEST_MARKER"
seen_before = []


def add(a, b):
    return a + b


def count(n):
    yield from range(n)


def lack_a_golden():
    raise NoGolden("too large")


def divide(a, b):
    return a / b


def kill_this_process():
    os.kill(os.getpid(), signal.SIGKILL)


def exit_with(status):
    os._exit(status)


def sleep(seconds):
    time.sleep(seconds)


def describe():
    return {"pid": os.getpid(), "parent": os.getppid(), "marker": os.environ.get(MARKER), "before": list(seen_before)}


def note(*arguments):
    seen_before.append(list(arguments))


def answer_at_once():
    return ["no fork"]


def note_then_fail(*arguments):
    note(*arguments)
    raise CellFailed("left to the fork")


@pytest.fixture
def one(tmp_path):
    """A server whose files lie in a folder with a long name."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    return Server("test", folder)


def test_values_come_back_from_forks_of_one_server(one):
    assert one.call(add, 1, 2) == 3
    assert list(one.stream(count, 3)) == [0, 1, 2]
    first, second = one.call(describe), one.call(describe)
    assert first["parent"] == second["parent"] != os.getpid()
    assert first["pid"] != second["pid"]


def test_what_a_function_raises_is_raised_here(one):
    with pytest.raises(NoGolden, match="too large"):
        one.call(lack_a_golden)
    with pytest.raises(CellFailed, match="ZeroDivisionError: division by zero"):
        one.call(divide, 1, 0)


def test_a_fork_that_is_killed_or_exits_is_a_failure_that_says_so(one):
    with pytest.raises(CellFailed, match="SIGKILL: it may have run out of memory"):
        one.call(kill_this_process)
    with pytest.raises(CellFailed, match="status 7"):
        one.call(exit_with, 7)
    assert one.call(add, 1, 2) == 3, "the server goes on"


def test_a_request_brings_the_client_s_settings(one, monkeypatch):
    monkeypatch.setenv(MARKER, "first")
    assert one.call(describe)["marker"] == "first"
    monkeypatch.setenv(MARKER, "second")
    assert one.call(describe)["marker"] == "second"
    monkeypatch.delenv(MARKER)
    assert one.call(describe)["marker"] is None


def test_what_comes_before_the_fork_is_there_in_it_and_its_failure_is_left_to_it(one):
    (found,) = one.stream(describe, before=note)
    assert found["before"] == [[]]
    (found,) = one.stream(describe, before=note_then_fail)
    assert found["before"] == [[], []]


def test_what_can_be_answered_before_the_fork_needs_none(one):
    assert list(one.stream(lack_a_golden, before=answer_at_once)) == ["no fork"]


def test_requests_that_come_together_run_together(one, tmp_path):
    """Each waits for the other's file."""
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda me, other: one.call(meet, str(tmp_path / me), str(tmp_path / other)), "ab", "ba"))
    assert found == ["met", "met"]


def meet(mine, other):
    Path(mine).touch()
    wait_until(Path(other).exists)
    return "met"


def test_a_fork_whose_client_has_gone_is_killed_and_the_others_go_on(one, tmp_path):
    with ThreadPoolExecutor() as pool:
        staying = pool.submit(one.call, meet, str(tmp_path / "a"), str(tmp_path / "b"))
        wait_until((tmp_path / "a").exists)
        with one._connected() as connection:
            connection.sendall(f'{{"function": "{HERE}:sleep", "arguments": [60], "variables": {{}}}}\n'.encode())
            wait_until(lambda: len(servers(one.folder)) == 3)
        wait_until(lambda: len(servers(one.folder)) == 2)
        (tmp_path / "b").touch()
        assert staying.result() == "met"


def test_a_fork_whose_owner_has_gone_is_killed(one):
    """asv was killed, and what reads for it still waits."""
    owner = subprocess.Popen(["sleep", "1"])
    threading.Thread(target=owner.wait).start()  # else it would stay as a zombie
    with pytest.raises(CellFailed, match="ended without an answer"):
        Server("test", one.folder, owner=owner.pid).call(sleep, 60)
    wait_until(lambda: not servers(one.folder))


def test_a_server_can_be_forked_from_another_and_has_what_that_has_imported(one):
    list(one.stream(describe, before=note))
    other = Server("other", one.folder, preload=f"{HERE}:note", forked_from=one)
    found = other.call(describe)
    assert found["before"] == [[], []], "the first server's, and its own"
    assert one.call(describe)["before"] == [[]]
    assert other.call(describe)["parent"] == found["parent"] != one.call(describe)["parent"]
    (other.folder / other._file("socket")).unlink()
    wait_until(lambda: len(servers(one.folder)) == 1)
    assert one.call(add, 1, 2) == 3, "the server goes on"


def test_a_forked_server_has_its_files_in_its_own_folder(one, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = Server("other", elsewhere, forked_from=one)
    assert other.call(os.getcwd) == str(elsewhere)
    assert {path.suffix for path in elsewhere.iterdir()} == {".lock", ".log", ".socket"}
    assert one.call(os.getcwd) == str(one.folder)


def test_a_forked_server_knows_the_commit_that_asv_measures_now(one, monkeypatch):
    monkeypatch.setenv("ASV_COMMIT", "the first")
    one.start()
    for commit in ("the first", "the second"):
        monkeypatch.setenv("ASV_COMMIT", commit)
        assert Server(commit, one.folder, forked_from=one).call(os.getenv, "ASV_COMMIT") == commit


def test_a_forked_server_that_cannot_start_is_reported_with_its_own_last_line(one):
    with pytest.raises(CellFailed, match=r"the other server of .* did not start: ZeroDivisionError: division by zero"):
        Server("other", one.folder, preload=f"{HERE}:divide_by_zero", forked_from=one).start()
    assert one.call(add, 1, 2) == 3, "the server goes on"


def divide_by_zero():
    divide(1, 0)


def test_one_server_serves_many_clients_and_ends_with_its_socket(one):
    for _ in range(2):
        assert Server("test", one.folder).call(add, 1, 1) == 2
    wait_until(lambda: len(servers(one.folder)) == 1)  # the forks that answered are gone
    next(one.folder.glob("*.socket")).unlink()
    wait_until(lambda: not servers(one.folder))


def import_for_a_minute():
    Path("imports").write_text(str(os.getpid()))
    time.sleep(60)


def test_a_server_ends_with_its_owner_even_while_it_imports(one):
    (one.folder / "import").mkdir()
    (one.folder / "import" / "tests").symlink_to(Path(__file__).parent)
    owner = subprocess.Popen(["sleep", "60"])
    server = Server("test", one.folder, owner=owner.pid, preload=f"{HERE}:import_for_a_minute")
    with ThreadPoolExecutor() as pool:
        starting = pool.submit(server.start)
        wait_until(lambda: (one.folder / "imports").exists() and (one.folder / "imports").read_text())
        process = psutil.Process(int((one.folder / "imports").read_text()))
        owner.kill()
        owner.wait()
        try:
            with pytest.raises(CellFailed, match="did not start"):
                starting.result(20)
        finally:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def test_a_server_ends_with_its_owner(one):
    owner = subprocess.Popen(["sleep", "60"])
    Server("test", one.folder, owner=owner.pid).start()
    assert len(servers(one.folder)) == 1
    owner.kill()
    owner.wait()
    wait_until(lambda: not servers(one.folder))


def wait_until(condition):
    deadline = time.monotonic() + 10 * server.IDLE_CHECK_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def servers(folder):
    return [process.pid for process in psutil.process_iter() if serves(process, folder)]


def serves(process, folder):
    try:
        return "tlbench.execution.server" in process.cmdline() and Path(process.cwd()) == folder
    except psutil.Error:
        return False


def test_a_server_that_cannot_start_is_reported(tmp_path):
    with pytest.raises(CellFailed, match="did not start: it printed nothing"):
        Server("test", tmp_path, Path("/bin/false")).call(add, 1, 2)


def test_a_server_beside_this_process_is_one_and_in_a_fork_it_lies_beside_that_fork_s_server(one):
    assert beside("references").folder == beside("references").folder
    assert one.call(beside_folder) == str(one.folder)


def beside_folder():
    found = beside("references")
    assert found.owner == os.getppid()
    return str(found.folder)


def test_each_interpreter_has_a_server_of_its_own():
    assert beside("references").name != beside("references", python=Path(sys.executable).with_name("another")).name


def test_a_server_imports_tlbench_alone_from_where_that_is_installed(tmp_path, monkeypatch):
    """Beside an installed tlbench lies its own torch, which must not hide that of the environment under test."""
    site = tmp_path / "site-packages"
    site.mkdir()
    (site / "tlbench").symlink_to(client.package_dir())
    (site / "torch.py").write_text("")
    monkeypatch.setattr(client, "package_dir", lambda: site / "tlbench")
    monkeypatch.setenv("PYTHONPATH", str(site))
    command = f"{sys.executable} -c 'import importlib.util as util; print(util.find_spec(\"torch\").origin)'"
    one = Server("test", tmp_path)
    assert Path(one.call("subprocess:getoutput", command)) == Path(find_spec("torch").origin)
    assert os.listdir(one.call("os:getenv", "PYTHONPATH")) == ["tlbench"]


def test_a_call_that_hangs_ends_with_the_time_limit_and_its_process_too(one, monkeypatch):
    one.start()
    monkeypatch.setenv("TLBENCH_TIME_LIMIT", "0.2")
    with pytest.raises(CellFailed, match=r"gave no answer for 0.2 s: .* set TLBENCH_TIME_LIMIT to more seconds"):
        one.call("time:sleep", 600)
    monkeypatch.delenv("TLBENCH_TIME_LIMIT")
    parent = psutil.Process(one.call("os:getppid"))
    deadline = time.monotonic() + 10
    while parent.children() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not parent.children()


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf", "soon"])
def test_a_time_limit_that_is_no_time_is_refused(monkeypatch, limit):
    monkeypatch.setenv("TLBENCH_TIME_LIMIT", limit)
    with pytest.raises(BadInput, match=f"invalid TLBENCH_TIME_LIMIT='{limit}'"):
        client.time_limit_s()
