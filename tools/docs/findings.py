"""Print, as Markdown, the tables, ratios and counts of findings.md, from the committed results.

    .venv/bin/python -m tools.docs.findings

in the repository's root, once `tlbench history` has made the git history that gives the results their tags.

A failed cell has no figure. An option that changed no weight of a model is a no-op: its cell repeats `unprocessed`, and is
not counted in part 1. The scan of part 2 keeps such cells: a step that changes no weight can still go wrong (Mixtral's).
"""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from asv.results import iter_results_for_machine
from tabulate import tabulate

from tlbench.arithmetic import SHARED_MACHINE
from tlbench.exceptions import TlbenchError
from tlbench.grid import Cell, Dtype, Option, Space, Statistic, Wrapper, words_of
from tlbench.report.stored import Row, State, StoredResults
from tlbench.site import findings

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "releases" / "asv.conf.json"
INSIDE_MACHINE = "xeon-2-cores"
"""Whose results of hooks, depth, gradients and length are read; errors are those of the shared arithmetic."""
RELEASE = "v2.18.0"
DTYPES = (Dtype.FLOAT32, Dtype.FLOAT16)
SPACES = (Space.ORIGIN, Space.LOGIT)
STATISTICS = (Statistic.MAX, Statistic.MEAN)
COLUMNS = tuple(f"{dtype} {statistic}" for dtype, statistic in product(DTYPES, STATISTICS))
SHOWN = ("zoo-gpt2", "zoo-mistral", "smollm2-135m")
WRONG = 30.0
NEAR = 5.0
PROMISES = {
    "additivity": "hooks.Hooks.track_additivity",
    "disturbance": "hooks.Hooks.track_hook_disturbance",
    "final logits": "hooks.Hooks.track_final_logits",
    "leftover": "hooks.Hooks.track_leftover_hooks",
    "`stop_at_layer`": "hooks.Hooks.track_stop_at_layer",
    "`start_at_layer`": "hooks.Hooks.track_start_at_layer",
}
"""What is 0 where a hook or a cache tells the truth."""
LIMITS = {
    "hooks.Generation.track_wrong_tokens": 0.0,
    "hooks.Generation.track_cache_error": 1.0,
    "context_length.ContextLength.track_left_padding": 1.0,
    "context_length.ContextLength.track_largest_ratio": 3.0,
    "depth.Depth.track_local_ratio_max": 3.0,
    "gradients.Gradients.track_error_ratio": 10.0,
    "hooks.Hooks.track_edit_ratio": 10.0,
}
"""Above which a figure inside the network is listed, in the track's unit."""


class Part1:
    """HookedTransformer's figures at v2.18.0.

    Args:
        stored: the committed results.
    """

    def __init__(self, stored: StoredResults) -> None:
        commit = stored.commit(RELEASE)
        self._rows = {space: {row.cell: row for row in stored.rows(commit, space)} for space in SPACES}
        measured = Counter(
            cell.model
            for cell, row in self._rows[Space.LOGIT].items()
            if row.state is State.MEASURED and cell.option is Option.UNPROCESSED and cell.dtype in DTYPES
        )
        self.models = [model for model, dtypes in measured.items() if dtypes == len(DTYPES)]

    def row(self, space: Space, model: str, dtype: Dtype, option: Option) -> Row:
        """One cell, whether it has a figure or not."""
        return self._rows[space][Cell(model, dtype, option, Wrapper.HOOKED_TRANSFORMER)]

    def figure(self, space: Space, statistic: Statistic, model: str, dtype: Dtype, option: Option) -> float | None:
        """A cell's figure; None if it is a no-op or failed."""
        row = self.row(space, model, dtype, option)
        return row.values[statistic] if row.state is State.MEASURED and not row.no_op else None

    def to_unprocessed(self, space: Space, statistic: Statistic, model: str, dtype: Dtype, option: Option) -> float | None:
        """A cell's figure over the unprocessed cell's; None if it has none."""
        figure = self.figure(space, statistic, model, dtype, option)
        return _over(figure, self.figure(space, statistic, model, dtype, Option.UNPROCESSED))


