"""Let results outlive a change of parameters, such as a model that another ``TLBENCH_CATALOGUE`` adds or lacks.

asv describes benchmarks by those of the last run alone, in ``benchmarks.json`` and in each file of results. So a run with a
smaller catalogue would make other models' figures unreadable and drop those of its commits, and a model that is added would
count as failed at every earlier commit. It has no hook for this, so this module wraps the three functions concerned.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from asv import util
from asv.benchmarks import Benchmarks
from asv.results import Results

Params = Sequence[Sequence[str]]
_save, _add_result, _get_result_value = Benchmarks.save, Results.add_result, Results.get_result_value


def merged(stored: Params, current: Params) -> list[list[str]]:
    """The values of each parameter: the stored ones in their order, then new ones. With other parameters, the current."""
    if len(stored) != len(current):
        return [list(values) for values in current]
    return [[*old, *(value for value in new if value not in old)] for old, new in zip(stored, current, strict=True)]


def merged_benchmark(stored: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """A benchmark as it is now, with the parameters' values that are stored too."""
    if stored.get("param_names") != current.get("param_names"):
        return dict(current)
    return {**current, "params": merged(stored["params"], current["params"])}


@wraps(_save)
def save(self: Any) -> None:
    """Write ``benchmarks.json`` without losing a value of a parameter."""
    path = Path(self.get_benchmark_file_path(self._conf.results_dir))
    stored = util.load_json(str(path), api_version=self.api_version) if path.is_file() else {}
    own = self._all_benchmarks
    self._all_benchmarks = {name: merged_benchmark(stored.get(name, {}), benchmark) for name, benchmark in own.items()}
    try:
        _save(self)
    finally:
        self._all_benchmarks = own  # a run counts the parameters of its own catalogue


@wraps(_add_result)
def add_result(
    self: Any, benchmark: Mapping[str, Any], *args: Any, selected_idx: Iterable[int] | None = None, **kwargs: Any
) -> None:
    """Add a result without losing the figures of values that its benchmark does not have.

    asv looks up every cell among the selected ones, which it has in a list.
    """
    selected = None if selected_idx is None else set(selected_idx)
    name, columns = benchmark["name"], (self._results, self._stats, self._samples)
    is_same = self._benchmark_version.get(name) == benchmark["version"]
    before = self._benchmark_params.get(name) if is_same else None
    earlier = [_by_point(column[name], before) for column in columns] if before else []
    _add_result(self, benchmark, *args, selected_idx=selected, **kwargs)
    now = self._benchmark_params[name]
    if not before or len(before) != len(now) or (params := merged(before, now)) == now:
        return
    self._benchmark_params[name] = params
    for column, old, missing in zip(columns, earlier, (math.nan, None, None), strict=True):
        every = {**old, **_by_point(column[name], now)}
        column[name] = [every.get(point, missing) for point in itertools.product(*params)]


@wraps(_get_result_value)
def get_result_value(self: Any, key: str, params: Params) -> list[Any]:
    """The values for some parameters: NaN for what this result knows nothing of. asv's None would be a failure."""
    known = set(itertools.product(*(self._benchmark_params[key] or [])))
    values = _get_result_value(self, key, params)
    return [value if point in known else math.nan for point, value in zip(itertools.product(*params), values, strict=True)]


def _by_point(values: Sequence[Any] | None, params: Params) -> dict[tuple[str, ...], Any]:
    """Values by combination of parameters. asv stores None for a list of nothing else."""
    points = list(itertools.product(*params))
    return dict(zip(points, values or [None] * len(points), strict=False))


Benchmarks.save = save
Results.add_result = add_result
Results.get_result_value = get_result_value
