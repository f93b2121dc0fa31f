"""`tlbench verify`: the verdicts, the table and the conclusion on every cell of one model on one TransformerLens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

from rich.console import Console

from tlbench.grid import Cell, Dtype, Option, Space, Statistic
from tlbench.metrics.figures import RATIO_GATE, ErrorStatistics, Truth
from tlbench.metrics.verdict import JudgedBy, Verdict
from tlbench.questions.answers import Answers
from tlbench.questions.registry import ACCURACY, NOISE_FLOOR
from tlbench.records.measurement import Measurement, NoiseFloor
from tlbench.records.outcome import Kind
from tlbench.report import render
from tlbench.report.render import CELL, Column, Format, Value
from tlbench.report.verdicts import BY_HUGGINGFACE, counted, word

COLUMNS = (
    *CELL[1:],
    *(Column(statistic, "{:.3g}".format) for statistic in Statistic),
    Column("ratio", str),
    Column("corr.", "{:.3f}".format),
    Column("bits lost", "{:.2f}".format),
    Column("KL, nats", "{:.2e}".format),
    Column("flips", str),
    Column("floor", "{:.2g}".format),
    Column("verdict"),
)
STYLES = {Verdict.UNJUDGED: "magenta", Verdict.WORSE: "yellow", Verdict.BROKEN: "red", Verdict.FAILED: "red"}
FLOAT32_GOLDEN = "+"
"""Marks a ratio that is based on a float32 golden."""


@dataclass(frozen=True)
class Judgement:
    """One cell and its verdict.

    Attributes:
        measurement: its figures; None if it could not be measured.
        floor: its noise floor; None if that was not measured.
        reason: why it has no figures or no verdict, or what else to know about them; "" if nothing.
    """

    cell: Cell
    verdict: Verdict
    measurement: Measurement | None
    floor: NoiseFloor | None
    reason: str

    @property
    def truth(self) -> Truth | None:
        """The figures against the golden."""
        return self.measurement.truth if self.measurement else None

    @property
    def judged_by(self) -> JudgedBy:
        """What the verdict is based on."""
        return self.measurement.judged_by if self.measurement else JudgedBy.NOTHING

    @property
    def ratio(self) -> float | None:
        """The error over HuggingFace's own error, or over the spread of its variants if those judged the cell."""
        if self.judged_by is JudgedBy.HUGGINGFACE:
            return self.measurement.closeness.ratio if self.measurement and self.measurement.closeness else None
        return self.truth.error_ratio if self.truth else None

    def error(self, space: Space) -> ErrorStatistics | None:
        """The error against HuggingFace."""
        accuracy = self.measurement.accuracy if self.measurement else None
        return accuracy.space(space) if accuracy else None

    def to_json(self, space: Space) -> dict[str, Any]:
        """One entry of ``cells`` in the command's JSON. Missing figures are null."""
        truth, error, measurement = self.truth, self.error(space), self.measurement
        return {
            **asdict(self.cell),
            "verdict": self.verdict,
            "judged_by": self.judged_by,
            "ratio": truth and truth.error_ratio,
            "correlation": truth and truth.error_correlation,
            "bits_lost": truth and truth.bits_lost,
            "kl_nats": truth and truth.kl_nats,
            "top1_flips": truth and truth.top1_flips,
            "nonfinite": measurement and measurement.nonfinite,
            **{statistic.value: error and error.get(statistic) for statistic in Statistic},
            "floor": self.floor and self.floor.largest,
            "golden": truth and truth.golden_precision,
            "closeness": asdict(measurement.closeness) if measurement and measurement.closeness else None,
            "reason": self.reason,
        }


def judgement(answers: Answers) -> Judgement:
    """A cell's verdict from its answers."""
    accuracy, floor = answers.outcomes[ACCURACY.name], answers.outcomes.get(NOISE_FLOOR.name)
    if accuracy.record is None:
        verdicts = {Kind.NOT_APPLICABLE: Verdict.NOT_APPLICABLE, Kind.NOT_MEASURED: Verdict.NOT_MEASURED}
        return Judgement(answers.cell, verdicts.get(accuracy.kind, Verdict.FAILED), None, None, accuracy.reason)
    measured = accuracy.record
    reason = measured.no_accuracy or measured.note
    t, h = measured.vocabulary
    if t != h:
        sizes = f"TransformerLens has {t} logits per position, HuggingFace {h}; the first {min(t, h)} are compared."
        reason = f"{sizes} {reason}"
    return Judgement(answers.cell, measured.verdict, measured, floor.record if floor else None, reason.strip())


def print_rich(console: Console, title: str, space: Space, judgements: Sequence[Judgement]) -> None:
    """One row per cell, and below the table why cells have no figures and what its marks mean."""
    unit = "nats" if space is Space.LOGIT else "probability"
    title = f"{title}: error against HuggingFace ({space}, {unit}) and against the golden"
    lines = [_line(one, space) for one in judgements]
    render.show(console, Format.RICH, title, COLUMNS, lines, [STYLES.get(one.verdict, "") for one in judgements])
    for note in _notes(judgements):
        console.print(note, soft_wrap=True, highlight=False, markup=False)


