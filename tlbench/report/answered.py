"""Judge one model's answers, as `tlbench verify` measured them, by the rules for stored results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tlbench.grid import Cell, Dtype, Option
from tlbench.metrics.figures import RATIO_GATE
from tlbench.metrics.verdict import JudgedBy
from tlbench.questions.answers import Answers
from tlbench.questions.attempts import NOT_APPLICABLE
from tlbench.questions.question import Question
from tlbench.questions.registry import ACCURACY
from tlbench.questions.registry import QUESTIONS as BY_NAME
from tlbench.records.measurement import Measurement
from tlbench.records.outcome import Kind, Outcome
from tlbench.report.checks import CHECKS, ONLY_VERIFIED, QUESTIONS, Check, Part
from tlbench.report.status import Checked, PartStatus, Word, few, judged

PARTS = tuple(part for part in Part if part not in (Part.DEPTH, Part.LENGTH))
"""What `verify` asks about. Depth is asked of what is wrong; the context's length takes as long as all the others."""
EVERYWHERE = (Part.LOGITS, Part.FLOOR)
"""Asked of every cell."""
PATHS = (Option.UNPROCESSED, Option.ALL_OPTIONS)
"""The options in whose cells the other questions are asked: the two paths that the code takes. A dtype changes the size of
their figures and not the path, so one dtype is enough."""
Figure = Callable[[Any], float | None]
FIGURES: dict[tuple[Part, str], tuple[Figure, tuple[str, ...]]] = {
    (Part.HOOKS, "additivity"): (lambda record: record.additivity, ("sums",)),
    (Part.HOOKS, "pattern_rows"): (lambda record: record.pattern_rows, ("patterns",)),
    (Part.HOOKS, "final_logits"): (lambda record: record.final, ("final",)),
    (Part.HOOKS, "hook_disturbance"): (lambda record: record.disturbance, ("cache", "counts")),
    (Part.HOOKS, "silent_hooks"): (lambda record: len(record.silent) if record.n_hooks else None, ("counts",)),
    (Part.HOOKS, "repeated_hooks"): (lambda record: len(record.repeated) if record.n_hooks else None, ("counts",)),
    (Part.HOOKS, "leftover_hooks"): (lambda record: record.leftover if record.n_hooks else None, ("counts",)),
    (Part.HOOKS, "edit_ratio"): (lambda record: record.edit_ratio, ("edits",)),
    (Part.GENERATION, "cache_error"): (lambda record: record.cache_error, ("steps",)),
    (Part.GENERATION, "wrong_tokens"): (lambda record: record.wrong_tokens, ("greedy",)),
    (Part.READING, "logit_difference"): (lambda record: _error(record.logit_difference), ("logit_difference",)),
    (Part.READING, "patch_effect"): (lambda record: _error(record.patch_effect), ("patch_effect",)),
    (Part.GRADIENTS, "error_ratio"): (lambda record: record.worst_ratio, ()),
}
"""The figure of a check and the attempts that it needs, where the record has it under another name than the track."""
DETAILS: dict[tuple[Part, str], Callable[[Any], str]] = {
    (Part.HOOKS, "silent_hooks"): lambda record: few(record.silent),
    (Part.HOOKS, "repeated_hooks"): lambda record: few(record.repeated),
    (Part.ACCESSORS, "n_wrong"): lambda record: "; ".join(f"{name}, {fault}" for name, fault in record.wrong.items()),
}
"""What else to say of a figure that is not right."""


def questions_of(cells: Sequence[Cell], parts: Sequence[Part]) -> dict[Cell, tuple[Question[Cell, Any], ...]]:
    """What to ask of each cell: the logits of all, and most questions of the plainest dtype's two :data:`PATHS`."""
    dtype = min((cell.dtype for cell in cells), key=list(Dtype).index)
    plain = [cell for cell in cells if cell.dtype == dtype]
    options = [option for option in PATHS if any(cell.option == option for cell in plain)] or [plain[0].option]
    asked = {}
    for cell in cells:
        is_asked_all = cell.dtype == dtype and cell.option in options
        names = [QUESTIONS[part] for part in parts if is_asked_all or part in EVERYWHERE]
        asked[cell] = tuple(BY_NAME[name] for name in dict.fromkeys([ACCURACY.name, *names]))
    return asked


def part_statuses(answers: Sequence[Answers], parts: Sequence[Part]) -> list[PartStatus]:
    """Every check of these parts, for the cells that were asked. The logits have verdicts of their own."""
    statuses = []
    for part in parts:
        asked = [one for one in answers if QUESTIONS[part] in one.outcomes]
        if part is not Part.LOGITS and asked:
            statuses.append(PartStatus(part, "", None, tuple(checked for one in asked for checked in _checked(one, part))))
    return statuses


def _checked(answers: Answers, part: Part) -> Iterator[Checked]:
    outcome: Outcome[Any] = answers.outcomes[QUESTIONS[part]]
    own_error = _own_error(answers)
    for check in (*CHECKS, *ONLY_VERIFIED):
        if check.part is part:
            yield _one(check, answers.cell, outcome, own_error)


def _one(check: Check, cell: Cell, outcome: Outcome[Any], own_error: float | None) -> Checked:
    limit = check.limit(cell.dtype, own_error)
    if outcome.record is None:
        words = {Kind.NOT_APPLICABLE: Word.NOT_APPLICABLE, Kind.NOT_MEASURED: Word.NOT_MEASURED}
        word = words.get(outcome.kind, Word.FAILED)
        return Checked(check.part, check.what, cell, word, None, limit, check.unit, outcome.reason)
    find, attempts = FIGURES.get((check.part, check.track), (lambda record: getattr(record, check.track), (check.track,)))
    value = find(outcome.record)
    if value is not None:
        word = judged(value, limit)
        detail = DETAILS.get((check.part, check.track), lambda _: "")(outcome.record) if word is not Word.RIGHT else ""
        return Checked(check.part, check.what, cell, word, value, limit, check.unit, detail)
    reasons = [reason for name in attempts if (reason := getattr(outcome.record, "reasons", {}).get(name))]
    failed = [reason for reason in reasons if not reason.startswith(NOT_APPLICABLE)]
    word = Word.FAILED if failed or not reasons else Word.NOT_APPLICABLE
    reason = "; ".join(failed or reasons).removeprefix(f"{NOT_APPLICABLE}: ") or "it has no figure and no reason"
    return Checked(check.part, check.what, cell, word, None, limit, check.unit, reason)


def _own_error(answers: Answers) -> float | None:
    """The rms error, in nats, that is one rounding of this cell; None if neither a golden nor HuggingFace's variants say.

    A wrong model's own error would excuse any difference, so HuggingFace's own, times the gate, bounds it.
    """
    accuracy: Outcome[Measurement] | None = answers.outcomes.get(ACCURACY.name)
    measured = accuracy.record if accuracy else None
    if measured is None:
        return None
    if measured.judged_by is not JudgedBy.HUGGINGFACE and measured.truth:
        own = measured.truth.reference_rms
        return max(own, min(measured.truth.error_rms, RATIO_GATE[measured.cell.dtype] * own))
    return measured.closeness.spread_rms if measured.closeness and measured.closeness.spread_rms else None


def _error(pair: Any) -> float | None:
    return pair.error if pair else None
