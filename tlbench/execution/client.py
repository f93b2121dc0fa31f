"""The client of the fork servers (:mod:`tlbench.execution.server`): call a function in another Python environment."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from subprocess import DEVNULL, Popen
from types import MappingProxyType
from typing import Any

from tlbench import arithmetic, exceptions
from tlbench.exceptions import BadInput, CellFailed
from tlbench.execution import server
from tlbench.files import locked
from tlbench.paths import package_dir
from tlbench.spans import Category, span

Function = Callable[..., Any]
START_TIMEOUT_S = 600.0
TIME_LIMIT_VARIABLE = "TLBENCH_TIME_LIMIT"
TIME_LIMIT_S = 4 * 3600.0
"""How long a call may take to its next answer. Only what hangs takes as long, or a golden of many billion parameters."""
POLL_S = 0.005
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
"""Keep a server off the Hub, without progress bars, and off the GPU when it checks whether there is one."""


@dataclass(frozen=True)
class Server:
    """A fork server. The first call starts it.

    Attributes:
        name: names its files and appears in messages. Two with the same folder and name are one server.
        folder: holds its socket, lock and log. The server ends when the folder is deleted.
        python: the interpreter that it runs in.
        owner: the process that it ends with; by default this one.
        preload: ``module:name`` of a function that it calls before it listens.
        variables: environment variables that it starts with.
        forked_from: the server that it is forked from, with all that this has imported; by default it is a new interpreter.
    """

    name: str
    folder: Path
    python: Path = Path(sys.executable)
    owner: int = field(default_factory=os.getpid)
    preload: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    forked_from: Server | None = None

    def call(self, function: Function | str, *arguments: Any, before: Function | str | None = None) -> Any:
        """Call a module's function, or the one at ``module:name``, in a fork of the server. Arguments and result are JSON.

        The server itself calls ``before`` first, with the same arguments; see :mod:`tlbench.execution.server`.

        Raises:
            TlbenchError: what the function raises.
            CellFailed: if it raises anything else, if the fork dies or exceeds the time limit, or if the server cannot be
                started.
        """
        (value,) = self.stream(function, *arguments, before=before)
        return value

    def stream(self, function: Function | str, *arguments: Any, before: Function | str | None = None) -> Iterator[Any]:
        """Yield what a generator yields in a fork of the server, as it comes. Otherwise like :meth:`call`."""
        request = {
            "function": _address(function),
            "arguments": arguments,
            "before": _address(before) if before else "",
            "variables": self._settings(),
        }
        limit = time_limit_s()
        with span(Category.WAIT), self._connected() as connection:
            connection.settimeout(limit)
            try:
                connection.sendall(json.dumps(request).encode() + b"\n")
                for line in connection.makefile():
                    reply = json.loads(line)
                    if "value" in reply:
                        yield reply["value"]
                    elif error := reply["end"]:
                        raise getattr(exceptions, error["error"], CellFailed)(error["message"])
                    else:
                        return
            except TimeoutError as error:  # the server kills a fork whose client has gone
                raise CellFailed(
                    f"the {self.name} process gave no answer for {limit:g} s: if the model needs longer, set "
                    f"{TIME_LIMIT_VARIABLE} to more seconds"
                ) from error
        raise CellFailed(f"the {self.name} server ended without an answer: {server.last_line(self._file('log'))}")

    def start(self) -> None:
        """Start the server if it is not running, and wait until it has imported everything, or raise :class:`CellFailed`."""
        self._connected().close()

    def stop(self) -> None:
        """Let the server end, if it is running. Its forks end with it, servers that it started do not."""
        self._file("socket").unlink(missing_ok=True)

    def _settings(self) -> dict[str, str]:
        return server.settings({**os.environ, **self.variables})

    @property
    def _full_name(self) -> str:
        """torch reads the arithmetic from the environment when it is imported, so each arithmetic has its own server."""
        return f"{self.name}-{arithmetic.wanted()}"

    def _file(self, suffix: str) -> Path:
        return self.folder / f"{self._full_name}.{suffix}"

    def _connected(self) -> socket.socket:
        with locked(self._file("lock")):
            return self._try_to_connect() or self._start()

    def _try_to_connect(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX)
        try:
            folder = os.open(self.folder, os.O_PATH)
            try:  # a socket's address holds 108 bytes, which the folder's own name may exceed
                connection.connect(f"/proc/self/fd/{folder}/{self._file('socket').name}")
            finally:
                os.close(folder)
        except OSError:
            connection.close()
            return None
        return connection

    def _start(self) -> socket.socket:
        self._file("socket").unlink(missing_ok=True)
        if connection := self._fork(self.forked_from) if self.forked_from else self._interpret():
            return connection
        raise CellFailed(f"the {self.name} server of {self.python} did not start: {server.last_line(self._file('log'))}")

    def _fork(self, other: Server) -> socket.socket | None:
        """Start as a fork of another server. None if that failed."""
        request = {
            "serve": self._full_name,
            "folder": str(self.folder),
            "preload": self.preload,
            "variables": self._settings(),
        }
        with other._connected() as connection:
            connection.settimeout(START_TIMEOUT_S)
            connection.sendall(json.dumps(request).encode() + b"\n")
            with suppress(TimeoutError):
                connection.makefile().readline()
        return self._try_to_connect()

    def _import_folder(self) -> Path:
        """A folder from which tlbench, and nothing else, can be imported.

        The folder that tlbench is installed in may hold another torch, which would hide the environment's own.
        """
        folder = self.folder / "import"
        folder.mkdir(exist_ok=True)
        with suppress(FileExistsError):
            (folder / package_dir().name).symlink_to(package_dir())
        return folder

    def _interpret(self) -> socket.socket | None:
        """Start in a new interpreter. None if that failed."""
        environment = arithmetic.environment(arithmetic.wanted(), {**os.environ, **self.variables, **QUIET})
        environment |= {"PYTHONPATH": str(self._import_folder())}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else every server compiles torch and transformers anew
        command = [str(self.python), "-P", "-m", "tlbench.execution.server", self._full_name, str(self.owner), self.preload]
        with self._file("log").open("ab") as log:
            process = Popen(
                command, cwd=self.folder, env=environment, stdin=DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            if connection := self._try_to_connect():
                return connection
            time.sleep(POLL_S)
        process.kill()
        return None


def time_limit_s() -> float:
    """How long a call may take to its next answer: ``$TLBENCH_TIME_LIMIT``. Raises ``BadInput`` if that is no time."""
    wanted = os.environ.get(TIME_LIMIT_VARIABLE, "")
    with suppress(ValueError):
        seconds = float(wanted or TIME_LIMIT_S)
        if 0 < seconds < threading.TIMEOUT_MAX:
            return seconds
    raise BadInput(f"invalid {TIME_LIMIT_VARIABLE}={wanted!r}: expected a number of seconds above 0")


def named(name: str, interpreter: Path, variables: Mapping[str, str] = MappingProxyType({})) -> str:
    """A server's name with what it starts with, so that two interpreters never share a server."""
    key = f"{interpreter}{sorted(variables.items()) or ''}"
    return f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def beside(
    name: str,
    *,
    python: Path | None = None,
    preload: str = "",
    variables: Mapping[str, str] = MappingProxyType({}),
    forked_from: Server | None = None,
) -> Server:
    """A server that lives as long as this process or, in a fork of a server, as long as that server.

    ``python`` is by default this interpreter.
    """
    interpreter = python or Path(sys.executable)
    full_name = named(name, interpreter, variables)
    folder, owner = os.environ.get(server.FOLDER_VARIABLE), os.environ.get(server.PID_VARIABLE)
    if folder and owner and Path(folder).is_dir():
        return Server(full_name, Path(folder), interpreter, int(owner), preload, variables, forked_from)
    return Server(full_name, _own_folder(os.getpid()), interpreter, os.getpid(), preload, variables, forked_from)


@lru_cache(maxsize=1)
def _own_folder(pid: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tlbench-"))

    def delete() -> None:
        if os.getpid() == pid:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(delete)
    return folder


def _address(function: Function | str) -> str:
    return function if isinstance(function, str) else f"{function.__module__}:{function.__qualname__}"
