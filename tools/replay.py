"""Replay days of TransformerLens's history to the watch: what would it have told, and when?

``python -m tools.replay CLONE FIRST LAST [--model zoo-gpt2 ...]`` makes an upstream whose branch ``dev`` moves from FIRST to
LAST by one first-parent commit a "day", and runs a pass of the watch after each. It prints a line for each day, how long it
took, and every message. Nothing is sent anywhere. Figures are kept in the cache as ever.
"""

import argparse
import subprocess
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tlbench.cli.steps import grid
from tlbench.watch.configuration import Configuration
from tlbench.watch.messages import Ledger
from tlbench.watch.rendering import as_text
from tlbench.watch.upstream import Mirror
from tlbench.watch.watching import Watch


class Moved(Mirror):
    """The upstream itself in place of a copy. A stored history may lack large files, which no fetch forgives."""

    def fetch(self):
        """Fetch nothing: its branches are moved here."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("clone", "first", "last"):
        parser.add_argument(name)
    for name in ("model", "dtype", "option", "wrapper"):
        parser.add_argument(f"--{name}", action="append")
    wanted = parser.parse_args()
    cells = grid(wanted.model, wanted.dtype, wanted.option, wanted.wrapper)
    days = git(wanted.clone, "rev-list", "--first-parent", "--reverse", f"{wanted.first}^..{wanted.last}").split()
    with tempfile.TemporaryDirectory(prefix="replay-") as folder:
        upstream, home = Path(folder) / "upstream.git", Path(folder) / "home"
        git(folder, "init", "--quiet", "--bare", str(upstream))
        objects = git(wanted.clone, "rev-parse", "--path-format=absolute", "--git-path", "objects")
        (upstream / "objects" / "info" / "alternates").write_text(f"{objects}\n")
        configuration = Configuration(upstream=str(upstream), branches=("dev",), releases=False)
        told = 0
        for number, commit in enumerate(days):
            git(upstream, "update-ref", "refs/heads/dev", commit)
            clock = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)
            started = time.monotonic()
            watch = Watch(configuration, home, cells, now=lambda clock=clock: clock)
            watch.mirror = Moved(str(upstream), upstream)
            found = watch.run()
            subject = git(wanted.clone, "log", "-1", "--format=%cs %s", commit)
            messages = Ledger(home / "watch").messages()
            new, told = messages[told:], len(messages)
            took = time.monotonic() - started
            print(f"day {number:2} {commit[:8]} {subject[:70]}: {len(new)} messages, {took:.0f} s", flush=True)
            for problem in found.problems:
                print(f"  problem: {problem}", flush=True)
            for message in new:
                print(f"  {message.level} {message.event}: {message.text.title}")
                print("".join(f"    {line}\n" for line in as_text(message).splitlines()), end="", flush=True)
        alarms = sum(message.level == "alarm" for message in Ledger(home / "watch").messages())
        summary = f"{told} messages, {alarms} alarms, {len(found.open)} open at the end"
        print(f"{len(days)} days, {len(cells)} cells: {summary}")


def git(folder, *words):
    return subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
