"""A fork server: imports the heavy libraries once, then forks per call.

``python -m tlbench.execution.server NAME OWNER [PRELOAD]`` listens on ``NAME.socket`` in the current folder. A request is
one line of JSON::

    {"function": "module:name", "arguments": [...], "before": "module:name" or "", "variables": {...}}

The function runs in a fork. Each value that it yields, or the one that it returns, comes back as a line ``{"value": ...}``;
the last line is ``{"end": null}``, or ``{"end": {"error": CLASS, "message": TEXT}}`` if it raised or died. ``before`` runs
in the server itself, with the same arguments: what it caches is there in every fork, and if it returns values, no fork is
made. ``variables`` are the client's settings (environment variables that begin with ``TLBENCH_``).

The server ends when the process OWNER or its socket is gone. No thread is started and no tensor computed before the fork: a
fork after torch has run threads may deadlock, and one after CUDA was touched cannot use it.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from inspect import isgenerator
from pathlib import Path
from typing import Any

from tlbench.exceptions import TlbenchError

FOLDER_VARIABLE, PID_VARIABLE = "TLBENCH_SERVER_FOLDER", "TLBENCH_SERVER_PID"
"""What a fork finds in its environment: the server's folder and process, to start further servers beside it."""
SETTINGS = "TLBENCH_"
OWN_SETTINGS = (FOLDER_VARIABLE, PID_VARIABLE)
IDLE_CHECK_S = 1.0
POLL_S = 0.001

Request = dict[str, Any]
End = dict[str, str] | None


def socket_name(name: str) -> str:
    """The file that a server listens on, in its folder."""
    return f"{name}.socket"


def log_name(name: str) -> str:
    """The file that a server and its forks print to."""
    return f"{name}.log"


def resolve(address: str) -> Callable[..., Any]:
    """The function that ``module:name`` stands for."""
    module, name = address.split(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def settings(environment: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The environment variables that a request carries."""
    return {name: value for name, value in environment if name.startswith(SETTINGS) and name not in OWN_SETTINGS}


def serve(name: str, owner: int, preload: str = "") -> None:
    """Answer one request after another, until the process ``owner`` or the socket is gone."""
    os.environ[FOLDER_VARIABLE], os.environ[PID_VARIABLE] = str(Path.cwd()), str(os.getpid())
    if preload:
        resolve(preload)()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(socket_name(name))
    listening.listen()
    while _exists(owner) and Path(socket_name(name)).exists():
        ready, _, _ = select.select([listening], [], [], IDLE_CHECK_S)
        if ready:
            connection, _ = listening.accept()
            with connection, suppress(OSError):  # whoever asked may have gone
                handle(connection, name, owner)


def handle(connection: socket.socket, name: str, owner: int) -> None:
    """Answer one request."""
    line = connection.makefile().readline()
    if not line:
        return
    request: Request = json.loads(line)
    _take_over(request["variables"])
    answered = None
    if request["before"]:
        with suppress(Exception):  # what is wrong is met again, and told, by the fork
            answered = resolve(request["before"])(*request["arguments"])
    if answered is not None:
        for value in answered:
            _reply(connection, {"value": value})
        _reply(connection, {"end": None})
        return
    pid = os.fork()
    if pid == 0:
        _run_and_exit(connection, request)
    status = _wait(pid, connection, owner)
    if status:
        by = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        hint = "it may have run out of memory" if status == -signal.SIGKILL else last_line(Path(log_name(name)))
        _reply(connection, {"end": {"error": "CellFailed", "message": f"the {name} process ended with {by}: {hint}"}})


def last_line(log: Path) -> str:
    """The last line of a log, for an error message."""
    with suppress(OSError):
        lines = log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it printed nothing"
    return "its log is gone"


def _run_and_exit(connection: socket.socket, request: Request) -> None:
    """In a fork: run the function, reply, end."""
    status = 1
    os.setpgid(0, 0)
    try:
        for value in _values(request):
            _reply(connection, {"value": value})
        end: End = None
    except TlbenchError as error:
        end = {"error": type(error).__name__, "message": str(error)}
    except Exception as error:
        end = {"error": "CellFailed", "message": f"{type(error).__name__}: {error}".replace("\n", " ")}
    try:
        _reply(connection, {"end": end})
        status = 0
    finally:
        os._exit(status)


def _values(request: Request) -> Iterator[Any]:
    result = resolve(request["function"])(*request["arguments"])
    if isgenerator(result):
        yield from result
    else:
        yield result


def _take_over(variables: dict[str, str]) -> None:
    for name in settings(os.environ.items()).keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


def _reply(connection: socket.socket, value: dict[str, Any]) -> None:
    connection.sendall(json.dumps(value).encode() + b"\n")


def _wait(pid: int, connection: socket.socket, owner: int) -> int:
    """The exit status of a fork; it is killed when its client (asv ends what takes too long) or the owner has gone."""
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
            # A client sends nothing more: what can be read is the end. What the fork has forked ends with it.
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
    serve(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
