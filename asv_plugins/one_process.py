"""Make asv read figures in one process per environment instead of one fork per figure. See :mod:`asv_plugins.reader`.

asv asks for one figure at a time, over a connection and a file of its own, and looks up every cell in the list of selected
ones. With a hundred thousand cells that takes minutes. Here it asks for all figures of a benchmark at once.

asv has no hook for this, so this module replaces its class for the launch method ``forkserver``, and the functions that run
a benchmark and one of its cells. The one process runs only ``track_`` benchmarks. All others, and all if it dies, go to
asv's own fork server, which starts on first use.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from asv import runner, util

from asv_plugins.reader import receive, send
from tlbench.paths import RUN_VARIABLE

DEATH_TIMEOUT_S = 10.0
READER = Path(__file__).with_name("reader.py")

_ForkServer: Any = runner.ForkServer
_run_benchmark, _run_cell = runner.run_benchmark, runner._run_benchmark_single_param


class ReadingServer(_ForkServer):  # type: ignore[misc]  # asv has no types
    """The launch method ``forkserver``, but with ``reader.py`` as the server."""

    def __init__(self, env: Any, root: str) -> None:
        os.environ[RUN_VARIABLE] = _run_folder()
        with patch.object(runner, "BENCHMARK_RUN_SCRIPT", str(READER)):
            super().__init__(env, root)
        self._forking: Any = None
        self._answers: Iterator[dict[str, Any]] = iter(())

    def ask(self, names: Sequence[str], params_str: str, timeout: float, cwd: str) -> None:
        """Ask for figures, given asv's names of benchmarks with an appended parameter index. :meth:`answer` returns them."""
        command = {"action": "run", "benchmark_ids": names, "params_str": params_str, "timeout": timeout, "cwd": cwd}
        self._answers = self._stream(command) if self.server_proc.poll() is None else iter(())

    def answer(self) -> dict[str, Any] | None:
        """What came of the next benchmark: ``result`` as JSON, ``out`` and ``errcode``. None if nobody has read it."""
        try:
            return next(self._answers, None)
        except (OSError, RuntimeError):
            self.server_proc.wait(DEATH_TIMEOUT_S)
            return None  # A benchmark killed the process. asv's own fork server reports that, and runs all later ones.

    def _stream(self, command: dict[str, Any]) -> Iterator[dict[str, Any]]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.socket_name)
            send(connection, command)
            for _ in command["benchmark_ids"]:
                yield receive(connection)

    def run(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Run one benchmark by asv's own fork server. Returns its output and exit status."""
        if self._forking is None:
            self._forking = _ForkServer(self.env, self.benchmark_dir)
            self._forking.preimport()
        return self._forking.run(name, *args, **kwargs)

    def close(self) -> None:
        """End both processes."""
        super().close()
        if self._forking is not None:
            self._forking.close()


@wraps(_run_benchmark)
def run_benchmark(
    benchmark: dict[str, Any],
    spawner: Any,
    profile: bool,
    selected_idx: Iterable[int] | None = None,
    extra_params: Any = None,
    cwd: str | None = None,
) -> Any:
    """Run a benchmark like asv's function does, whose figures are all asked for at once."""
    selected = None if selected_idx is None else set(selected_idx)
    if isinstance(spawner, ReadingServer):
        names, can_read = [], is_track(benchmark["name"]) and not profile and cwd and not isinstance(extra_params, list)
        if can_read and benchmark["params"]:
            count = len(list(itertools.product(*benchmark["params"])))
            names = [f"{benchmark['name']}-{i}" for i in range(count) if selected is None or i in selected]
        elif can_read:
            names = [benchmark["name"]]
        spawner.ask(names, json.dumps(extra_params or {}), benchmark["timeout"], cwd or "")
    return _run_benchmark(benchmark, spawner, profile, selected, extra_params, cwd)


@wraps(_run_cell)
def run_cell(benchmark: dict[str, Any], spawner: Any, param_idx: int, **named: Any) -> Any:
    """Take the figure of a cell that was asked for, or run the cell like asv's function does."""
    try:
        answer = spawner.answer() if isinstance(spawner, ReadingServer) else None
    except KeyboardInterrupt:
        spawner.interrupt()
        raise util.UserError("Interrupted.") from None
    if answer is None:
        return _run_cell(benchmark, spawner, param_idx, **named)
    status, said = answer["errcode"], answer["out"]
    if status == util.TIMEOUT_RETCODE:
        said += f"\n\nasv: benchmark timed out (timeout {benchmark['timeout']}s)\n"
    if said and benchmark["params"]:
        cell = next(itertools.islice(itertools.product(*benchmark["params"]), param_idx, None))
        said = f"For parameters: {', '.join(cell)}\n{said}"
    figure = None if status else json.loads(answer["result"])
    return runner.BenchmarkResult([figure], [None], [None], status, said.strip(), None)


def is_track(name: str) -> bool:
    """Whether this is a ``track_`` benchmark, given its asv name, which may have an appended parameter index."""
    return name.split("-", maxsplit=1)[0].rsplit(".", 1)[-1].startswith("track_")


@lru_cache
def _run_folder() -> str:
    """A folder that lasts as long as this process."""
    folder = tempfile.mkdtemp(prefix="tlbench-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


runner.ForkServer = ReadingServer
runner.run_benchmark, runner._run_benchmark_single_param = run_benchmark, run_cell
