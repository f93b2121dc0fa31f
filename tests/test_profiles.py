"""Profiles lie beside a results file: what a run leaves is kept, and what other cells have stays."""

import json
from dataclasses import replace

import pytest

from tests.test_answers import CELL
from tlbench.components import Component, site
from tlbench.exceptions import BadInput
from tlbench.questions.answers import _write, file_name
from tlbench.questions.registry import CONTEXT_LENGTH, DEPTH
from tlbench.records import profiles
from tlbench.records.depth_profile import DepthProfile, SiteError
from tlbench.records.inside import ContextLength
from tlbench.records.outcome import Kind, Outcome
from tlbench.records.profiles import Profile

BLOCKS = DepthProfile(
    CELL,
    2,
    {
        site(0, Component.RESID_POST): SiteError(1.0, 0.5, 2.0, 0.25),
        site(0, Component.PATTERN): SiteError(0.0, 0.75, 0.0, 0.125),
        site(1, Component.PATTERN): SiteError(0.0, 4.0, 0.0, 8.0),
    },
    (),
    (),
    (),
)
LENGTHS = ContextLength(CELL, {64: 3.0, 1: 1.0, 8: 2.0}, {1: 1.5, 8: 2.5}, {}, {}, {}, "", None, {})


@pytest.fixture
def left(tmp_path):
    """Have a run leave the outcome of a question, and keep what runs have left; what is kept then."""

    def leave(question, outcome, cell=CELL):
        _write(question, cell, outcome, tmp_path / "run", tmp_path / "log")
        profiles.keep(tmp_path / "log", tmp_path / "abc-env.json")
        return profiles.read(tmp_path / "abc-env.json")

    return leave


def test_a_block_of_two_stacks_is_counted_in_its_own():
    two = replace(BLOCKS, n_blocks=5, n_encoder_blocks=2)
    assert [two.name_of(i) for i in range(5)] == ["encoder 0", "encoder 1", "decoder 0", "decoder 1", "decoder 2"]
    assert replace(two, n_encoder_blocks=0).name_of(3) == "3"


def test_a_block_has_the_error_after_it_and_the_largest_of_its_own_components(left):
    kept = left(DEPTH, Outcome(Kind.MEASURED, BLOCKS))
    assert kept == {("depth", str(CELL)): Profile((0, 1), (1.0, None), (2.0, None), (0.75, 4.0), (0.125, 8.0))}


def test_lengths_are_in_order_and_what_huggingface_did_not_run_is_missing(left):
    kept = left(CONTEXT_LENGTH, Outcome(Kind.MEASURED, LENGTHS))
    assert kept == {("context-length", str(CELL)): Profile((1, 8, 64), (1.0, 2.0, 3.0), (1.5, 2.5, None))}


def test_a_cell_that_fails_now_loses_its_profile_and_the_others_stay(left):
    left(CONTEXT_LENGTH, Outcome(Kind.MEASURED, LENGTHS))
    left(DEPTH, Outcome(Kind.MEASURED, BLOCKS))
    assert list(left(DEPTH, Outcome(Kind.FAILED, reason="it broke"))) == [("context-length", str(CELL))]


def test_an_outcome_left_before_its_record_got_a_field_keeps_its_profile_and_stops_no_run(left, tmp_path):
    earlier = left(DEPTH, Outcome(Kind.MEASURED, BLOCKS))
    path = tmp_path / "log" / file_name(DEPTH, CELL)
    data = json.loads(path.read_text())
    del data["record"]["n_blocks"]
    path.write_text(json.dumps(data))
    both = left(CONTEXT_LENGTH, Outcome(Kind.MEASURED, LENGTHS))
    assert both.items() > earlier.items()


def test_a_run_of_other_questions_writes_no_file(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "environment.json").write_text("{}")
    profiles.keep(tmp_path / "log", tmp_path / "abc-env.json")
    assert not profiles.beside(tmp_path / "abc-env.json").exists()


@pytest.mark.parametrize("line", ["{", json.dumps({"question": "depth"}), json.dumps([1])])
def test_a_damaged_file_is_a_sentence(tmp_path, line):
    profiles.beside(tmp_path / "abc-env.json").write_text(line)
    with pytest.raises(BadInput, match=r"is damaged.*restore it"):
        profiles.read(tmp_path / "abc-env.json")
