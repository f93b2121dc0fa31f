"""The search finds every planted step in any graph of commits, names nothing else, and measures little."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbench.steps.search import Effort, Graph, Search, Unmeasurable

CELLS = frozenset({"a", "b", "c"})


def linear(n):
    return Graph({str(i): (str(i - 1),) if i else () for i in range(n)})


def searched(graph, planted, good, bad, skipped=(), cells=CELLS):
    """A search of a graph in which each planted commit moves cells, in itself and in all commits after it."""

    def measure(commit, wanted):
        if commit in skipped:
            return None
        return {
            cell: str(sorted(s for s, moved in planted.items() if cell in moved and graph.has(s, commit))) for cell in wanted
        }

    return Search(graph, measure, good, bad, cells)


def named(steps):
    return {(step.commits, cell) for step in steps for cell in step.cells}


def truth(graph, planted, good, bad):
    inside = graph.between(good, bad)
    return {((commit,), cell) for commit, cells in planted.items() if commit in inside for cell in cells}


@st.composite
def histories(draw):
    """A graph with branches and merges, planted steps, and a range. A merge that makes a step has a cell of its own."""
    n = draw(st.integers(2, 24))
    parents = {"0": ()}
    for i in range(1, n):
        near = st.integers(max(0, i - 5), i - 1)
        first, second = draw(near), draw(st.one_of(st.none(), near))
        parents[str(i)] = (str(first),) if second in (None, first) else (str(first), str(second))
    graph = Graph(parents)
    bad = str(n - 1)
    good = draw(st.sampled_from([c for c in parents if graph.has(c, bad)]))
    planted = {}
    for commit in draw(st.sets(st.sampled_from(sorted(parents)), max_size=6)):
        is_merge = len(parents[commit]) > 1
        planted[commit] = {f"merge {commit}"} if is_merge else draw(st.sets(st.sampled_from(sorted(CELLS)), min_size=1))
    return graph, planted, good, bad


def cells_of(planted):
    return CELLS.union(*planted.values())


@settings(max_examples=150, deadline=None)
@given(histories())
def test_in_any_graph_exactly_the_planted_commits_are_named(history):
    graph, planted, good, bad = history
    search = searched(graph, planted, good, bad, cells=cells_of(planted))
    assert named(search.steps()) == truth(graph, planted, good, bad)


@pytest.mark.slow
@pytest.mark.parametrize("effort", [Effort.THOROUGH, Effort.EXHAUSTIVE])
@settings(max_examples=100, deadline=None)
@given(history=histories())
def test_measuring_more_names_the_same(effort, history):
    graph, planted, good, bad = history
    search = searched(graph, planted, good, bad, cells=cells_of(planted))
    assert named(search.steps(effort)) == truth(graph, planted, good, bad)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(histories(), st.data())
def test_with_skipped_commits_each_planted_one_is_in_a_named_set_and_no_healthy_one_is_named_alone(history, data):
    graph, planted, good, bad = history
    others = sorted(set(graph.parents) - {good, bad})
    skipped = data.draw(st.sets(st.sampled_from(others))) if others else set()
    search = searched(graph, planted, good, bad, skipped, cells_of(planted))
    found = named(search.steps())
    expected = truth(graph, planted, good, bad)
    assert all(any(commit in commits and cell == moved for commits, moved in found) for (commit,), cell in expected)
    alone = {(commits, cell) for commits, cell in found if len(commits) == 1}
    assert alone <= expected
    assert not {commit for commits, _ in alone for commit in commits} & skipped


@pytest.mark.parametrize("effort", Effort)
@settings(max_examples=50, deadline=None)
@given(st.integers(3, 40), st.data())
def test_on_a_line_a_set_has_only_the_skipped_commits_and_the_first_after_them(effort, n, data):
    skipped = data.draw(st.sets(st.sampled_from([str(i) for i in range(1, n - 1)])))
    culprit = data.draw(st.integers(1, n - 1))
    search = searched(linear(n), {str(culprit): {"a"}}, "0", str(n - 1), skipped)
    (step,) = search.steps(effort)
    first = max(i for i in range(culprit) if str(i) not in skipped) + 1
    last = min(i for i in range(culprit, n) if str(i) not in skipped)
    assert step.commits == tuple(str(i) for i in range(first, last + 1))
    assert (step.before, step.after) == (str(first - 1), str(last))


def test_the_first_commit_of_the_range_is_named_and_the_start_is_not():
    assert named(searched(linear(50), {"1": {"a"}, "0": {"b"}}, "0", "49").steps()) == {(("1",), "a")}


def test_where_nothing_moves_only_the_two_ends_are_measured():
    search = searched(linear(1000), {}, "0", "999")
    assert search.steps() == []
    assert search.probes == 2


@pytest.mark.parametrize("n", [64, 220, 880])
@pytest.mark.parametrize("steps", [1, 5, 30])
def test_probes_are_at_most_1_2_times_steps_times_the_logarithm_of_the_range(n, steps):
    for seed in range(20):
        culprits = random.Random(seed).sample(range(1, n), steps)
        planted = {str(i): {random.Random(i).choice("abc")} for i in culprits}
        search = searched(linear(n), planted, "0", str(n - 1))
        assert len(search.steps()) == steps
        assert search.probes - 2 <= 1.2 * steps * math.log2(n)


def test_what_heals_is_seen_by_measuring_every_commit_alone():
    graph = linear(9)
    wrong = {"3", "4"}
    measure = lambda commit, cells: {cell: str(commit in wrong) for cell in cells}  # noqa: E731
    found = Search(graph, measure, "0", "8", CELLS).steps(Effort.EXHAUSTIVE)
    assert [step.commits for step in found] == [("3",), ("5",)]


def test_a_thorough_search_sees_what_healed_if_it_was_there_at_the_step_of_another_cell():
    graph = linear(40)
    wrong = {"a": range(7, 22), "b": range(12, 40), "c": range(3, 5)}
    measured = []

    def measure(commit, cells):
        measured.append(commit)
        return {cell: str(int(commit) in wrong[cell]) for cell in cells}

    def found(effort):
        search = Search(graph, measure, "0", "39", CELLS)
        return [(*step.commits, *step.cells) for step in search.steps(effort)]

    assert found(Effort.SEARCH) == [("12", "b")]
    assert found(Effort.THOROUGH) == [("7", "a"), ("12", "b"), ("22", "a")]
    assert len({*measured}) < 25
    assert ("3", "c") in found(Effort.EXHAUSTIVE)


def test_commits_with_equal_content_are_measured_once():
    measured = []

    def measure(commit, cells):
        measured.append(commit)
        return {cell: str(int(commit) >= 40) for cell in cells}

    content = lambda commit: "new" if int(commit) >= 40 else "old"  # noqa: E731
    search = Search(Graph(linear(64).parents, content), measure, "0", "63", CELLS)
    assert [step.commits for step in search.steps()] == [("40",)]
    assert measured == ["0", "63"]


def test_a_step_on_a_merged_branch_is_named_by_its_commit():
    parents = {"0": (), "m1": ("0",), "b1": ("0",), "b2": ("b1",), "b3": ("b2",), "m2": ("m1", "b3"), "m3": ("m2",)}
    search = searched(Graph(parents), {"b2": {"a"}, "m1": {"a", "b"}}, "0", "m3")
    assert named(search.steps()) == {(("b2",), "a"), (("m1",), "a"), (("m1",), "b")}


def test_a_range_inside_a_branch_follows_the_path_that_leads_there():
    parents = {"0": (), "m1": ("0",), "b1": ("0",), "b2": ("b1",), "m2": ("m1", "b2")}
    search = searched(Graph(parents), {"b2": {"a"}, "m1": {"b"}}, "b1", "m2")
    assert named(search.steps()) == {(("b2",), "a"), (("m1",), "b")}


def test_a_long_stretch_that_cannot_be_measured_does_not_send_the_search_to_the_wrong_side():
    skipped = {str(i) for i in range(90, 132)}
    search = searched(linear(220), {"60": {"a"}, "180": {"b"}, "100": {"c"}}, "0", "219", skipped)
    assert named(search.steps()) == {(("60",), "a"), (("180",), "b"), (tuple(str(i) for i in range(90, 133)), "c")}


@pytest.mark.parametrize("end", ["0", "9"])
def test_an_end_that_cannot_be_measured_is_named(end):
    with pytest.raises(Unmeasurable, match=end):
        searched(linear(10), {}, "0", "9", {end}).steps()


def test_a_merge_of_a_branch_that_is_older_than_the_range_and_cannot_be_measured_is_in_the_set():
    parents = {"0": (), "1": ("0",), "2": ("0", "1"), "3": ("1",), "4": ("3", "2")}
    search = searched(Graph(parents), {"2": {"merge 2"}}, "3", "4", {"1"}, frozenset({"merge 2"}))
    assert [step.commits for step in search.steps()] == [("1", "2")]
    search = searched(Graph(parents), {"1": {"merge 2"}}, "3", "4", {"1"}, frozenset({"merge 2"}))
    assert search.steps() == []
