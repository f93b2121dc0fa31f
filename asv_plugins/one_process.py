"""Make asv read figures in one process per environment instead of one fork per figure. See :mod:`asv_plugins.reader`.

asv has no hook for this, so this module replaces its class for the launch method ``forkserver``. The one process runs only
``track_`` benchmarks. All others, and all if it dies, go to asv's own fork server, which starts on first use.
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
    """The launch method ``forkserver``, but with ``reader.py`` as the server."""

    def __init__(self, env: Any, root: str) -> None:
        with patch.object(runner, "BENCHMARK_RUN_SCRIPT", str(READER)):
            super().__init__(env, root)
        self._forking: Any = None

    def run(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Run a benchmark. Returns its output and exit status, or raises TimeoutExpired if the process hangs."""
        if is_track(name) and self.server_proc.poll() is None:
            try:
                return super().run(name, *args, **kwargs)
            except Exception:
                self.server_proc.wait(DEATH_TIMEOUT_S)
                # A benchmark killed the process. asv's own fork server reports that, and runs all later benchmarks.
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
    """Whether this is a ``track_`` benchmark, given its asv name with an appended parameter index."""
    return name.split("-", maxsplit=1)[0].rsplit(".", 1)[-1].startswith("track_")


runner.ForkServer = ReadingServer
