"""Commands of tlbench, in the test's own process: a new one would spend most of its time on imports."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace
from unittest.mock import patch

import pytest

from tlbench import cli


def run(command, *words, **environment):
    """What a subprocess would give: ``returncode``, ``stdout`` and ``stderr``. Its servers stay for the next command."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["tlbench", command, *map(str, words)]),
        patch.dict("os.environ", environment),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main()
    return SimpleNamespace(returncode=ended.value.code or 0, stdout=out.getvalue(), stderr=err.getvalue())
