"""The measuring server answers, tells of what died, and outlives neither its asker's patience nor the run."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest

from tlbench import Cell, catalogue
from tlbench.checkpoints import ensure
from tlbench.exceptions import BadInput, CellFailed, NotApplicable, WrongTransformerLens
from tlbench.execution import server
from tlbench.execution.memo import ACCURACY, Kind, Outcome
from tlbench.execution.server import answer_there

CELL = Cell("zoo-gpt2", "float32", "fold_ln", "TransformerBridge")


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    (tmp_path / server.socket_of(server.MEASURING)).unlink(missing_ok=True)


def ask(answer, monkeypatch, hang_up_after_s=None, owner=None):
    """One request to the part of the server that forks, with ``answer`` in place of measuring."""
    monkeypatch.setattr(server, "_answer", answer)
    ours, its = socket.socketpair()
    ours.sendall(json.dumps({"question": "accuracy", "cell": []}).encode() + b"\n")
    if hang_up_after_s is not None:
        threading.Timer(hang_up_after_s, lambda: (ours.shutdown(socket.SHUT_RDWR), ours.close())).start()
    with its:
        server._answer_in_fork(its, server.MEASURING, owner or os.getpid())
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


def test_a_measurement_whose_owner_has_gone_is_ended(monkeypatch):
    """asv was killed, and what reads for it still waits."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    started = time.monotonic()
    outcome = ask(lambda request: time.sleep(60), monkeypatch, owner=gone.pid)
    assert time.monotonic() - started < 10
    assert "SIGKILL" in outcome.reason


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
        return "tlbench.execution.server" in process.cmdline() and Path(process.cwd()) == folder
    except psutil.Error:
        return False


def test_a_server_that_cannot_start_is_told(run_folder, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(CellFailed, match="did not start: it said nothing"):
        answer_there(ACCURACY, CELL)


def answered(monkeypatch, request, answer=lambda request: Outcome(Kind.FAILED, reason="the fork was asked")):
    """The outcome of one request, with ``answer`` in the fork in place of measuring."""
    ours, its = socket.socketpair()
    monkeypatch.setattr(server, "_answer", answer)
    ours.sendall(json.dumps(request).encode() + b"\n")
    with its:
        server._answer_in_fork(its, server.MEASURING, os.getpid())
    return Outcome.from_json(json.loads(ours.makefile().readline()), ACCURACY.record)


def test_a_checkpoint_is_hashed_before_the_fork_and_what_is_wrong_with_it_is_left_to_the_answer(monkeypatch):
    located = []

    def locate(request):
        located.append((request["cell"][0], os.getpid()))
        raise BadInput("altered")

    monkeypatch.setattr(server, "_verify_what_is_read", locate)
    request = {"question": "accuracy", "cell": ["zoo-gpt2"]}
    outcome = answered(monkeypatch, request, lambda _: Outcome(Kind.FAILED, reason=f"{len(located)} located"))
    assert located == [("zoo-gpt2", os.getpid())]
    assert outcome.reason == "1 located"


def test_the_kept_files_of_a_cell_are_hashed_before_the_fork(monkeypatch, tmp_path):
    models = catalogue.load()
    ensure(models.get("zoo-gpt2"), models)
    kept = {"reference": tmp_path / "reference", "golden": tmp_path / "golden"}
    for path in kept.values():
        path.write_bytes(b"logits")
    hashed = []
    monkeypatch.setattr("tlbench.reference.huggingface.store_path", lambda *_: kept["reference"])
    monkeypatch.setattr("tlbench.reference.golden.store_path", lambda *_: kept["golden"])
    monkeypatch.setattr("tlbench.questions.measure.sha256_of_unchanged", hashed.append)
    monkeypatch.setattr(server, "kept_path", lambda *_: None)
    server._verify_what_is_read(REQUESTS[0])
    assert hashed == [kept["reference"], kept["golden"], kept["golden"]]
    hashed.clear()
    kept["golden"].unlink()
    server._verify_what_is_read(REQUESTS[0])
    assert hashed == [kept["reference"]]
    monkeypatch.setattr(server, "kept_path", lambda *_: tmp_path)
    server._verify_what_is_read(REQUESTS[0])
    assert hashed == [kept["reference"]], "a figure that is kept needs neither"


REQUESTS = [
    {"question": "accuracy", "cell": list(vars(CELL).values())},
    {"question": "slowdown", "cell": [*vars(CELL).values(), "1x64", "cpu", "forward"]},
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_that_there_is_no_such_wrapper_is_told_without_a_fork(monkeypatch, request_):
    def require(wrapper):
        raise NotApplicable(f"no {wrapper} here")

    monkeypatch.setattr(server, "setting", lambda: {})
    monkeypatch.setattr("tlbench.lens.require", require)
    outcome = answered(monkeypatch, request_)
    assert (outcome.kind, outcome.reason) == (Kind.NOT_APPLICABLE, "no TransformerBridge here")


@pytest.mark.parametrize("wrong", [WrongTransformerLens("another commit"), CellFailed("does not import")])
def test_nothing_is_said_of_a_transformer_lens_that_is_not_the_one_asked_for(monkeypatch, wrong):
    def setting():
        raise wrong

    def require(wrapper):
        raise NotApplicable("no such wrapper")

    monkeypatch.setattr(server, "setting", setting)
    monkeypatch.setattr("tlbench.lens.require", require)
    assert answered(monkeypatch, REQUESTS[0]).reason == "the fork was asked"