def _line(one: Judgement, space: Space) -> list[Value]:
    error, truth = one.error(space), one.truth
    errors = [error.get(statistic) if error else None for statistic in Statistic]
    if truth:
        ratio = f"{one.ratio:.3f}" + (FLOAT32_GOLDEN if truth.golden_precision != "float64" else "")
        flips = f"{truth.top1_flips} + {truth.top1_ties} ties" if truth.top1_ties else truth.top1_flips
        figures = [ratio, truth.error_correlation, truth.bits_lost, truth.kl_nats, flips]
    else:
        figures = ["" if one.ratio is None else f"{one.ratio:.3f}{BY_HUGGINGFACE}", *[None] * 4]
    floor = one.floor.largest if one.floor else None
    return [*astuple(one.cell)[1:], *errors, *figures, floor, word(one.verdict, one.judged_by)]


def _notes(judgements: Sequence[Judgement]) -> Iterator[str]:
    by_reason = defaultdict(list)
    for one in judgements:
        if one.reason:
            by_reason[one.reason].append(one)
    for reason, group in by_reason.items():
        count = f"{len(group)} of {len(judgements)} configurations"
        yield f"{group[0].cell.wrapper} {group[0].verdict} ({count}): {reason}"
    if any(one.truth and one.truth.golden_precision != "float64" for one in judgements):
        yield f"{FLOAT32_GOLDEN}: against a float32 golden"
    if any(one.judged_by is JudgedBy.HUGGINGFACE for one in judgements):
        yield (
            f"{BY_HUGGINGFACE}: judged by HuggingFace's own rounding. The ratio is the distance from HuggingFace over the "
            "largest distance between HuggingFace and a variant of it (reversed sums, other attention, threads, batch split)"
        )


def conclusion(judgements: Sequence[Judgement]) -> str:
    """One line: the result and what to do about it."""
    measured = [one for one in judgements if one.measurement or one.verdict.is_alarm]
    if not measured:
        return "Nothing could be measured."
    alarms = [one for one in measured if one.verdict.is_alarm]
    unjudged = _unjudged(measured)
    if unjudged and not alarms:
        return f"Nothing is known to be wrong, but {unjudged}"
    worst = f"Worst: {_description(max(alarms or measured, key=_severity))}."
    if alarms:
        words = counted(one.verdict for one in alarms)
        text = f"{len(alarms)} of {len(measured)} configurations failed the check ({words}). {worst}"
        return " ".join(filter(None, (text, _advice(alarms, measured), unjudged)))
    text = f"0 of {len(measured)} configurations failed the check. {worst} Errors of this size are rounding at these dtypes."
    by_huggingface = sum(one.judged_by is JudgedBy.HUGGINGFACE for one in measured)
    note = f" {by_huggingface} were judged by HuggingFace's own rounding, for lack of a golden." if by_huggingface else ""
    return text + note


def _unjudged(measured: Sequence[Judgement]) -> str:
    unjudged = [one for one in measured if one.verdict is Verdict.UNJUDGED]
    if not unjudged:
        return ""
    errors = [error.max for one in unjudged if (error := one.error(Space.LOGIT))]
    largest = f" Their largest error against HuggingFace's logits is {max(errors):.4g} nats." if errors else ""
    return f"{len(unjudged)} of {len(measured)} could not be judged: {unjudged[0].reason}.{largest}"


def _severity(one: Judgement) -> tuple[bool, bool, float]:
    return one.verdict is Verdict.FAILED, one.verdict is Verdict.BROKEN, one.ratio or 0.0


def _description(one: Judgement) -> str:
    if one.ratio is None:
        return f"{one.cell} ({one.reason})"
    of = "the spread of HuggingFace's own rounding" if one.judged_by is JudgedBy.HUGGINGFACE else "HuggingFace's own error"
    return f"{one.cell}, {one.ratio:.4g} times {of}"


def _advice(alarms: Sequence[Judgement], measured: Sequence[Judgement]) -> str:
    """Where to look first, given which cells are wrong and which are right."""
    if all(one.verdict is Verdict.FAILED for one in alarms):
        return "They raised an exception: see the reason."
    wrong = {(one.cell.option, one.cell.dtype) for one in alarms}
    right = {(one.cell.option, one.cell.dtype) for one in measured if one.verdict.passes}
    options = ", ".join(sorted({option.value for option, _ in wrong if option is not Option.UNPROCESSED}))
    if (Option.UNPROCESSED, Dtype.FLOAT32) in wrong:
        return (
            "float32 is wrong even without weight processing: check the translation of the configuration and the weights, "
            "and the forward pass (scale, epsilon, rotary base, masks, soft caps)."
        )
    if (Option.UNPROCESSED, Dtype.FLOAT32) not in right:
        return "Check float32 without weight processing first: add --dtype float32 --option unprocessed."
    if any(dtype is Dtype.FLOAT32 for _, dtype in wrong):
        return f"float32 is right without weight processing: check what {options} does to the weights."
    if any(option is Option.UNPROCESSED for option, _ in wrong):
        return (
            "float32 is right, so the function is right: look for what HuggingFace computes in float32 and TransformerLens "
            "in 16 bits (norms, softmax, rotary tables). "
            f"An error of up to {RATIO_GATE[Dtype.FLOAT16]:g} times HuggingFace's is benign."
        )
    return f"Only 16 bits with {options} is wrong: process the weights in float32, and round once, at the end."
