"""Read results of the form that had model and wrapper as two parameters, with every combination of both.

A model and the wrapper that loads it are one parameter now, which lists the pairs that exist. Here results and descriptions
of the former grid are converted when asv reads them. When it next saves them, it stores them as they are now. asv has no
hook for this, so this module wraps the two functions that read them.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import wraps
from typing import Any

from asv.benchmarks import Benchmarks
from asv.results import Results

from tlbench.catalogue import load as load_catalogue
from tlbench.grid import Option, Wrapper
from tlbench.report.stored import is_nan

FORMER = (["model", "dtype", "option", "wrapper"], ["model", "dtype", "option", "wrapper", "shape", "device"])
NAMES = {4: ["model and wrapper", "dtype", "option"], 6: ["model and wrapper", "option", "dtype, shape and device"]}
AXES = {4: ((0, 3), (1,), (2,)), 6: ((0, 3), (2,), (1, 4, 5))}
"""Which of the former parameters each of today's holds, by their number. No benchmark has four or six today."""
QUOTE = "'"
ENDS = [f"'{option}'" for option in (Option.UNPROCESSED, Option.ALL_OPTIONS)]
"""The options that every benchmark has."""

Params = Sequence[Sequence[str]]
_init, _load = Benchmarks.__init__, Results.load.__func__


def load(cls: Any, /, *args: Any, **named: Any) -> Any:
    """Load results like asv's function does, and give them the parameters of today. No figure and no failure is lost."""
    results = _load(cls, *args, **named)
    former_params = {name: params for name, params in results._benchmark_params.items() if len(params or ()) in AXES}
    used: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for name, former in former_params.items():
        figures = zip(itertools.product(*former), results._results[name] or (), strict=False)
        used[_class(name)] |= {point for point, value in figures if not is_nan(value)}
    for name, former in former_params.items():
        points, params = list(itertools.product(*former)), today(former, used[_class(name)])
        for column, missing in ((results._results, math.nan), (results._stats, None), (results._samples, None)):
            if column[name] is not None:  # asv's None stands for a list of nothing else
                by_point = dict(zip(map(_values, points), column[name], strict=True))
                column[name] = [by_point.get(point, missing) for point in itertools.product(*params)]
        results._benchmark_params[name] = params
    return results


@wraps(_init)
def init(self: Any, conf: Any, benchmarks: Iterable[Mapping[str, Any]], *args: Any, **named: Any) -> None:
    """Take descriptions of benchmarks like asv's class does, and give them the parameters of today."""
    _init(self, conf, [*map(described, benchmarks)], *args, **named)


def described(benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """A benchmark with the parameters of today."""
    if benchmark["param_names"] not in FORMER:
        return dict(benchmark)
    former = benchmark["params"]
    return {**benchmark, "params": today(former), "param_names": NAMES[len(former)]}


def today(former: Params, with_figures: Iterable[Sequence[str]] = ()) -> list[list[str]]:
    """The parameters of today that hold all points with figures, the options that every benchmark has, and of each model all
    wrappers that can load it. Without such points they hold all points of those models and wrappers.
    """
    catalogue = load_catalogue()
    cannot_load = {f"'{name} {word}'" for name in catalogue.names() for word in Wrapper}
    cannot_load -= {f"'{loadable}'" for loadable in catalogue.loadable()}
    all_points, used = ([*map(_values, points)] for points in (itertools.product(*former), with_figures))
    return [
        [
            value
            for value in dict.fromkeys(point[i] for point in all_points)
            if value in kept or value in ENDS or (value not in cannot_load and (i == 0 or not kept))
        ]
        for i, kept in enumerate({point[i] for point in used} for i in range(len(all_points[0])))
    ]


def _class(name: str) -> str:
    return name.rpartition(".")[0]


def _values(point: Sequence[str]) -> tuple[str, ...]:
    """The parameters of today for a point of the former ones."""
    return tuple(f"'{' '.join(point[i].strip(QUOTE) for i in axis)}'" for axis in AXES[len(point)])


Benchmarks.__init__ = init
Results.load = classmethod(load)
