"""Take in another machine's results files of asv."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tlbench.arithmetic import SHARED_PROBES, is_shared
from tlbench.environments import metadata
from tlbench.exceptions import BadInput
from tlbench.files import written_whole
from tlbench.records import endings, profiles
from tlbench.report.stored import is_nan
from tlbench.sweep.merging import Merged

MACHINE_FILE = "machine.json"
LIBRARIES = ("torch", "transformers")
"""What a commit must have been measured with on both machines, or its figures are not the same cells."""
Point = tuple[str, ...]


def is_results(folder: Path) -> bool:
    """Whether a folder holds asv's results of some machines."""
    return any(folder.glob(f"*/{MACHINE_FILE}"))


def merge_results(other: Path, ours: Path) -> Merged:
    """Take in another folder of results, commit by commit. Nothing that is here is overwritten.

    A file is refused if it is damaged, if nothing beside it says what it was measured in, or if that is not what this
    machine's name stands for. A figure is refused if another is stored here.
    """
    merged = Merged()
    for description in sorted(other.glob(f"*/{MACHINE_FILE}")):
        machine = description.parent.name
        target = ours / machine / MACHINE_FILE
        if target.exists() and target.read_bytes() != description.read_bytes():
            merged.refused.append(f"{description.parent}: here {machine} is another machine: rename one of the two")
            continue
        for path in sorted(description.parent.glob("*.json")):
            if path != description:
                try:
                    merged.refused += _merge_file(path, ours / machine / path.name, machine, merged)
                except (BadInput, ValueError, KeyError, TypeError) as error:
                    merged.refused.append(f"{path} is damaged ({error})")
        if not target.exists() and target.parent.is_dir():
            shutil.copyfile(description, target)
    return merged


def _merge_file(theirs: Path, ours: Path, machine: str, merged: Merged) -> Iterator[str]:
    from asv.results import Results
    from asv.util import UserError

    runs = metadata.read(beside) if (beside := theirs.with_suffix(metadata.SUFFIX)).is_file() else []
    own = metadata.read(beside) if (beside := ours.with_suffix(metadata.SUFFIX)).is_file() else []
    if reason := _objection(runs, own, machine):
        yield f"{theirs}: {reason}"
        return
    try:
        found = Results.load(str(theirs), machine_name=machine)
        result = Results.load(str(ours), machine_name=machine) if ours.exists() else found
    except UserError as error:
        yield f"{theirs} is damaged ({str(error).splitlines()[0]})"
        return
    if result is found:
        merged.added += sum(_count(found, name) for name in found.get_all_result_keys())
    else:
        for name in sorted(found.get_all_result_keys()):
            yield from _merge_benchmark(found, result, name, str(theirs), merged)
    _save(result, ours)
    _write_lines(ours.with_suffix(metadata.SUFFIX), own, runs)
    endings.add(ours, endings.read_beside(theirs))
    profiles.add(ours, profiles.read(theirs))


def _merge_benchmark(found: Any, result: Any, name: str, where: str, merged: Merged) -> Iterator[str]:
    """Add one benchmark's figures, and yield why some are refused."""
    columns = ("_results", "_stats", "_samples", "_benchmark_params", "_benchmark_version", "_started_at", "_duration")
    if name not in result._results:
        for column in columns:
            if name in getattr(found, column):
                getattr(result, column)[name] = getattr(found, column)[name]
        merged.added += _count(found, name)
        return
    if found._benchmark_version.get(name) != result._benchmark_version.get(name):
        yield f"{where}: {name} has another version here: its figures mean something else"
        return
    theirs, ours = _figures(found, name), _figures(result, name)
    for point, value in theirs.items():
        here = ours.get(point, math.nan)
        if is_nan(value) or (value is None and not is_nan(here)):
            continue
        if here is None or is_nan(here):
            ours[point] = value
            merged.added += value is not None
        elif here == value:
            merged.same += 1
        else:
            yield f"{where}: {name}{point} is {value!r} there and {here!r} here: ours is kept, measure it again"
    params = [
        list(dict.fromkeys([*a, *b])) for a, b in zip(*(r._benchmark_params[name] for r in (result, found)), strict=True)
    ]
    points = [*itertools.product(*params)]
    result._benchmark_params[name] = params
    result._results[name] = [ours.get(point, math.nan) for point in points]
    result._stats[name] = result._samples[name] = [None] * len(points)


def _count(result: Any, name: str) -> int:
    return sum(value is not None and not is_nan(value) for value in result._results[name] or ())


def _figures(result: Any, name: str) -> dict[Point, float | None]:
    points = [*itertools.product(*result._benchmark_params[name])]
    return dict(zip(points, result._results[name] or [None] * len(points), strict=True))


def _objection(runs: Sequence[metadata.Metadata], own: Sequence[metadata.Metadata], machine: str) -> str:
    """Why a results file may not be taken in; "" if it may."""
    if not runs:
        return "nothing beside it says what it was measured in"
    probes = {run.get("probe", "") for run in runs}
    if is_shared(machine) and not probes <= set(SHARED_PROBES.values()):
        return f"its probe {', '.join(sorted(probe[:12] for probe in probes))} is not the shared arithmetic's"
    if own and not is_shared(machine) and probes != {run.get("probe", "") for run in own}:
        return "its probe is not the one that this machine had here: a library or its microcode has changed"
    for name in LIBRARIES if own else ():
        there, here = runs[-1].get(name), own[-1].get(name)
        if there != here:
            return f"it was measured with {name} {there}, and here with {here}"
    return ""


def _save(result: Any, path: Path) -> None:
    """Write asv's results whole or not at all."""
    from asv.results import Results

    save = getattr(Results.save, "__wrapped__", Results.save)
    with TemporaryDirectory(prefix="tlbench-") as folder, written_whole(path) as temporary:
        save(result, folder)
        shutil.copyfile(Path(folder) / result._filename, temporary)
    path.chmod(0o644)


def _write_lines(path: Path, own: Sequence[metadata.Metadata], others: Sequence[metadata.Metadata]) -> None:
    """The environments of both, ours last."""
    metadata.write(path, [*(run for run in others if run not in own), *own])
