"""Why cells failed or could not exist: the reasons that a run left beside asv's environments."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from tlbench.cells import Wrapper
from tlbench.exceptions import BadInput
from tlbench.memo import ACCURACY, Kind, Outcome
from tlbench.paths import OUTCOMES
from tlbench.record import Measurement
from tlbench.report.stored import Commit


@dataclass(frozen=True)
class Reason:
    """Cells that ended alike: one wrapper, one reason."""

    kind: Kind
    wrapper: Wrapper
    reason: str


def reasons(folder: Path, commits: Sequence[Commit], kinds: Iterable[Kind]) -> dict[Reason, dict[str, set[str]]]:
    """From each reason to the commits where it holds, and for each the models it holds for.

    Raises:
        BadInput: if no run has left outcomes here.
    """
    if not (folder / OUTCOMES).is_dir():
        raise BadInput(f"no run has left outcomes under {folder / OUTCOMES}: run `asv run` there first")
    wanted = set(kinds)
    found: dict[Reason, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for commit in commits:
        for path in sorted((folder / OUTCOMES / commit.hash).glob(f"{ACCURACY.name}-*.json")):
            kind, why = _ending(Outcome.from_json(json.loads(path.read_text()), ACCURACY.record))
            if kind in wanted:
                # file_name() writes QUESTION-MODEL-DTYPE-OPTION-WRAPPER, and a model's name may hold dashes.
                model, _dtype, _option, wrapper = path.stem.removeprefix(f"{ACCURACY.name}-").rsplit("-", 3)
                reason = Reason(kind, Wrapper(wrapper), why.split("\n")[0])
                found[reason][str(commit)].add(model)
    return found


def _ending(outcome: Outcome[Measurement]) -> tuple[Kind, str]:
    """How a cell ended and why. One with a non-finite logit was measured, and has no error to show."""
    if outcome.record is not None and outcome.record.accuracy is None:
        return Kind.FAILED, outcome.record.no_accuracy
    return outcome.kind, outcome.reason


def write_markdown(found: dict[Reason, dict[str, set[str]]], commits: Sequence[Commit]) -> str:
    """One line a reason: which releases, which models."""
    order = {str(commit): index for index, commit in enumerate(commits)}
    lines = []
    for reason, where in sorted(found.items(), key=lambda item: (item[0].kind, item[0].wrapper, item[0].reason)):
        by_models: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for commit in sorted(where, key=lambda name: order[name]):
            by_models[tuple(sorted(where[commit]))].append(commit)
        for models, names in by_models.items():
            lines.append([reason.kind, reason.wrapper, ", ".join(models), ", ".join(names), reason.reason])
    table: str = tabulate(lines, headers=["", "wrapper", "models", "TransformerLens", "reason"], tablefmt="pipe")
    return f"{table}\n"
