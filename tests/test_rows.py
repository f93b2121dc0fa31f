"""asv's tables have no rows without a figure, say how many they left out, and tell absent figures apart."""

import json
import re

import pytest

from asv_plugins import rows as plugin
from tests.stored import GPT2, GPT2_16, LLAMA, MAX, MEAN, Stored, described
from tlbench.grid import words_of
from tlbench.records.endings import SUFFIX

pytestmark = pytest.mark.slow

BRIDGE = (*GPT2[:3], "TransformerBridge")
NAN = float("nan")
MINE = "shared-x86-64-mine"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """v2 measured float16 anew, no longer measures Llama, and has another wrapper; all that it has of GPT-2 got better."""
    made = Stored.make(tmp_path_factory.mktemp("rows"))
    made.store("v1", {GPT2: 4e-6, GPT2_16: 0.5, LLAMA: 2e-6})
    made.store("v2", {GPT2: 1e-6, GPT2_16: None, BRIDGE: 3e-6})
    made.store("v3", {GPT2: 1e-6, GPT2_16: 0.5, BRIDGE: 3e-6})
    made.store("v1", {GPT2: 5e-6}, machine=MINE)
    made.store("v2", {GPT2: 5e-6}, machine=MINE)
    end = {"question": "accuracy", "kind": "n/a", "judged_by": "", "reason": "no such wrapper", "cells": [" ".join(BRIDGE)]}
    results = made.folder / "results" / "shared-x86-64" / f"{made.commits['v1'][:8]}-virtualenv-py3.11"
    results.with_suffix(".11" + SUFFIX).write_text(json.dumps(end) + "\n")
    return made


def rows(said):
    """The rows of a comparison: mark, before, after, ratio, by cell."""
    cells = {}
    for line in said.splitlines():
        if match := re.match(r"\|(.*)\|(.*)\|(.*)\|(.*)\| accuracy.Logit.track_mean\((.*)\)", line):
            *values, cell = (text.strip() for text in match.groups())
            cells[words_of(*cell.replace("'", "").split(", "))] = tuple(values)
    return cells


def test_a_comparison_has_no_row_without_a_figure_and_names_what_is_absent(stored):
    said = stored.asv("compare", "v1", "v2")
    assert "Comparing the results of shared-x86-64;" in said
    assert rows(said) == {
        GPT2: ("-", "4e-06", "1e-06", "0.25"),
        GPT2_16: ("!", "0.5", "failed", ""),
        LLAMA: ("", "2e-06", "not measured", ""),
        BRIDGE: ("", "n/a", "3e-06", ""),
    }
    assert "Left out: 4 rows without a figure in either commit" in said


def test_only_changed_shows_what_began_and_what_ceased_to_fail(stored):
    assert rows(stored.asv("compare", "--only-changed", "v1", "v2")).keys() == {GPT2, GPT2_16}
    said = stored.asv("compare", "--only-changed", "v2", "v3")
    assert rows(said) == {GPT2_16: ("*", "failed", "0.5", "")}
    assert "and 2 that did not change." in said


def test_a_comparison_without_a_change_says_so(stored):
    assert "(none)" in stored.asv("compare", "--only-changed", "--machine", MINE, "v1", "v2")


def test_a_stored_grid_has_no_row_without_a_figure(stored):
    said = stored.asv("show", "--machine", "shared-x86-64", "v2")
    assert "n/a" not in said.replace("duration: n/a", "")
    assert re.search(r"zoo-gpt2 HookedTransformer +float32 +unprocessed +1e-06", said)
    assert re.search(r"zoo-gpt2 HookedTransformer +float16 +unprocessed +failed", said)
    assert "5 of 8 cells have no figure (not applicable, or not measured)" in said


def test_a_grid_without_any_figure_is_one_line(stored):
    stored.store("v3", {}, name=MAX, machine=MINE)
    said = stored.asv("show", "--machine", MINE, "v3", "--bench", MAX)
    assert "8 of 8 cells have no figure" in said
    assert MEAN not in said
    assert "zoo" not in said


def test_a_run_s_grid_has_the_cells_that_it_ran_and_none_that_was_stored_before(monkeypatch):
    figures = [(figure, None) for figure in (1e-6, 2e-6, NAN, None, 5e-6, 6e-6, 7e-6, 8e-6)]
    monkeypatch.setattr(plugin, "_asked", {MEAN: {1, 2, 3}})
    lines = plugin.format_grid(figures, described(MEAN))
    assert [line.split()[-1] for line in lines if "zoo" in line] == ["2e-06", "failed"]
    assert lines[-1] == "1 of 3 cells have no figure (not applicable, or not measured)"
    monkeypatch.setattr(plugin, "_asked", {})
    assert len([line for line in plugin.format_grid(figures, described(MEAN)) if "zoo" in line]) == 7
