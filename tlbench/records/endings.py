"""How cells without a figure ended, and notes on verdicts. asv's own results have no room for either.

asv stores null for a failed cell, and NaN for both a skipped cell and one that was never requested. So every outcome that is
not a plain measurement goes into a file beside the results file: failed, not applicable and not measured stay distinct.
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
from tlbench.records.outcome import Kind, Outcome, left_by_this_code

SUFFIX = ".endings.jsonl"  # of the file beside a results file; asv would read a ``.json`` there as results
Asked = tuple[str, str]  # a question's name and a cell, both as text
PART = "/"
"""Between a question's name and that of an attempt within it, such as ``hooks/start_at_layer``."""
NOT_APPLICABLE = "n/a"
"""The prefix of an attempt's reason that means not applicable; see :mod:`tlbench.questions.attempts`."""


@dataclass(frozen=True)
class Ending:
    """How a cell ended.

    Attributes:
        kind: measured, not applicable or failed. Non-finite TransformerLens logits count as failed.
        reason: why it has no figure. If measured: why its verdict is not based on a golden and a correct reference.
    """

    kind: Kind
    reason: str
    judged_by: JudgedBy = JudgedBy.GOLDEN


def of_outcome(outcome: Outcome[Any]) -> Ending | None:
    """The ending of a cell; None if it is a plain measurement, or was not measured at all."""
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
    """Yield the ending of every cell whose outcome is in a folder."""
    for path in sorted(folder.glob("*.json")):
        data = json.loads(path.read_text())
        if "question" in data:  # the folder also holds the environment's metadata
            kind: Any = Outcome[Measurement] if data["question"] == ACCURACY else Outcome[dict[str, Any]]
            if outcome := left_by_this_code(kind, data):
                yield (data["question"], data["cell"]), of_outcome(outcome)
                for attempt, ending in of_attempts(outcome):
                    yield (f"{data['question']}{PART}{attempt}", data["cell"]), ending


def of_attempts(outcome: Outcome[Any]) -> Iterator[tuple[str, Ending]]:
    """Yield why single figures of a measured cell are missing: its record keeps a reason for each attempt."""
    reasons = outcome.record.get("reasons", {}) if isinstance(outcome.record, dict) else {}
    for attempt, reason in reasons.items():
        kind = Kind.NOT_APPLICABLE if reason.startswith(NOT_APPLICABLE) else Kind.FAILED
        yield attempt, Ending(kind, reason.removeprefix(f"{NOT_APPLICABLE}: "), JudgedBy.NOTHING)


def keep(folder: Path, results: Path) -> None:
    """Merge the outcomes in a folder into the file beside a results file. Other cells in that file stay.

    A cell that was measured again loses what was kept of its attempts.

    Raises BadInput if the existing file is damaged, or the file cannot be written.
    """
    stored = results.with_suffix(SUFFIX)
    left = dict(left_by_run(folder))
    earlier = {key: end for key, end in read_beside(results).items() if _whole(key) not in left}
    merged = {**earlier, **left}
    endings = {key: ending for key, ending in merged.items() if ending}
    if endings or stored.exists():
        with written_whole(stored) as path:
            path.write_text("".join(_lines(endings)))


def read_beside(results: Path) -> Mapping[Asked, Ending]:
    """The endings beside a results file; none without the file. Raises BadInput if it is damaged."""
    stored = results.with_suffix(SUFFIX)
    return read(stored) if stored.is_file() else {}


def add(results: Path, others: Mapping[Asked, Ending]) -> None:
    """Add endings of other cells to the file beside a results file. Raises what :func:`keep` raises."""
    new = {**others, **(ours := read_beside(results))}
    if new != ours:
        with written_whole(results.with_suffix(SUFFIX)) as path:
            path.write_text("".join(_lines(new)))


def _whole(asked: Asked) -> Asked:
    return asked[0].split(PART)[0], asked[1]


def read(stored: Path) -> Mapping[Asked, Ending]:
    """Read what :func:`keep` wrote. Raises BadInput if the file is damaged."""
    try:
        return dict(_parsed(stored.read_text().splitlines()))
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{stored} is damaged ({type(error).__name__}): restore it, or delete it and run again") from error


def _lines(endings: Mapping[Asked, Ending]) -> Iterator[str]:
    """One line per question and ending, with all the cells that ended that way."""
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