@dataclass(frozen=True)
class Outlier:
    """A cell whose maximum is many times the others'.

    Attributes:
        tag: the release.
        row: the cell and its figures.
        ratio: its maximum over the median of the other models'.
    """

    tag: str
    row: Row
    ratio: float


def counted(figures: Part1) -> str:
    """Which models part 1 counts, and issue 496's first row for zoo-gpt2."""
    values = figures.row(Space.ORIGIN, "zoo-gpt2", Dtype.FLOAT16, Option.UNPROCESSED).values
    row = " ".join(f"{statistic} {value:.3g}" for statistic, value in values.items())
    return f"{len(figures.models)} models: {', '.join(sorted(figures.models))}.\n\nzoo-gpt2 float16 unprocessed: {row}"


def claim_a(figures: Part1) -> str:
    """float16 over float32 in `origin`: three models' figures, and the ratios of every model and option."""
    lines = []
    ratios: dict[Statistic, list[float]] = {statistic: [] for statistic in STATISTICS}
    for model, option in product(figures.models, Option):
        found = [
            figures.figure(Space.ORIGIN, statistic, model, dtype, option) for dtype, statistic in product(DTYPES, STATISTICS)
        ]
        values = [value for value in found if value is not None]
        if len(values) < len(found):
            continue
        over = [values[2] / values[0], values[3] / values[1]]
        for statistic, ratio in zip(STATISTICS, over, strict=True):
            ratios[statistic].append(ratio)
        if model in SHOWN:
            lines.append([model, option, *(f"{value:.2e}" for value in values), *(f"{ratio:.0f}" for ratio in over)])
    table = _table(["model", "option", *COLUMNS, "ratio of max", "ratio of mean"], lines)
    every = "; ".join(f"{statistic} {_spread(of_it, '.0f')}" for statistic, of_it in ratios.items())
    return f"{table}\n\nRatios of all {len(ratios[Statistic.MAX])} pairs of model and option: {every}"


def claim_b(figures: Part1) -> str:
    """zoo-mistral over zoo-gpt2."""
    lines = []
    for space, option in product(SPACES, Option):
        ratios = [
            _over(*(figures.figure(space, statistic, model, dtype, option) for model in ("zoo-mistral", "zoo-gpt2")))
            for dtype, statistic in product(DTYPES, STATISTICS)
        ]
        lines.append([space, option, *("no-op" if ratio is None else f"{ratio:.2f}" for ratio in ratios)])
    return _table(["space", "option", *COLUMNS], lines)


def claims_cde(figures: Part1, option: Option) -> str:
    """One option over `unprocessed`: for how many models the error is lower, equal, higher; and where it is a no-op."""
    lines = []
    for space, dtype, statistic in product(SPACES, DTYPES, STATISTICS):
        found = {model: figures.to_unprocessed(space, statistic, model, dtype, option) for model in figures.models}
        by_model = {model: ratio for model, ratio in found.items() if ratio is not None}
        ratios = list(by_model.values())
        sides = [sum(r < 1 for r in ratios), sum(r == 1 for r in ratios), sum(r > 1 for r in ratios)]
        highest = max(by_model, key=lambda model: by_model[model])
        lines.append([space, dtype, statistic, *sides, f"{median(ratios):.2f}", _range(ratios, ".2f"), highest])
    no_ops = [m for m in figures.models if all(figures.row(Space.LOGIT, m, dtype, option).no_op for dtype in DTYPES)]
    same = all(
        figures.row(space, model, dtype, option).values == figures.row(space, model, dtype, Option.UNPROCESSED).values
        for space, dtype, model in product(SPACES, DTYPES, no_ops)
    )
    down = {
        space: [
            model
            for model in figures.models
            if (figures.to_unprocessed(space, Statistic.MEAN, model, Dtype.FLOAT16, option) or 1) < 1
        ]
        for space in SPACES
    }
    lower = "; ".join(f"{space}: {', '.join(sorted(models)) or 'none'}" for space, models in down.items())
    table = _table(["space", "dtype", "statistic", "lower", "equal", "higher", "median ratio", "range", "highest"], lines)
    no_op = f"No-ops ({len(no_ops)}): {', '.join(sorted(no_ops)) or 'none'}; every figure that of `unprocessed`: {same}"
    return f"{table}\n\n{no_op}\n\nLower mean in float16: {lower}"


