"""The table of `tlbench outcomes`: why cells failed, are not applicable or were judged without a golden."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from rich.console import Console

from tlbench.questions.registry import ACCURACY
from tlbench.records.endings import PART
from tlbench.records.outcome import Kind
from tlbench.report import render
from tlbench.report.checks import QUESTIONS
from tlbench.report.render import Column, Format
from tlbench.report.status import PartStatus, Word, few
from tlbench.report.stored import Commit, StoredResults

COLUMNS = [
    Column(""),
    Column("question", is_wrapped=True),
    Column("wrapper", short=render.short_wrapper, is_key=True),
    Column("models", is_wrapped=True),
    Column("TransformerLens", is_key=True, is_wrapped=True),
    Column("reason", is_wrapped=True),
    Column("machine", drop=1),
]
NO_REASON = "no reason was kept"


class Reason(NamedTuple):
    """How all cells of one question and wrapper ended that ended alike on one machine."""

    kind: Kind
    question: str
    wrapper: str
    reason: str
    machine: str


Models = dict[Reason, dict[str, set[str]]]
"""For each reason and commit, the models it holds for."""


def reasons(
    stored: StoredResults, parts_by_commit: Sequence[tuple[Commit, Sequence[PartStatus]]], kinds: Collection[Kind]
) -> Models:
    """The endings of these kinds that any machine kept, and the failures that asv stored and no machine kept a reason for.

    Raises what :meth:`StoredResults.endings` raises.
    """
    models: Models = defaultdict(lambda: defaultdict(set))
    for commit, parts in parts_by_commit:
        known = set()
        for machine in stored.machines(commit):
            for (question, cell), ending in stored.endings(commit, machine=machine).items():
                known.add((question.split(PART)[0], cell, machine))
                if ending.kind in kinds:
                    model, *words = cell.split(" ")
                    wrapper = words[2] if len(words) > 2 else "HuggingFace"
                    reason = Reason(ending.kind, question, wrapper, ending.reason.split("\n")[0], machine)
                    models[reason][str(commit)].add(model)
        for status in parts if Kind.FAILED in kinds else ():
            question = QUESTIONS[status.part]
            for one in status.checked:
                if one.word is Word.FAILED and (question, str(one.cell), status.machine) not in known:
                    reason = Reason(Kind.FAILED, question, one.cell.wrapper, NO_REASON, status.machine)
                    models[reason][str(commit)].add(one.cell.model)
    return models


def show(console: Console, style: Format, models_by_reason: Models) -> None:
    """One row per reason and set of models, with the commits."""
    lines = []
    for reason, by_commit in sorted(models_by_reason.items()):
        commits = defaultdict(list)
        for commit, models in by_commit.items():
            commits[few(sorted(models)) if style is Format.RICH else ", ".join(sorted(models))].append(commit)
        question = "" if reason.question == ACCURACY.name and style is not Format.RICH else reason.question
        for names, where in commits.items():
            lines.append([reason.kind, question, reason.wrapper, names, ", ".join(where), reason.reason, reason.machine])
    render.show(console, style, "", COLUMNS, lines)


def summary(commit: Commit, parts: Sequence[PartStatus]) -> str:
    """One line: how many cells failed in each part that was measured, and which parts were not."""
    measured = [(status, list(status.words.values())) for status in parts if status.is_measured]
    counts = [f"{words.count(Word.FAILED)} of {sum(w.has_run for w in words)} in {s.part}" for s, words in measured]
    missing = ", ".join(status.part for status in parts if not status.is_measured)
    failed = f"cells {Word.FAILED}: {', '.join(counts)}" if counts else "nothing was measured"
    return f"{commit}: {failed}" + (f". {Word.NOT_MEASURED.capitalize()}: {missing}." if missing else ".")
