"""A profile counts every second once, in the category whose code it passed in."""

import json
import os
from pathlib import Path

import pytest

from tlbench import spans
from tlbench.spans import PROFILE_VARIABLE, Category, Recorder, span
from tools.perf.profile import rows


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def profile_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(PROFILE_VARIABLE, str(tmp_path))
    return tmp_path


def test_the_time_of_a_span_within_another_is_its_own_alone():
    clock, written = Clock(), []
    recorder = Recorder(written.append, clock)
    with recorder.span(Category.ARITHMETIC):
        clock.now += 1
        with recorder.span(Category.LOAD):
            clock.now += 10
            with recorder.span(Category.FINGERPRINT):
                clock.now += 100
        with recorder.span(Category.LOAD):
            clock.now += 1000
        clock.now += 2
    assert written == [{"arithmetic": (3, 1), "load": (1010, 2), "fingerprints of weights": (100, 1)}]


def test_a_span_within_another_of_its_category_is_counted_once():
    clock, written = Clock(), []
    recorder = Recorder(written.append, clock)
    with recorder.span(Category.READ):
        clock.now += 1
        with recorder.span(Category.READ):
            clock.now += 2
    assert written[0]["references and goldens"][0] == 3


def test_a_span_that_raises_ends():
    clock, written = Clock(), []
    recorder = Recorder(written.append, clock)

    def fail():
        with recorder.span(Category.LOAD):
            clock.now += 5
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with recorder.span(Category.FORWARD):
        clock.now += 1
    assert written == [{"load": (5, 1)}, {"forward": (1, 1)}]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv(PROFILE_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    with span(Category.LOAD):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_fork_writes_its_own_spans_and_none_of_those_its_parent_is_in(profile_folder):
    with span(Category.IMPORT):
        with span(Category.LOAD):
            pass
        pid = os.fork()
        if pid == 0:
            with span(Category.FORWARD):
                pass
            os._exit(0)
        os.waitpid(pid, 0)
    lines = [json.loads(line) for line in (profile_folder / spans.FILE_NAME).read_text().splitlines()]
    assert [(line["pid"], sorted(line["spans"])) for line in lines] == [
        (pid, ["forward"]),
        (os.getpid(), ["import", "load"]),
    ]


def test_what_many_processes_wrote_at_once_is_added_up(profile_folder):
    children = []
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            for _ in range(50):
                with span(Category.FORWARD):
                    pass
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    seconds, count = spans.read(profile_folder)["forward"]
    assert count == 400
    assert seconds > 0


def test_a_folder_that_nothing_was_written_to_has_no_spans(tmp_path: Path):
    assert spans.read(tmp_path) == {}


def test_the_rows_of_a_profile_add_up_to_its_wall_time():
    totals = {category: (float(2**number), 1) for number, category in enumerate(Category)}
    totals[Category.WAIT] = (1e4, 1)
    found = rows(2e4, totals)
    assert sum(found.values()) == 2e4
    assert min(found.values()) > 0