def claim_f(figures: Part1) -> str:
    """In float32, for how many models each option has the smallest error, alone + shared, and how far apart options are."""
    lines, all_options = [], []
    for space, statistic in product(SPACES, STATISTICS):
        alone: Counter[Option] = Counter()
        shared: Counter[Option] = Counter()
        spreads = []
        for model in figures.models:
            found = {option: figures.figure(space, statistic, model, Dtype.FLOAT32, option) for option in Option}
            values = {option: value for option, value in found.items() if value is not None}
            best = [option for option, value in values.items() if value == min(values.values())]
            (alone if len(best) == 1 else shared).update(best)
            spreads.append(max(values.values()) / min(values.values()))
            if Option.ALL_OPTIONS in best:
                all_options.append(f"{space} {statistic} {model} ({', '.join(best)})")
        counts = [f"{alone[option]} + {shared[option]}" if shared[option] else str(alone[option]) for option in Option]
        lines.append([space, statistic, *counts, sum(spread <= 2 for spread in spreads), _spread(spreads, ".2f")])
    table = _table(["space", "statistic", *Option, "within a factor of 2", "largest over smallest"], lines)
    return f"{table}\n\nall_options has the smallest: {'; '.join(all_options)}"


def faults() -> str:
    """The table of part 2: every file of ``docs/findings/``, as the site orders them."""
    lines = [
        f"| {found.state} | [{found.title}](findings/{found.slug}.md) | {', '.join(found.wrappers)} | {found.versions} |"
        for found in findings.read(ROOT / "docs" / "findings")
    ]
    return "\n".join(("| | what | wrapper | versions |", "|:--|:--|:--|:--|", *lines))


def part_2(stored: StoredResults) -> str:
    """The cells that stand out in logits, and what the wrong activation costs Gemma."""
    found = {dtype: list(_outliers(stored, dtype)) for dtype in Dtype}
    texts = [f"Exact zeros, left out of the medians: {_zeros(stored)}"]
    for dtype, outliers in found.items():
        wrong = [outlier for outlier in outliers if outlier.ratio > WRONG]
        near = [outlier for outlier in outliers if NEAR < outlier.ratio <= WRONG]
        texts.append(f"**{dtype}, over {WRONG:g} times the others' median**\n\n{_outlier_table(wrong)}")
        texts.append(f"**{dtype}, {NEAR:g} to {WRONG:g} times**\n\n{_outlier_table(near)}")
    return "\n\n".join([*texts, _gemma(stored), _unlike_no_ops(stored)])


def part_3(stored: StoredResults) -> str:
    """Which cells failed: releases that failed alike share a line."""
    failed: dict[tuple[Wrapper, str, str], list[Cell]] = defaultdict(list)
    for commit in stored.commits:
        for row in stored.rows(commit, Space.LOGIT):
            if row.state is State.FAILED:
                failed[row.cell.wrapper, row.cell.model, commit.tag].append(row.cell)
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for (wrapper, model, tag), cells in failed.items():
        dtypes, options = _join((cell.dtype for cell in cells), Dtype), _join((cell.option for cell in cells), Option)
        alike[wrapper, model, dtypes, options, str(len(cells))].append(tag)
    lines = [[wrapper, model, ", ".join(tags), *rest] for (wrapper, model, *rest), tags in alike.items()]
    return _table(["wrapper", "model", "releases", "dtypes", "options", "cells a release"], lines)


