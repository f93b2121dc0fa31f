"""Why cells failed, could not exist or were judged without a golden: the endings that are kept beside asv's results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console

from tlbench.questions.registry import ACCURACY
from tlbench.records.outcome import Kind
from tlbench.report import render
from tlbench.report.render import Column, Format
from tlbench.report.stored import BENCHMARKS, Commit, StoredResults


@dataclass(frozen=True)
class Reason:
    """Cells that ended alike: one question, one wrapper, one reason."""

    kind: Kind
    question: str
    wrapper: str
    reason: str


def reasons(stored: StoredResults, commits: Sequence[Commit], kinds: Iterable[Kind]) -> dict[Reason, dict[str, set[str]]]:
    """From each reason to the commits where it holds, and for each the models it holds for.

    Raises:
        BadInput: if what was kept is damaged.
    """
    wanted = set(kinds)
    found: dict[Reason, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for commit in commits:
        for (question, cell), ending in stored.endings(commit, next(iter(BENCHMARKS.values()))).items():
            if ending.kind in wanted:
                model, *words = cell.split(" ")
                wrapper = words[2] if len(words) > 2 else "HuggingFace"
                found[Reason(ending.kind, question, wrapper, ending.reason.split("\n")[0])][str(commit)].add(model)
    return found


def show(console: Console, style: Format, found: dict[Reason, dict[str, set[str]]], commits: Sequence[Commit]) -> None:
    """One line a reason: which releases, which models."""
    order = {str(commit): index for index, commit in enumerate(commits)}
    lines = []
    for reason, where in sorted(found.items(), key=lambda item: (item[0].kind, *vars(item[0]).values())):
        by_models: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for commit in sorted(where, key=lambda name: order[name]):
            by_models[tuple(sorted(where[commit]))].append(commit)
        question = "" if reason.question == ACCURACY.name else reason.question
        for models, names in by_models.items():
            words = [reason.kind, question, reason.wrapper, ", ".join(models), ", ".join(names), reason.reason]
            lines.append(words)
    columns = [Column(name) for name in ("", "question", "wrapper", "models", "TransformerLens", "reason")]
    render.show(console, style, "", columns, lines)
