"""The client of the fork servers (:mod:`tlbench.execution.server`): call a function in another environment of Python."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tlbench import arithmetic, exceptions
from tlbench.exceptions import CellFailed
from tlbench.execution import server
from tlbench.files import locked
from tlbench.paths import package_dir
from tlbench.spans import Category, span

START_TIMEOUT_S = 600.0
POLL_S = 0.005
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
"""No server asks a hub, draws progress bars, or touches a GPU when it looks whether there is one."""


@dataclass(frozen=True)
class Server:
    """A fork server, started when it is first called.

    Attributes:
        name: of the server, for its files and for messages. Those that have one folder and one name are one server.
        folder: where its socket, its lock and its log lie. The server ends when the folder is deleted.
        python: the interpreter that it runs in.
        owner: the process that it ends with; by default this one.
        preload: ``module:name`` of a function that it calls before it listens.
        variables: environment variables that it is started with.
    """

    name: str
    folder: Path
    python: Path = Path(sys.executable)
    owner: int = field(default_factory=os.getpid)
    preload: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)

    def call(self, function: Callable[..., Any], *arguments: Any, before: Callable[..., Any] | None = None) -> Any:
        """What a function of some module returns in a fork of the server. Arguments and result are JSON.

        Args:
            function, arguments, before: as :meth:`stream`.

        Raises:
            TlbenchError: what the function raises.
            CellFailed: if it raises anything else, if the fork dies, or if the server cannot be started.
        """
        (value,) = self.stream(function, *arguments, before=before)
        return value

    def stream(
        self, function: Callable[..., Any], *arguments: Any, before: Callable[..., Any] | None = None
    ) -> Iterator[Any]:
        """What a generator yields in a fork of the server, as it comes.

        Args:
            function: a function of some module.
            arguments: its arguments, as JSON has them.
            before: called with the same arguments in the server itself; see :mod:`tlbench.execution.server`.

        Raises:
            TlbenchError: as :meth:`call`.
        """
        request = {
            "function": _address(function),
            "arguments": arguments,
            "before": _address(before) if before else "",
            "variables": server.settings({**os.environ, **self.variables}.items()),
        }
        with span(Category.WAIT), self._connected() as connection:
            connection.sendall(json.dumps(request).encode() + b"\n")
            for line in connection.makefile():
                reply = json.loads(line)
                if "end" in reply:
                    _raise(reply["end"])
                    return
                yield reply["value"]
        raise CellFailed(f"the {self.name} server ended without an answer: {self._last_line()}")

    def start(self) -> None:
        """Start the server if it does not run, and wait until it has imported everything.

        Raises:
            CellFailed: if it cannot be started.
        """
        self._connected().close()

    @property
    def _full_name(self) -> str:
        """torch takes the arithmetic from the environment when it is imported: another one needs another server."""
        return f"{self.name}-{arithmetic.wanted()}"

    def _connected(self) -> socket.socket:
        with locked(self.folder / f"{self._full_name}.lock"):
            return self._try_to_connect() or self._start()

    def _try_to_connect(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX)
        try:
            with _short(self.folder) as folder:
                connection.connect(f"{folder}/{server.socket_name(self._full_name)}")
        except OSError:
            connection.close()
            return None
        return connection

    def _start(self) -> socket.socket:
        (self.folder / server.socket_name(self._full_name)).unlink(missing_ok=True)
        environment = arithmetic.environment(arithmetic.wanted(), {**os.environ, **self.variables, **QUIET})
        environment |= {"PYTHONPATH": str(package_dir().parent)}
        command = [str(self.python), "-m", "tlbench.execution.server", self._full_name, str(self.owner), self.preload]
        with (self.folder / server.log_name(self._full_name)).open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            if connection := self._try_to_connect():
                return connection
            time.sleep(POLL_S)
        process.kill()
        raise CellFailed(f"the {self.name} server of {self.python} did not start: {self._last_line()}")

    def _last_line(self) -> str:
        return server.last_line(self.folder / server.log_name(self._full_name))


def beside(name: str, *, python: Path | None = None, preload: str = "") -> Server:
    """A server that lives as long as this process does or, in a fork of a server, as long as that one.

    Args:
        name: of the server; servers of two interpreters never are one.
        python: the interpreter; by default this one.
        preload: as :class:`Server`'s.
    """
    interpreter = python or Path(sys.executable)
    digest = hashlib.sha256(str(interpreter).encode()).hexdigest()[:8]
    folder, owner = os.environ.get(server.FOLDER_VARIABLE), os.environ.get(server.PID_VARIABLE)
    if folder and owner and Path(folder).is_dir():
        return Server(f"{name}-{digest}", Path(folder), interpreter, int(owner), preload)
    return Server(f"{name}-{digest}", _own_folder(os.getpid()), interpreter, preload=preload)


@lru_cache(maxsize=1)
def _own_folder(pid: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tlbench-"))

    def delete() -> None:
        if os.getpid() == pid:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(delete)
    return folder


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A name of a folder that is short enough for a socket's address, which holds 108 bytes."""
    descriptor = os.open(folder, os.O_PATH)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _address(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def _raise(end: server.End) -> None:
    if end is not None:
        kind: type[Exception] = getattr(exceptions, end["error"], CellFailed)
        raise kind(end["message"])