def inside_the_network(stored: StoredResults) -> str:
    """At each release how many cells break a promise, and which; and every figure above its limit."""
    tags = {commit.hash: commit.tag for commit in stored.commits}
    results = sorted(
        iter_results_for_machine(str(CONFIG.parent / "results"), INSIDE_MACHINE), key=lambda result: result.date
    )
    lines = []
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for result in results:
        if PROMISES["additivity"] not in result.get_all_result_keys():
            continue
        tag = tags[result.commit_hash]
        promises = {name: _track(result, name) for name in PROMISES.values()}
        lines.append([tag, *(f"{sum(v != 0 for v in cells.values())} of {len(cells)}" for cells in promises.values())])
        limits = dict.fromkeys(PROMISES.values(), 0.0) | LIMITS
        for name, limit in limits.items():
            above: dict[tuple[str, str], dict[Cell, float]] = defaultdict(dict)
            for cell, value in _track(result, name).items():
                if value > limit:
                    above[cell.model, cell.wrapper][cell] = value
            for (model, wrapper), cells in above.items():
                dtypes, options = (_in_order(getattr(c, of) for c in cells) for of in ("dtype", "option"))
                key = (name.split(".track_")[1], model, wrapper, dtypes, options, _range(cells.values(), ".3g"))
                found[key].append(tag)
    rows = [[name, model, wrapper, ", ".join(of), *rest] for (name, model, wrapper, *rest), of in sorted(found.items())]
    table = _table(["release", *PROMISES], lines)
    outliers = _table(["track", "model", "wrapper", "releases", "dtypes", "options", "figures"], rows)
    limits_text = ", ".join(f"{name.split('.track_')[1]} {limit:g}" for name, limit in LIMITS.items())
    return f"Not 0, of the cells measured:\n\n{table}\n\nEach of them, and figures above {limits_text}:\n\n{outliers}"


def _track(result: Any, name: str) -> dict[Cell, float]:
    """The cells of one track at one release that have a figure."""
    params = result.get_result_params(name)
    cells = (Cell(*words_of(*(value.strip("'\"") for value in point))) for point in product(*params))
    found = zip(cells, result.get_result_value(name, params), strict=True)
    return {cell: float(value) for cell, value in found if value is not None and not math.isnan(value)}


