"""`make bench` as a newcomer runs it: in a new clone, with an empty home, from the package index alone."""

import os
import subprocess
import time

from tools.perf.bench import ROOT, at_most

NEEDED = (
    "PATH",
    "UV_FIND_LINKS",
    "PIP_FIND_LINKS",
    "PIP_INDEX_URL",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "HTTPS_PROXY",
    "NO_PROXY",
)
"""The only variables that the newcomer shares with us: how this machine reaches the package index."""
FIRST_VERDICT = " measured · "
"""What a release's line of summary has."""


def figures(folder):
    """The seconds until the first verdict and in all, and the lines that were printed."""
    clone, home = folder / "clone", folder / "home"
    home.mkdir()
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    variables = {name: os.environ[name] for name in NEEDED if name in os.environ} | {"HOME": str(home)}
    started, first, lines, last = time.monotonic(), None, 0, ""
    with subprocess.Popen(
        ["make", "bench"], cwd=clone, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        for line in run.stdout:
            lines += 1
            last = line.strip() or last
            if first is None and FIRST_VERDICT in line:
                first = time.monotonic() - started
    if run.returncode or first is None:
        raise SystemExit(f"make bench in {clone} ended with status {run.returncode} and {lines} lines, the last: {last}")
    yield at_most("make bench in a new clone: the first verdict after", first, "s", 240)
    yield at_most("the same, in all", time.monotonic() - started, "s", 720)
    yield at_most("the same, printed", lines, "lines", 300)
