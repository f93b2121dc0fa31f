"""The measuring server answers, tells of what died, and outlives neither its asker's patience nor the run."""

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import psutil
import pytest

from tlbench import Cell, server
from tlbench.exceptions import BadInput, CellFailed
from tlbench.memo import ACCURACY, Kind, Outcome
from tlbench.server import answer_there

CELL = Cell("zoo-gpt2", "float32", "fold_ln", "TransformerBridge")


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    (tmp_path / server.socket_of(server.MEASURING)).unlink(missing_ok=True)


def ask(answer, monkeypatch, hang_up_after_s=None):
    """One request to the part of the server that forks, with ``answer`` in place of measuring."""
    monkeypatch.setattr(server, "_answer", answer)
    ours, its = socket.socketpair()
    ours.sendall(json.dumps({"question": "accuracy", "cell": []}).encode() + b"\n")
    if hang_up_after_s is not None:
        threading.Timer(hang_up_after_s, lambda: (ours.shutdown(socket.SHUT_RDWR), ours.close())).start()
    with its:
        server._answer_in_fork(its, server.MEASURING)
    return (
        None if hang_up_after_s is not None else Outcome.from_json(json.loads(ours.makefile().readline()), ACCURACY.record)
    )


def test_an_answer_comes_back_from_the_fork(monkeypatch):
    outcome = ask(lambda request: Outcome(Kind.NOT_APPLICABLE, reason=f"asked {request['question']}"), monkeypatch)
    assert (outcome.kind, outcome.reason) == (Kind.NOT_APPLICABLE, "asked accuracy")


def test_a_measurement_that_is_killed_is_a_failure_with_its_signal(monkeypatch):
    outcome = ask(lambda request: os.kill(os.getpid(), signal.SIGKILL), monkeypatch)
    assert outcome.kind is Kind.FAILED
    assert "SIGKILL: it may have run out of memory" in outcome.reason


def test_a_measurement_that_raises_is_a_failure(monkeypatch):
    outcome = ask(lambda request: 1 / 0, monkeypatch)
    assert outcome.kind is Kind.FAILED
    assert "status 1" in outcome.reason


def test_a_measurement_whose_asker_has_gone_is_ended(monkeypatch):
    started = time.monotonic()
    ask(lambda request: time.sleep(60), monkeypatch, hang_up_after_s=0.2)
    assert time.monotonic() - started < 10


def test_one_server_serves_many_askers_and_ends_with_the_run_s_folder(run_folder):
    """No TransformerLens is installed here, and that is what it answers."""
    for _ in range(2):
        outcome = answer_there(ACCURACY, CELL)
        assert outcome.kind is Kind.FAILED
        assert "does not import" in outcome.reason
    wait_until(lambda: len(servers(run_folder)) == 1)  # the forks that answered are gone
    (run_folder / server.socket_of(server.MEASURING)).unlink()
    wait_until(lambda: not servers(run_folder))


def wait_until(condition):
    deadline = time.monotonic() + 10 * server.IDLE_CHECK_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def servers(folder):
    return [process.pid for process in psutil.process_iter() if serves(process, folder)]


def serves(process, folder):
    try:
        return "tlbench.server" in process.cmdline() and Path(process.cwd()) == folder
    except psutil.Error:
        return False


def test_a_server_that_cannot_start_is_told(run_folder, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(CellFailed, match="did not start: it said nothing"):
        answer_there(ACCURACY, CELL)


def test_a_checkpoint_is_hashed_before_the_fork_and_what_is_wrong_with_it_is_left_to_the_answer(monkeypatch):
    located = []

    def locate(model):
        located.append((model, os.getpid()))
        raise BadInput("altered")

    monkeypatch.setattr(server, "_verify_checkpoint", locate)
    ours, its = socket.socketpair()
    monkeypatch.setattr(server, "_answer", lambda request: Outcome(Kind.FAILED, reason=f"{len(located)} located"))
    ours.sendall(json.dumps({"question": "accuracy", "cell": ["zoo-gpt2"]}).encode() + b"\n")
    with its:
        server._answer_in_fork(its, server.MEASURING)
    outcome = Outcome.from_json(json.loads(ours.makefile().readline()), ACCURACY.record)
    assert located == [("zoo-gpt2", os.getpid())]
    assert outcome.reason == "1 located"
