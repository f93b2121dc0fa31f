"""How cells ended that have no figure, or whose verdict needs a word: asv's own results have room for neither.

asv stores null for what failed and NaN both for what was skipped and for what was never asked. A run leaves the outcome of
every cell that it asked for; what is not a plain measurement is kept in a file beside the file of results, so that failed,
not applicable and not measured stay three things.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlbench.exceptions import BadInput
from tlbench.files import written_whole
from tlbench.metrics.verdict import JudgedBy
from tlbench.records.measurement import ACCURACY, Measurement
from tlbench.records.outcome import Kind, Outcome
from tlbench.records.serial import restored

SUFFIX = ".endings.jsonl"
"""Of the file beside a file of results. asv takes every ``.json`` there for results."""

Asked = tuple[str, str]
"""A question's name and a cell, as text."""


@dataclass(frozen=True)
class Ending:
    """How a cell ended.

    Attributes:
        kind: measured, not applicable or failed; failed also where TransformerLens's logits are not finite.
        reason: why it has no figure; of a measured one, why its verdict does not rest on a golden and a right reference.
        judged_by: of a measured one, what its verdict rests on.
    """

    kind: Kind
    reason: str
    judged_by: JudgedBy = JudgedBy.GOLDEN


def of_outcome(outcome: Outcome[Any]) -> Ending | None:
    """The ending of a cell; None where it is a plain measurement, or was not measured at all."""
    record = outcome.record
    if isinstance(record, Measurement):
        if record.accuracy is None and not record.reference_nonfinite:
            return Ending(Kind.FAILED, record.no_accuracy, record.judged_by)
        note = record.no_accuracy or record.note
        return Ending(Kind.MEASURED, note, record.judged_by) if note else None
    if outcome.kind in (Kind.FAILED, Kind.NOT_APPLICABLE):
        return Ending(outcome.kind, outcome.reason, JudgedBy.NOTHING)
    return None


def left_by_run(folder: Path) -> Iterator[tuple[Asked, Ending | None]]:
    """The ending of every cell that runs have left in a folder of outcomes."""
    for path in sorted(folder.glob("*.json")):
        data = json.loads(path.read_text())
        if "question" in data:  # the folder also holds the metadata of the environment
            kind: Any = Outcome[Measurement] if data["question"] == ACCURACY else Outcome[dict[str, Any]]
            outcome: Outcome[Any] = restored(kind, data)
            yield (data["question"], data["cell"]), of_outcome(outcome)


def keep(folder: Path, results: Path) -> None:
    """Put what runs have left in a folder of outcomes beside a file of results; what is there of other cells stays.

    Raises:
        BadInput: if the file that is there is damaged, or cannot be written.
    """
    stored = results.with_suffix(SUFFIX)
    found: dict[Asked, Ending | None] = dict(read(stored)) if stored.is_file() else {}
    found |= dict(left_by_run(folder))
    endings = {asked: ending for asked, ending in found.items() if ending}
    if not endings and not stored.exists():
        return
    with written_whole(stored) as path:
        path.write_text("".join(_lines(endings)))


def read(stored: Path) -> Mapping[Asked, Ending]:
    """What :func:`keep` wrote.

    Raises:
        BadInput: if the file is damaged.
    """
    try:
        return dict(_parsed(stored.read_text().splitlines()))
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{stored} is damaged ({type(error).__name__}): restore it, or delete it and run again") from error


def _lines(endings: Mapping[Asked, Ending]) -> Iterator[str]:
    """A line for all the cells of a question that ended alike."""
    alike: dict[tuple[str, Ending], list[str]] = {}
    for (question, cell), ending in sorted(endings.items()):
        alike.setdefault((question, ending), []).append(cell)
    for (question, ending), cells in alike.items():
        line = {"question": question, "kind": ending.kind, "judged_by": ending.judged_by, "reason": ending.reason}
        yield json.dumps({**line, "cells": cells}) + "\n"


def _parsed(lines: Iterable[str]) -> Iterator[tuple[Asked, Ending]]:
    for line in lines:
        data = json.loads(line)
        ending = Ending(Kind(data["kind"]), data["reason"], JudgedBy(data["judged_by"]))
        yield from (((data["question"], cell), ending) for cell in data["cells"])
