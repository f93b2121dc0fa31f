"""Profiles: a cell's error block by block, and by context length. asv's results hold one number a cell, so they lie beside.

A profile is what a run measured anyway for the tracks of depth and context length.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlbench.exceptions import BadInput
from tlbench.files import written_whole
from tlbench.records.depth_profile import COMPUTED_BY_BLOCK, DepthProfile
from tlbench.records.endings import Asked
from tlbench.records.inside import ContextLength
from tlbench.records.outcome import Outcome, left_by_this_code
from tlbench.records.serial import plain, restored

SUFFIX = ".profiles.jsonl"  # of the file beside a results file
DEPTH, LENGTH = "depth", "context-length"
"""The questions that leave profiles."""
Series = tuple[float | None, ...]


@dataclass(frozen=True)
class Profile:
    """An error at each block, or at each context length.

    Attributes:
        at: the blocks, counted from zero; or the lengths, in tokens.
        errors: of a block, the residual stream's relative error after it, in a model run from the tokens. Of a length, the
            rms error of the centred logits in nats. ``reference_errors`` are HuggingFace's own at the same dtype.
        local: of a block, the largest relative error of one of its components if the block is fed its golden input; empty of
            lengths. ``reference_local`` is HuggingFace's own for that component.
    """

    at: tuple[int, ...]
    errors: Series
    reference_errors: Series
    local: Series = ()
    reference_local: Series = ()


def of_depth(record: DepthProfile) -> Profile:
    """The profile over blocks. A block whose output has no hook point that fires has no propagated error."""
    blocks = range(record.n_blocks)
    found = [[site for c in COMPUTED_BY_BLOCK if (site := record.at(block, c))] for block in blocks]
    worst = [max(sites, key=lambda site: site.local, default=None) for sites in found]
    return Profile(
        at=tuple(blocks),
        errors=tuple(site.propagated if site else None for site in record.outputs),
        reference_errors=tuple(site.reference_propagated if site else None for site in record.outputs),
        local=tuple(site.local if site else None for site in worst),
        reference_local=tuple(site.reference_local if site else None for site in worst),
    )


def of_length(record: ContextLength) -> Profile:
    """The profile over lengths. HuggingFace may have none at a length."""
    lengths = tuple(sorted(record.errors))
    return Profile(lengths, tuple(map(record.errors.get, lengths)), tuple(map(record.reference_errors.get, lengths)))


def left_by_run(folder: Path) -> Iterator[tuple[Asked, Profile | None]]:
    """Yield the profile of each cell whose outcome is in a folder; None if it was not measured."""
    for name, kind, profile_of in ((DEPTH, DepthProfile, of_depth), (LENGTH, ContextLength, of_length)):
        for path in sorted(folder.glob(f"{name}-*.json")):
            data = json.loads(path.read_text())
            outcome: Outcome[Any] | None = left_by_this_code(Outcome[kind], data)  # type: ignore[valid-type]
            if outcome:
                yield (name, data["cell"]), outcome.record and profile_of(outcome.record)


def keep(folder: Path, results: Path) -> None:
    """Merge the profiles in a folder into the file beside a results file. Those of cells that were not asked for stay.

    Raises BadInput if the existing file is damaged, or the file cannot be written.
    """
    left = dict(left_by_run(folder))
    if not left:
        return
    stored = beside(results)
    merged = {key: profile for key, profile in {**read(results), **left}.items() if profile}
    if merged or stored.exists():
        with written_whole(stored) as path:
            path.write_text("".join(_lines(merged)))


def add(results: Path, others: Mapping[Asked, Profile]) -> None:
    """Add profiles of other cells to the file beside a results file. Raises what :func:`keep` raises."""
    new = {**others, **(ours := read(results))}
    if new != ours:
        with written_whole(beside(results)) as path:
            path.write_text("".join(_lines(new)))


def beside(results: Path) -> Path:
    """The file of profiles of a results file."""
    return results.with_suffix(SUFFIX)


def read(results: Path) -> Mapping[Asked, Profile]:
    """The profiles beside a results file; none without the file. Raises BadInput if it is damaged."""
    stored = beside(results)
    try:
        lines = stored.read_text().splitlines() if stored.is_file() else []
        return dict(map(_parsed, lines))
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{stored} is damaged ({type(error).__name__}): restore it, or delete it and run again") from error


def _lines(profiles: Mapping[Asked, Profile]) -> Iterator[str]:
    for (question, cell), profile in sorted(profiles.items()):
        yield json.dumps({"question": question, "cell": cell, **plain(profile)}) + "\n"


def _parsed(line: str) -> tuple[Asked, Profile]:
    data = json.loads(line)
    return (data.pop("question"), data.pop("cell")), restored(Profile, data)
