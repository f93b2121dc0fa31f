"""A fork server: imports the heavy libraries once, then forks per call.

``python -m tlbench.execution.server NAME OWNER PRELOAD`` listens on ``NAME.socket`` in the current folder, and its log is
``NAME.log`` there. A request is one line of JSON::

    {"function": "module:name", "arguments": [...], "before": "module:name" or "", "variables": {...}}

The function runs in a fork, and requests that come meanwhile in forks of their own. Each value that it yields, or the one
that it returns, comes back as a line ``{"value": ...}``. The last line is ``{"end": null}``, or ``{"end": {"error": CLASS,
"message": TEXT}}`` if it raised or died. ``before`` runs in the server itself, with the same arguments. Every fork inherits
what it caches, and if it returns values, they are the answer and nothing forks. ``variables`` are the client's settings
(environment variables that begin with ``TLBENCH_`` or ``ASV_``).

A request ``{"serve": NAME, "folder": PATH, "preload": "module:name", "variables": {...}}`` forks another server, which
starts in that folder with all that this one has imported, and answers ``{"end": null}`` when it listens.

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
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from inspect import isgenerator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn

from psutil import pid_exists

from tlbench.exceptions import TlbenchError

FOLDER_VARIABLE, PID_VARIABLE = "TLBENCH_SERVER_FOLDER", "TLBENCH_SERVER_PID"
"""The server's folder and process, in the environment of its forks. They start further servers beside it."""
SETTINGS = ("TLBENCH_", "ASV_")
"""How the names of variables begin that every request brings: our own, and asv's, which name the commit under test."""
OWN_SETTINGS = (FOLDER_VARIABLE, PID_VARIABLE)
IDLE_CHECK_S = 0.2


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that a request carries."""
    return {name: value for name, value in environment.items() if name.startswith(SETTINGS) and name not in OWN_SETTINGS}


def serve(name: str, owner: int, preload: str = "", starting: socket.socket | None = None) -> None:
    """Answer requests until the process ``owner`` or the socket is gone. ``starting`` is told when the server listens."""
    os.environ[FOLDER_VARIABLE], os.environ[PID_VARIABLE] = str(Path.cwd()), str(os.getpid())
    if preload:
        _preload(preload, owner)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{name}.socket")
    listening.listen()
    if starting:
        with starting, suppress(OSError):  # the client may have gone
            _reply(starting, end=None)
    _Loop(name, owner, listening).run()


def _preload(address: str, owner: int) -> None:
    """Call the function at an address, which may import for a minute, and exit if the process ``owner`` ends meanwhile."""
    signal.signal(signal.SIGALRM, lambda *_: None if pid_exists(owner) else os._exit(1))
    signal.setitimer(signal.ITIMER_REAL, IDLE_CHECK_S, IDLE_CHECK_S)
    resolve_name(address)()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def last_line(log: Path) -> str:
    """The last line of a log, for an error message."""
    with suppress(OSError):
        lines = log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it printed nothing"
    return "its log is gone"


@dataclass
class _Loop:
    """The server's own process: accepts requests, forks, and waits for the forks' ends and for clients that go.

    Attributes:
        forks: the process of each running fork and, unless it is a server itself, its client, by process file descriptor.
    """

    name: str
    owner: int
    listening: socket.socket
    forks: dict[int, tuple[int, socket.socket | None]] = field(default_factory=dict)

    def run(self) -> None:
        while pid_exists(self.owner) and Path(f"{self.name}.socket").exists():
            clients = {client: pid for pid, client in self.forks.values() if client}
            watched: list[Any] = [self.listening, *self.forks, *clients]
            ready, _, _ = select.select(watched, [], [], IDLE_CHECK_S)
            for client in clients.keys() & ready:  # a client sends nothing more, so all there is to read is its end
                _kill(clients[client])
            for pidfd in self.forks.keys() & ready:
                self._finish(pidfd)
            if self.listening in ready:
                connection, _ = self.listening.accept()
                with suppress(OSError):  # the client may have gone
                    self._answer(connection)
        for pid in (pid for pid, client in self.forks.values() if client):
            _kill(pid)

    def _answer(self, connection: socket.socket) -> None:
        """Answer a request, or fork a process that does."""
        line = connection.makefile().readline()
        request = json.loads(line) if line else {}
        if not request or self._answered_here(connection, request):
            connection.close()
            return
        pid = os.fork()
        if pid == 0:
            self._run_in_fork(connection, request)
        is_server = "serve" in request
        if is_server:
            connection.close()
        self.forks[os.pidfd_open(pid)] = (pid, None if is_server else connection)

    def _answered_here(self, connection: socket.socket, request: dict[str, Any]) -> bool:
        for variable in settings(os.environ).keys() - request["variables"].keys():
            del os.environ[variable]
        os.environ.update(request["variables"])
        answer = None
        if request.get("before"):
            with suppress(Exception):  # the fork will fail in the same way, and report it
                answer = resolve_name(request["before"])(*request["arguments"])
        if answer is None:
            return False
        for value in answer:
            _reply(connection, value=value)
        _reply(connection, end=None)
        return True

    def _run_in_fork(self, connection: socket.socket, request: dict[str, Any]) -> NoReturn:
        status = 1
        try:
            self.listening.close()
            for pidfd, (_, client) in self.forks.items():
                os.close(pidfd)
                if client is not None:
                    client.close()
            if "serve" in request:
                _become_server(request, self.owner, connection)
            else:
                os.setpgid(0, 0)
                _run(connection, request)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _finish(self, pidfd: int) -> None:
        """Clear up after a fork; if it died without an answer, tell its client."""
        pid, client = self.forks.pop(pidfd)
        os.close(pidfd)
        _, exited = os.waitpid(pid, 0)
        status = os.waitstatus_to_exitcode(exited)
        if client is None:
            return
        with client, suppress(OSError):  # the client may have gone
            if status:
                by = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
                log = Path(f"{self.name}.log")
                hint = "it may have run out of memory" if status == -signal.SIGKILL else last_line(log)
                _reply(client, end={"error": "CellFailed", "message": f"the {self.name} process ended with {by}: {hint}"})


def _run(connection: socket.socket, request: dict[str, Any]) -> None:
    """In a fork: run the function and reply."""
    end = None
    try:
        result = resolve_name(request["function"])(*request["arguments"])
        for value in result if isgenerator(result) else (result,):
            _reply(connection, value=value)
    except TlbenchError as error:
        end = {"error": type(error).__name__, "message": str(error)}
    except Exception as error:
        end = {"error": "CellFailed", "message": f"{type(error).__name__}: {error}".replace("\n", " ")}
    _reply(connection, end=end)


def _become_server(request: dict[str, Any], owner: int, connection: socket.socket) -> None:
    """In a fork: serve under another name, in a session and with a log of its own."""
    os.setsid()
    os.chdir(request["folder"])
    with Path(f"{request['serve']}.log").open("ab") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    serve(request["serve"], owner, request["preload"], connection)


def _reply(connection: socket.socket, **reply: Any) -> None:
    connection.sendall(json.dumps(reply).encode() + b"\n")


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # the fork's own children end with it
        os.killpg(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), sys.argv[3])