def _in_order(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _outliers(stored: StoredResults, dtype: Dtype) -> Iterator[Outlier]:
    """Cells far above the median of the other models at the same release, wrapper and option, without exact zeros."""
    for commit in stored.commits:
        groups: dict[tuple[Wrapper, Option], list[Row]] = defaultdict(list)
        for row in stored.rows(commit, Space.LOGIT):
            if row.state is State.MEASURED and row.cell.dtype is dtype and row.values[Statistic.MAX] > 0:
                groups[row.cell.wrapper, row.cell.option].append(row)
        for rows in groups.values():
            for row in rows:
                others = [other.values[Statistic.MAX] for other in rows if other is not row]
                if others and row.values[Statistic.MAX] > NEAR * median(others):
                    yield Outlier(commit.tag, row, row.values[Statistic.MAX] / median(others))


def _zeros(stored: StoredResults) -> str:
    rows = [row for commit in stored.commits for row in stored.rows(commit, Space.LOGIT) if row.state is State.MEASURED]
    zeros = Counter(f"{r.cell.wrapper} {r.cell.dtype}" for r in rows if r.values[Statistic.MAX] == 0)
    return ", ".join(f"{name} {count}" for name, count in sorted(zeros.items()))


def _outlier_table(outliers: Sequence[Outlier]) -> str:
    groups: dict[tuple[str, ...], list[Outlier]] = defaultdict(list)
    for outlier in outliers:
        groups[outlier.row.cell.model, outlier.row.cell.wrapper, outlier.tag].append(outlier)
    lines = []
    for key, group in groups.items():
        values = [_range((o.row.values[statistic] for o in group), ".3g") for statistic in STATISTICS]
        lines.append(
            [*key, _join((o.row.cell.option for o in group), Option), *values, _range((o.ratio for o in group), ".3g")]
        )
    return _table(["model", "wrapper", "release", "options", "max", "mean", "times the median"], lines) if lines else "none"


def _gemma(stored: StoredResults) -> str:
    new, old = (
        {
            row.cell: row
            for row in stored.rows(stored.commit(tag), Space.LOGIT)
            if row.cell.wrapper is Wrapper.HOOKED_TRANSFORMER
        }
        for tag in ("v3.0.0", RELEASE)
    )
    cells = [Cell("zoo-gemma", Dtype.FLOAT32, option, Wrapper.HOOKED_TRANSFORMER) for option in Option]
    ratios = {s: [new[c].values[s] / old[c].values[s] for c in cells if not new[c].no_op] for s in STATISTICS}
    return f"zoo-gemma in float32, v3.0.0 over {RELEASE}: " + ", ".join(
        f"{s} {_range(found, '.0f')}" for s, found in ratios.items()
    )


def _unlike_no_ops(stored: StoredResults) -> str:
    """No-ops whose figures are not those of `unprocessed`."""
    found: dict[str, list[str]] = defaultdict(list)
    for commit in stored.commits:
        rows = {row.cell: row for row in stored.rows(commit, Space.LOGIT) if row.state is State.MEASURED}
        for cell, row in rows.items():
            plain = rows.get(replace(cell, option=Option.UNPROCESSED))
            if row.no_op and plain and row.values != plain.values:
                found[f"{cell.model} {cell.option} {cell.wrapper}"].append(commit.tag)
    lines = [[name, _join(tags, ()), len(tags)] for name, tags in found.items()]
    return "No-ops whose figures are not those of `unprocessed`:\n\n" + _table(["cell", "releases", "cells"], lines)


def _over(above: float | None, below: float | None) -> float | None:
    return None if above is None or below is None else above / below


def _range(values: Iterable[float], style: str) -> str:
    low_to_high = sorted(values)
    return " to ".join(dict.fromkeys((format(low_to_high[0], style), format(low_to_high[-1], style))))


def _spread(values: Sequence[float], style: str) -> str:
    return f"{_range(values, style)}, median {format(median(values), style)}"


def _join(words: Iterable[str], every: Iterable[str]) -> str:
    found = dict.fromkeys(words)
    return "all" if set(found) == set(every) else ", ".join(found)


def _table(header: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    return str(tabulate(lines, headers=header, tablefmt="pipe", disable_numparse=True))


def main() -> None:
    """Print every part."""
    stored = StoredResults(CONFIG, SHARED_MACHINE)
    figures = Part1(stored)
    sections = {
        "1. Counted": counted(figures),
        "(a) float32 against float16": claim_a(figures),
        "(b) zoo-mistral over zoo-gpt2": claim_b(figures),
        "(c) fold_ln over unprocessed": claims_cde(figures, Option.FOLD_LN),
        "(d) center_unembed over unprocessed": claims_cde(figures, Option.CENTER_UNEMBED),
        "(e) center_writing_weights over unprocessed": claims_cde(figures, Option.CENTER_WRITING_WEIGHTS),
        "(f) smallest error in float32": claim_f(figures),
        "2. Faults": faults(),
        "2. Cells that are wrong": part_2(stored),
        "3. Cells that fail": part_3(stored),
        "Inside the network": inside_the_network(stored),
    }
    print("\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items()))


if __name__ == "__main__":
    try:
        main()
    except TlbenchError as error:
        sys.exit(f"findings: {error}")
