"""Records to JSON and back."""

import subprocess
import sys

import pytest

THREADS = """
import dataclasses, sys, threading
from tlbench.records import serial
sys.setswitchinterval(1e-6)


def kind():
    @dataclasses.dataclass(frozen=True)
    class Inner:
        number: float
        numbers: dict[str, float]

    return dataclasses.make_dataclass("Outer", [("one", Inner), ("many", tuple[Inner, ...])], frozen=True)


inner = {"number": 1.0, "numbers": {"a": 1.0}}
for _ in range(1000):
    new, together = kind(), threading.Barrier(4)

    def restore():
        together.wait()
        serial.restored(new, {"one": inner, "many": [inner]})

    threads = [threading.Thread(target=restore) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
"""


@pytest.mark.slow
def test_several_threads_may_be_the_first_to_restore_a_kind_of_record():
    """msgspec 0.22 alone ends this with a segmentation fault."""
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
