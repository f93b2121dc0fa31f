"""Measuring in a process apart, which has imported everything once and forks for each measurement.

asv runs every track of every cell, and nearly all of them only read a figure that is there (``asv_plugins/reader.py``). What
reads imports neither torch nor transformers nor TransformerLens; the first that needs a measurement starts this server, and
it and the later ones ask it. What is timed asks for further servers by name (``tlbench/costs/slowdown.py``).
The measuring server ends with asv's own process, those with the measuring server, and all when the run's folder is deleted.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tlbench import arithmetic
from tlbench.environments.metadata import record
from tlbench.exceptions import CellFailed, NotApplicable
from tlbench.execution.memo import QUESTIONS, Kind, Outcome, Question, R, S, attempt, is_there, kept_path, setting
from tlbench.files import locked
from tlbench.grid import Cell, RuntimeCell
from tlbench.paths import outcomes_dir, package_dir
from tlbench.spans import Category, span

MEASURING = "measuring"
"""The name of the server that measures."""
START_TIMEOUT_S = 600.0
POLL_S = 0.001
IDLE_CHECK_S = 1.0


def answer_there(question: Question[S, R], cell: S, name: str = MEASURING) -> Outcome[R]:
    """Have a server of this run's folder, the current one, measure a cell; it is started if there is none of that name.

    Raises:
        CellFailed: if the server cannot be started or ends.
    """
    with span(Category.WAIT), _connected(name) as connection:
        request = {"question": question.name, "cell": list(vars(cell).values())}
        connection.sendall(json.dumps(request).encode() + b"\n")
        reply = connection.makefile().readline()
    if not reply:
        raise CellFailed(f"the {name} process ended without an answer: {_last_line(name)}")
    return Outcome.from_json(json.loads(reply), question.record)


def start(name: str) -> None:
    """Start a server, if there is none of that name, and wait until it has imported everything.

    Raises:
        CellFailed: if it cannot be started.
    """
    _connected(name).close()


def socket_of(name: str) -> Path:
    """Where a server listens, in the current folder: a full path might be longer than the system allows."""
    return Path(f"{name}.socket")


def _log_of(name: str) -> Path:
    return Path(f"{name}.log")


def _connected(name: str) -> socket.socket:
    with locked(Path(f"{name}.lock")):
        connection = _try_to_connect(name)
        if connection is None:
            connection = _start(name)
    return connection


def _try_to_connect(name: str) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(socket_of(name)))
    except OSError:
        connection.close()
        return None
    return connection


def _start(name: str) -> socket.socket:
    socket_of(name).unlink(missing_ok=True)
    environment = {**arithmetic.environment(arithmetic.wanted(), os.environ), "PYTHONPATH": str(package_dir().parent)}
    with _log_of(name).open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "tlbench.execution.server", str(os.getppid()), name],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        if connection := _try_to_connect(name):
            return connection
        time.sleep(POLL_S)
    server.kill()
    raise CellFailed(f"the {name} process did not start: {_last_line(name)}")


def _last_line(name: str) -> str:
    with suppress(OSError):
        lines = _log_of(name).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
    return "its log is gone"


def serve(owner: int, name: str) -> None:
    """Answer one request after another, until the process ``owner`` or the socket is gone."""
    from tlbench.execution.preload import preload

    preload()
    if name == MEASURING and (outcomes := outcomes_dir()) is not None:
        with span(Category.KEEP):
            record(outcomes)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(socket_of(name)))
    listening.listen()
    while _exists(owner) and socket_of(name).exists():
        ready, _, _ = select.select([listening], [], [], IDLE_CHECK_S)
        if ready:
            connection, _ = listening.accept()
            with connection:
                _answer_in_fork(connection, name, owner)


def _answer_in_fork(connection: socket.socket, name: str, owner: int) -> None:
    line = connection.makefile().readline()
    if not line:
        return
    request = json.loads(line)
    if (absent := _absent_wrapper(request)) is not None:
        with suppress(OSError):
            _reply(connection, absent)
        return
    with suppress(Exception):
        # What is hashed here need not be hashed in the forks; what is wrong is met again, and told, by the one that asks.
        _verify_what_is_read(request)
    pid = os.fork()
    if pid == 0:
        status = 1
        os.setpgid(0, 0)
        try:
            _reply(connection, _answer(request))
            status = 0
        finally:
            os._exit(status)
    status = _wait(pid, connection, owner)
    if status:
        by = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        hint = ": it may have run out of memory" if status == -signal.SIGKILL else f": {_last_line(name)}"
        failure: Outcome[Any] = Outcome(Kind.FAILED, reason=f"the {name} process ended with {by}{hint}")
        with suppress(OSError):
            _reply(connection, failure)


def _absent_wrapper(request: dict[str, Any]) -> Outcome[Any] | None:
    """That this TransformerLens has no such wrapper needs no fork to tell, and comes before all else that may be wrong.

    What stands in the way of telling it is left to the fork.
    """
    with suppress(Exception):
        from tlbench.lens import require

        setting()  # nothing is said of another TransformerLens than the one asked for
        cell = QUESTIONS[request["question"]].cell(*request["cell"])
        try:
            if isinstance(cell, Cell | RuntimeCell):
                require(cell.wrapper)
        except NotApplicable as reason:
            return Outcome(Kind.NOT_APPLICABLE, reason=str(reason))
    return None


def _verify_what_is_read(request: dict[str, Any]) -> None:
    from tlbench import catalogue as catalogues
    from tlbench.checkpoints import locate
    from tlbench.questions.measure import hash_kept

    catalogue = catalogues.load()
    locate(catalogue.get(request["cell"][0]), catalogue)
    question = QUESTIONS[request["question"]]
    if question.cell is Cell and question.references and not is_there(kept_path(question, cell := Cell(*request["cell"]))):
        hash_kept(cell, question.references)


def _answer(request: dict[str, Any]) -> Outcome[Any]:
    question = QUESTIONS[request["question"]]
    return attempt(question, question.cell(*request["cell"]))


def _reply(connection: socket.socket, outcome: Outcome[Any]) -> None:
    connection.sendall(json.dumps(outcome.to_json()).encode() + b"\n")


def _wait(pid: int, connection: socket.socket, owner: int) -> int:
    """The exit status of a child; one whose asker has gone (asv ends what takes too long), or the owner, is killed."""
    checked = time.monotonic()
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        readable, _, _ = select.select([connection], [], [], POLL_S)
        is_time = time.monotonic() - checked > IDLE_CHECK_S
        if is_time:
            checked = time.monotonic()
        if readable or (is_time and not _exists(owner)):
            # Nothing more is ever sent: what can be read is the end. What the child has forked ends with it.
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
