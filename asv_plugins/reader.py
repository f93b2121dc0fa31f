"""A replacement for asv_runner's fork server, in the environment under test: ``python reader.py run_server SUITE SOCKET``.

asv_runner forks for every figure, and tokenizes the benchmark's source every time. Each takes many times as long as reading
a stored figure, which is all that a ``track_`` benchmark of this suite does (``tlbench/execution/server.py`` measures). So
this server runs it in its own process, with asv_runner's own function and asv's protocol.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

LENGTH = "<Q"
PR_SET_PDEATHSIG = 1
OURS = "tlbench.exceptions"
"""The module of errors whose message says everything, so that a traceback would only hide it."""
SKIPPED = "asv: skipped: "
"""How asv_runner's line on a skip begins."""
TIMED_OUT = -256
"""The exit status by which asv recognises a timeout."""


def main(suite: str, socket_name: str) -> None:
    """Answer commands until asv interrupts the process."""
    from asv_runner._aux import update_sys_path

    end_with_parent()
    update_sys_path(suite)
    leave_sources_alone()
    keep_benchmarks()
    output, result = (Path(f"/proc/self/fd/{os.memfd_create(name)}") for name in ("output", "result"))
    with socket.socket(socket.AF_UNIX) as listening, suppress(KeyboardInterrupt):
        listening.bind(socket_name)
        listening.listen()
        while True:
            connection, _ = listening.accept()
            with connection:
                command = receive(connection)
                if command["action"] == "preimport":
                    send(connection, preimport(suite, output))
                for name in command.get("benchmark_ids", ()):
                    send(connection, run(suite, name, command, output, result))


def end_with_parent() -> None:
    """Have Linux kill this process when asv dies, which may not get to interrupt it: a killed process does not."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def leave_sources_alone() -> None:
    """Stop asv_runner from reading a benchmark's source at every run. It only needs it for the version, during discovery."""
    from asv_runner.benchmarks import _base

    key_of = lru_cache(maxsize=None)(_base.get_setup_cache_key)

    def get_setup_cache_key(function: Any) -> Any:
        return key_of(getattr(function, "__func__", function))  # every access to a method creates a new object

    _base.get_setup_cache_key = get_setup_cache_key
    _base.get_source_code = lambda items: ""


def keep_benchmarks() -> None:
    """Stop asv_runner from describing a benchmark anew at every run: it lists and compares all parameters of all models."""
    from asv_runner import run

    describe = lru_cache(maxsize=None)(run.get_benchmark_from_name)

    def get_benchmark_from_name(root: str, name: str, extra_params: dict[str, Any] | None = None) -> Any:
        if extra_params:
            return describe.__wrapped__(root, name, extra_params)
        without_index, _, index = name.partition("-")
        benchmark = describe(root, without_index)
        if (instance := getattr(benchmark.func, "__self__", None)) is not None:
            vars(instance).clear()
            instance.__init__()  # as if it were new
        if index:
            benchmark.set_param_idx(int(index))
        return benchmark

    run.get_benchmark_from_name = get_benchmark_from_name


def preimport(suite: str, output: Path) -> str:
    """Import every benchmark. Returns what they print, which passes through the file ``output``."""
    from asv_runner._aux import posix_redirect_output
    from asv_runner.discovery import disc_benchmarks

    with posix_redirect_output(str(output), permanent=False):
        list(disc_benchmarks(suite, ignore_import_errors=True))
    return output.read_text(errors="replace")


def run(suite: str, name: str, command: dict[str, Any], output: Path, result: Path) -> dict[str, Any]:
    """Run one benchmark with one set of parameters. Returns its result as JSON, its output and an exit status.

    Both pass through the files ``output`` and ``result``.
    """
    from asv_runner._aux import posix_redirect_output

    finders = list(sys.meta_path)
    with posix_redirect_output(str(output), permanent=False):
        status = _run_to_the_end((suite, name, command["params_str"], "None", str(result)), command)
    sys.meta_path[:] = finders  # asv_runner adds a finder at every run
    printed = output.read_text(errors="replace")
    # A skip's reason is kept with the outcomes, and asv would print thousands of them with every failure.
    printed = "" if printed.startswith(SKIPPED) and not status else printed
    return {"result": None if status else result.read_text(), "out": printed, "errcode": status}


def _run_to_the_end(arguments: tuple[str, ...], command: dict[str, Any]) -> int:
    from asv_runner.run import _run

    try:
        os.chdir(command["cwd"])
        with _time_limit(command["timeout"]):
            _run(arguments)
    except KeyboardInterrupt:
        raise
    except _TimedOut:
        return TIMED_OUT
    except BaseException as error:
        if type(error).__module__ == OURS:
            print(f"{type(error).__name__}: {error}")
        else:
            traceback.print_exc()
        return 1
    return 0


class _TimedOut(BaseException):
    """A BaseException, so that no benchmark catches it as its own failure."""


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    def end(*_: object) -> None:
        raise _TimedOut

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds or 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def receive(connection: socket.socket) -> dict[str, Any]:
    """A message that :func:`send` sent. Raises RuntimeError if the other end is gone."""
    from asv_runner._aux import recvall

    (length,) = struct.unpack(LENGTH, recvall(connection, struct.calcsize(LENGTH)))
    message: dict[str, Any] = json.loads(recvall(connection, length))
    return message


def send(connection: socket.socket, answer: Any) -> None:
    """Send a message, as asv does."""
    text = json.dumps(answer).encode()
    connection.sendall(struct.pack(LENGTH, len(text)) + text)


if __name__ == "__main__":
    sys.path.pop(0)  # nothing may be imported from this folder
    main(*sys.argv[2:])
