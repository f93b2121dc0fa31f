"""A fork server: imports the heavy libraries once, then forks per call.

``python -m tlbench.execution.server NAME OWNER [PRELOAD]`` listens on ``NAME.socket`` in the current folder, and its log is
``NAME.log`` there. A request is one line of JSON::

    {"function": "module:name", "arguments": [...], "before": "module:name" or "", "variables": {...}}

The function runs in a fork. Each value that it yields, or the one that it returns, comes back as a line ``{"value": ...}``.
The last line is ``{"end": null}``, or ``{"end": {"error": CLASS, "message": TEXT}}`` if it raised or died. ``before`` runs
in the server itself, with the same arguments. Every fork inherits what it caches, and if it returns values, they are the
answer and nothing forks. ``variables`` are the client's settings (environment variables that begin with ``TLBENCH_``).

The server ends when the process OWNER or its socket is gone. It starts no thread and computes no tensor before it forks:
after torch has run threads a fork may deadlock, and after CUDA was touched a fork cannot use it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from inspect import isgenerator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from psutil import pid_exists

from tlbench.exceptions import TlbenchError

FOLDER_VARIABLE, PID_VARIABLE = "TLBENCH_SERVER_FOLDER", "TLBENCH_SERVER_PID"
"""The server's folder and process, in the environment of its forks. They start further servers beside it."""
SETTINGS = "TLBENCH_"
OWN_SETTINGS = (FOLDER_VARIABLE, PID_VARIABLE)
IDLE_CHECK_S = 1.0
POLL_S = 0.001


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that a request carries."""
    return {name: value for name, value in environment.items() if name.startswith(SETTINGS) and name not in OWN_SETTINGS}


def serve(name: str, owner: int, preload: str = "") -> None:
    """Answer one request after another, until the process ``owner`` or the socket is gone."""
    os.environ[FOLDER_VARIABLE], os.environ[PID_VARIABLE] = str(Path.cwd()), str(os.getpid())
    if preload:
        resolve_name(preload)()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{name}.socket")
    listening.listen()
    while pid_exists(owner) and Path(f"{name}.socket").exists():
        ready, _, _ = select.select([listening], [], [], IDLE_CHECK_S)
        if ready:
            connection, _ = listening.accept()
            with connection, suppress(OSError):  # the client may have gone
                handle(connection, name, owner)


def handle(connection: socket.socket, name: str, owner: int) -> None:
    """Answer one request."""
    line = connection.makefile().readline()
    if not line:
        return
    request = json.loads(line)
    for variable in settings(os.environ).keys() - request["variables"].keys():
        del os.environ[variable]
    os.environ.update(request["variables"])
    answer = None
    if request["before"]:
        with suppress(Exception):  # the fork will fail in the same way, and report it
            answer = resolve_name(request["before"])(*request["arguments"])
    if answer is not None:
        for value in answer:
            _reply(connection, value=value)
        _reply(connection, end=None)
        return
    pid = os.fork()
    if pid == 0:
        _run_and_exit(connection, request)
    status = _wait(pid, connection, owner)
    if status:
        by = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        hint = "it may have run out of memory" if status == -signal.SIGKILL else last_line(Path(f"{name}.log"))
        _reply(connection, end={"error": "CellFailed", "message": f"the {name} process ended with {by}: {hint}"})


def last_line(log: Path) -> str:
    """The last line of a log, for an error message."""
    with suppress(OSError):
        lines = log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it printed nothing"
    return "its log is gone"


def _run_and_exit(connection: socket.socket, request: dict[str, Any]) -> None:
    """In a fork: run the function, reply, end."""
    status, end = 1, None
    os.setpgid(0, 0)
    try:
        result = resolve_name(request["function"])(*request["arguments"])
        for value in result if isgenerator(result) else (result,):
            _reply(connection, value=value)
    except TlbenchError as error:
        end = {"error": type(error).__name__, "message": str(error)}
    except Exception as error:
        end = {"error": "CellFailed", "message": f"{type(error).__name__}: {error}".replace("\n", " ")}
    try:
        _reply(connection, end=end)
        status = 0
    finally:
        os._exit(status)


def _reply(connection: socket.socket, **reply: Any) -> None:
    connection.sendall(json.dumps(reply).encode() + b"\n")


def _wait(pid: int, connection: socket.socket, owner: int) -> int:
    """The exit status of a fork. Kills it if its client (asv ends what takes too long) or the owner has gone."""
    checked = time.monotonic()
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        readable, _, _ = select.select([connection], [], [], POLL_S)
        is_abandoned = bool(readable)  # a client sends nothing more, so all there is to read is its end
        if time.monotonic() - checked > IDLE_CHECK_S:
            checked = time.monotonic()
            is_abandoned |= not pid_exists(owner)
        if is_abandoned:
            with suppress(ProcessLookupError):  # the fork's own children end with it
                os.killpg(pid, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
