"""Where the time of a default run goes: the errors that `make bench` measures, with everything there but the figures.

The costs that it measures too are left out: they are TransformerLens and HuggingFace running by turns, and little else.
"""

import subprocess
import sys

from tlbench import spans
from tlbench.spans import Category
from tools.perf.bench import ROOT, at_least, commit_of

MODELS_OWN = (Category.IMPORT, Category.LOAD, Category.PROCESS, Category.FORWARD)
"""TransformerLens's and HuggingFace's code. Installing them is not."""
SERVER = (Category.VERIFY, Category.FINGERPRINT, Category.READ, Category.ARITHMETIC, Category.KEEP)
"""What passes in the measuring server beside those."""
SHARE_NAME = "share of a warm default run inside TransformerLens's and HuggingFace's own code"


def default_grid():
    """The pattern and the tags of `make bench`, as make has them."""
    words = ["make", "-C", ROOT, "-s", "--no-print-directory"]
    tell = "tell: ; @:$(info $(BENCH))$(info $(BENCH_TAGS))"
    done = subprocess.run([*words, "--eval", tell, "tell"], capture_output=True, text=True, check=True)
    pattern, tags = done.stdout.splitlines()
    return pattern, tags.split()


def profiled(bench, pattern, commits):
    """Seconds that a run takes, and where they went: every cell is measured again, all else is there."""
    bench.run(pattern, commits)
    folder = bench.folder / "profile"
    folder.mkdir(exist_ok=True)
    wall = bench.run(pattern, commits, TLBENCH_REMEASURE="1", **{spans.PROFILE_VARIABLE: str(folder)})
    return wall, spans.read(folder)


def rows(wall, totals):
    """Seconds by what they were spent on; they add up to ``wall``.

    The processes that asv forks wait while the server measures: what they wait for and no span of the server accounts for
    is its start, its forks and the messages. What is in no span at all is asv's.
    """
    seconds = {category: totals.get(category, (0.0, 0))[0] for category in Category}
    waiting = seconds.pop(Category.WAIT)
    in_server = sum(seconds[category] for category in (*MODELS_OWN, *SERVER))
    found = {str(category): value for category, value in seconds.items()}
    found["the server's start, forks and messages"] = waiting - in_server
    found["asv"] = wall - waiting - seconds[Category.INSTALL] - seconds[Category.ANSWER]
    return found


def default_run(bench):
    """The table goes to standard error, the share to standard output."""
    pattern, tags = default_grid()
    wall, totals = profiled(bench, pattern, [commit_of(tag) for tag in tags])
    show(wall, totals)
    own = sum(totals[category][0] for category in MODELS_OWN)
    yield at_least(SHARE_NAME, 100 * own / wall, "%", 70)


def show(wall, totals):
    """The table, in Markdown."""
    print("| | seconds | share |\n|:--|--:|--:|", file=sys.stderr)
    for name, seconds in rows(wall, totals).items():
        print(f"| {name} | {seconds:.1f} | {100 * seconds / wall:.1f} % |", file=sys.stderr)
    print(f"| total | {wall:.1f} | |", file=sys.stderr)
