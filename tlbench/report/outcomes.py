"""The table of `tlbench outcomes`: why cells failed, are not applicable or were judged without a golden."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from rich.console import Console

from tlbench.grid import Space
from tlbench.questions.registry import ACCURACY
from tlbench.records.outcome import Kind
from tlbench.report import render
from tlbench.report.render import Column, Format
from tlbench.report.stored import BENCHMARKS, Commit, StoredResults

COLUMNS = [Column(name) for name in ("", "question", "wrapper", "models", "TransformerLens", "reason")]


class Reason(NamedTuple):
    """How all cells of one question and wrapper ended that ended alike."""

    kind: Kind
    question: str
    wrapper: str
    reason: str


Models = dict[Reason, dict[str, set[str]]]
"""For each reason and commit, the models it holds for."""


def reasons(stored: StoredResults, commits: Sequence[Commit], kinds: Collection[Kind]) -> Models:
    """The reasons of these kinds. Raises what :meth:`StoredResults.endings` raises."""
    models: Models = defaultdict(lambda: defaultdict(set))
    for commit in commits:
        for (question, cell), ending in stored.endings(commit, BENCHMARKS[Space.ORIGIN]).items():
            if ending.kind in kinds:
                model, *words = cell.split(" ")
                wrapper = words[2] if len(words) > 2 else "HuggingFace"
                models[Reason(ending.kind, question, wrapper, ending.reason.split("\n")[0])][str(commit)].add(model)
    return models


def show(console: Console, style: Format, models_by_reason: Models) -> None:
    """One row per reason and set of models, with the commits."""
    lines = []
    for reason, by_commit in sorted(models_by_reason.items()):
        commits = defaultdict(list)
        for commit, models in by_commit.items():
            commits[", ".join(sorted(models))].append(commit)
        question = "" if reason.question == ACCURACY.name else reason.question
        for names, where in commits.items():
            lines.append([reason.kind, question, reason.wrapper, names, ", ".join(where), reason.reason])
    render.show(console, style, "", COLUMNS, lines)
