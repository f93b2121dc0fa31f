"""Has asv read figures in one process an environment, in place of a fork for each: see :mod:`asv_plugins.reader`.

asv offers no hook for that, so its class of the launch method ``forkserver`` is replaced. Only ``track_`` benchmarks are run
so; any other goes to asv's own fork server, which is started when it is first needed, and so does everything once the
process has died.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

from asv import runner

DEATH_TIMEOUT_S = 10.0
READER = Path(__file__).with_name("reader.py")

_ForkServer: Any = runner.ForkServer


class ReadingServer(_ForkServer):  # type: ignore[misc]  # asv has no types
    """The launch method ``forkserver``, with another script at its other end."""

    def __init__(self, env: Any, root: str) -> None:
        with patch.object(runner, "BENCHMARK_RUN_SCRIPT", str(READER)):
            super().__init__(env, root)
        self._forking: Any = None

    def run(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """What the benchmark printed, and its exit status.

        Raises:
            subprocess.TimeoutExpired: if the process does not answer and does not end.
        """
        if is_track(name) and self.server_proc.poll() is None:
            try:
                return super().run(name, *args, **kwargs)
            except Exception:
                self.server_proc.wait(DEATH_TIMEOUT_S)
                # A benchmark took the process with it. asv's launcher tells of it, and reads all that comes after.
        if self._forking is None:
            self._forking = _ForkServer(self.env, self.benchmark_dir)
            self._forking.preimport()
        return self._forking.run(name, *args, **kwargs)

    def close(self) -> None:
        """End both processes."""
        super().close()
        if self._forking is not None:
            self._forking.close()


def is_track(name: str) -> bool:
    """Whether a benchmark, named as asv does with the number of its parameters behind it, is a ``track_`` one."""
    return name.split("-", maxsplit=1)[0].rsplit(".", 1)[-1].startswith("track_")


runner.ForkServer = ReadingServer
