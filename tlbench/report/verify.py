"""`tlbench verify`: the verdicts, the tables and the conclusion on one model on one TransformerLens."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tlbench.checkpoints import Checkpoint
from tlbench.grid import Cell, Dtype, Option, Space, Statistic
from tlbench.metrics.figures import RATIO_GATE, ErrorStatistics, Truth
from tlbench.metrics.verdict import JudgedBy, Verdict
from tlbench.questions.answers import Answers
from tlbench.questions.registry import ACCURACY, NOISE_FLOOR
from tlbench.records.measurement import Measurement, NoiseFloor
from tlbench.records.outcome import Kind
from tlbench.report import render, verdicts
from tlbench.report.checks import Part
from tlbench.report.render import CELL, Column, Format, Value
from tlbench.report.status import PROBLEMS, Checked, Finding, PartStatus, Word, findings, joined
from tlbench.report.verdicts import BY_HUGGINGFACE, counted, word

COLUMNS = (
    Column("verdict"),
    *CELL[1:],
    *(Column(statistic, "{:.3g}".format, drop=drop) for statistic, drop in zip(Statistic, (0, 4, 7, 8), strict=True)),
    Column("ratio", str),
    Column("corr.", "{:.3f}".format, drop=6),
    Column("bits lost", "{:.2f}".format, drop=3),
    Column("KL, nats", "{:.2e}".format, drop=5),
    Column("flips", str, drop=1),
    Column("floor", "{:.2g}".format, drop=2),
)
STYLES = {Verdict.UNJUDGED: "magenta", Verdict.WORSE: "yellow", Verdict.BROKEN: "red", Verdict.FAILED: "red"}
STYLES_OF_WORDS = {Word.WRONG: "red", Word.FAILED: "red", Word.UNJUDGED: "magenta", Word.NOT_MEASURED: "magenta"}
KNOWN = {
    (Part.HOOKS, "hooks that never fire"): "silent-hooks",
    (Part.READING, "logit_attrs of heads"): "logit-attrs-without-gain",
    (Part.DECOMPOSITION, "sum of logit_attrs"): "logit-attrs-without-gain",
    (Part.SWITCHES, "refactor_factored_attn_matrices"): "refactor-bloom",
    (Part.MEMORY, "what a forward pass leaves in the model"): "pattern-left-behind",
}
"""Findings about TransformerLens itself that a healthy model runs into."""
CONTEXT_TOKENS = 12
"""How many tokens before the worst one are printed."""
LINES_OF_MARKDOWN = 5
STYLES_OF_HEADLINES = {"RIGHT": "bold green", "UNJUDGED": "bold magenta", "WRONG": "bold red"}
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
            "distribution": asdict(measurement.distribution) if measurement and measurement.distribution else None,
            "fingerprint": asdict(measurement.fingerprint) if measurement and measurement.fingerprint else None,
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
    t, h = measured.vocabulary
    sizes = f"TransformerLens has {t} logits per position, HuggingFace {h}; the first {min(t, h)} are compared"
    reasons = (sizes if t != h else "", measured.remark, measured.no_accuracy or measured.note)
    reason = ". ".join(filter(None, reasons))
    return Judgement(answers.cell, measured.verdict, measured, floor.record if floor else None, reason)


@dataclass(frozen=True)
class Report:
    """What was found about one model.

    Attributes:
        subject: the model and the TransformerLens.
        judgements: the logits of each configuration.
        parts: the other questions' checks.
    """

    subject: str
    judgements: Sequence[Judgement]
    parts: Sequence[PartStatus]

    @property
    def checked(self) -> list[Checked]:
        """Every check that was made, or tried."""
        return [one for status in self.parts for one in status.checked if one.word is not Word.NOT_APPLICABLE]

    @property
    def findings(self) -> list[Finding]:
        """What the other questions found wrong, failed or unjudged. Where the logits failed, the rest is no finding."""
        failed = (one.cell for one in self.judgements if one.verdict is Verdict.FAILED)
        logits = tuple(Checked(Part.LOGITS, Part.LOGITS, cell, Word.FAILED) for cell in failed)
        found = findings([PartStatus(Part.LOGITS, "", None, logits), *self.parts])
        return [one for one in found if one.part is not Part.LOGITS]

    @property
    def exit_status(self) -> int:
        """1 if something is wrong; 3 if nothing is known to be, but something is unjudged or was not measured; else 0."""
        words = {one.word for one in self.checked}
        logits = verdicts.exit_status([one.verdict for one in self.judgements])
        if logits == 1 or words & {Word.WRONG, Word.FAILED}:
            return 1
        return 3 if logits or words & {Word.UNJUDGED, Word.NOT_MEASURED} else 0

    @property
    def headline(self) -> str:
        """The verdict in one word."""
        return {0: "RIGHT", 1: "WRONG", 3: "UNJUDGED"}[self.exit_status]

    @property
    def count(self) -> str:
        """What is not right, or how much is."""
        measured = _measured(self.judgements)
        words = {word: sum(one.word is word for one in self.checked) for word in Word}
        wrong = [f"{words[word]} {word}" for word in (*PROBLEMS, Word.NOT_MEASURED) if words[word]]
        others = f"; {len(self.checked)} other checks, {joined(wrong) if wrong else 'all right'}" if self.parts else ""
        return f"{_count(measured)}{others}"


def print_summary(console: Console, report: Report, notes: Iterable[str] = (), is_full: bool = False) -> None:
    """The verdict, a short table per question of what is not right, one line for what is, and further ``notes``."""
    judgements = report.judgements
    measured = _measured(judgements)
    console.print(Text(report.headline, STYLES_OF_HEADLINES[report.headline]) + f"  {report.subject}: {report.count}")
    troubled = [one for one in judgements if one.verdict.is_alarm or one.verdict is Verdict.UNJUDGED]
    rows = _rows(report, is_full)
    if troubled:
        grid = _section(console, Part.LOGITS)
        for verdict, option, dtypes, what in _grouped(troubled):
            grid.add_row("", Text(verdict, STYLES[verdict]), option, dtypes, Text(what))
        console.print(grid)
    for part, of_part in groupby(rows, key=lambda row: row.part):
        grid = _section(console, part)
        for row in of_part:
            grid.add_row("", Text(row.word, STYLES_OF_WORDS.get(row.word, "")), Text("\n".join(row.lines), overflow="fold"))
        console.print(grid)
    if troubled or rows:
        console.print()
    alarms = [one for one in measured if one.verdict.is_alarm]
    lines = [_advice(alarms, measured)] if alarms else []
    if fine := [one for one in measured if one.verdict.passes]:
        largest = max(fine, key=lambda one: one.ratio or 0.0)
        ratio = f", at most {_times(largest)} ({largest.cell.dtype} {largest.cell.option})" if largest.ratio else ""
        lines.append(f"right: {len(fine)} {_configurations(len(fine))} ({counted(one.verdict for one in fine)}){ratio}")
    for line in (*lines, *_right_parts(report), *_notes(judgements), *notes):
        console.print(line, highlight=False, markup=False)


def _section(console: Console, part: Part) -> Table:
    console.print()
    console.print(Text(part, "bold"))
    return Table.grid(padding=(0, 2))


@dataclass(frozen=True)
class Row:
    """One entry of a question's table.

    Attributes:
        measure: the worst figure beside the largest right one, or why there is none.
        where: the configurations.
        more: what else is known: which hooks, for example, or where the fault is described.
    """

    part: Part
    word: Word
    what: str
    measure: str
    where: str
    more: tuple[str, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        """The entry for a terminal."""
        return (f"{self.what}: {self.measure}", self.where, *self.more)


def _rows(report: Report, is_full: bool) -> list[Row]:
    """What is not right, by check; with ``is_full`` every check."""
    rows = []
    for problem in report.findings:
        known = KNOWN.get((problem.part, problem.what))
        details = (
            problem.worst.reason if problem.worst.value is not None else "",
            known and f"see docs/findings/{known}.md",
        )
        more = tuple(detail for detail in details if detail)
        rows.append(Row(problem.part, problem.word, problem.what, problem.measure, _where(problem.cells), more))
    shown = [Word.NOT_MEASURED, *((Word.RIGHT, Word.NOT_APPLICABLE) if is_full else ())]
    for one in (one for status in report.parts for one in status.checked if one.word in shown):
        figure = "" if one.value is None else f"{one.value:.3g} {one.unit}".strip()
        rows.append(Row(one.part, one.word, one.what, figure or one.reason.split("\n")[0], _where([one])))
    return sorted(rows, key=lambda row: list(Part).index(row.part))


def worst_token(judgements: Sequence[Judgement], checkpoint: Checkpoint) -> str:
    """The logit with the largest error of the worst configuration, in its text; "" if nothing was compared with a golden."""
    measured = [one.measurement for one in judgements if one.measurement and one.measurement.distribution and one.truth]
    if not measured:
        return ""
    worst = max(measured, key=lambda one: one.truth.error_ratio if one.truth else 0.0)
    assert worst.distribution is not None
    place = worst.distribution.worst
    context = checkpoint.prompts.natural[place.prompt][: place.position + 1]
    text, token = decoded(checkpoint.folder, context[-CONTEXT_TOKENS:]), decoded(checkpoint.folder, [place.token])
    where = f"{worst.cell.dtype} {worst.cell.option}"
    return f"Worst logit ({where}, {place.error:.3g} nats off the golden): {token} after {text}, prompt {place.prompt}."


def decoded(folder: Path, ids: Sequence[int]) -> str:
    """Token ids as quoted text; as numbers if the model's folder has no tokenizer that says what they are."""
    path = folder / "tokenizer.json"
    if path.is_file():
        with suppress(Exception):  # tokenizers raises nothing more precise
            from tokenizers import Tokenizer

            return repr(Tokenizer.from_file(str(path)).decode(list(ids), skip_special_tokens=False))
    return f"token{'s' if len(ids) > 1 else ''} {' '.join(map(str, ids))}"


def _where(cells: Sequence[Checked]) -> str:
    """The configurations, shortly, such as ``float32 unprocessed, all_options TransformerBridge``."""
    parts = ("dtype", "option", "wrapper")
    return " ".join(", ".join(dict.fromkeys(getattr(one.cell, part) for one in cells)) for part in parts)


def _right_parts(report: Report) -> Iterator[str]:
    """Which of the other questions are all right, and which do not apply."""
    words = {status.part: {one.word for one in status.checked} for status in report.parts}
    if right := [
        part for part, found in words.items() if Word.RIGHT in found and not found & {*PROBLEMS, Word.NOT_MEASURED}
    ]:
        yield f"right: {joined(right)}"
    if absent := [part for part, found in words.items() if found == {Word.NOT_APPLICABLE}]:
        yield f"n/a: {joined(absent)}"


def checks_json(report: Report) -> list[dict[str, Any]]:
    """Every check of the other questions. A figure that is no number in JSON is a word."""
    return [
        {
            **{name: value for name, value in asdict(one).items() if name not in ("cell", "verdict")},
            **asdict(one.cell),
            "value": one.value if one.value is None or math.isfinite(one.value) else str(one.value),
        }
        for status in report.parts
        for one in status.checked
    ]


def print_markdown(report: Report, command: str) -> None:
    """At most ten lines for a pull request: the verdict, what is not right, what is, and the command."""
    troubled = [one for one in report.judgements if one.verdict.is_alarm or one.verdict is Verdict.UNJUDGED]
    lines = [(Part.LOGITS, f"{verdict}: {option}, {dtypes}: {what}") for verdict, option, dtypes, what in _grouped(troubled)]
    lines += [(row.part, f"{row.word}: {row.what}: {row.measure}") for row in _rows(report, is_full=False)]
    parts = dict.fromkeys(part for part, _ in lines)
    shown = [*parts][:LINES_OF_MARKDOWN]
    print(f"**{report.headline}** {report.subject}: {report.count}\n")
    if shown:
        print("| question | what is not right |\n|:--|:--|")
    for part in shown:
        own = [text.replace("\n", " ").replace("|", r"\|") for of, text in lines if of is part]
        more = f" (and {len(own) - 1} more)" if len(own) > 1 else ""
        print(f"| {part} | {own[0]}{more} |")
    if shown:
        print()
    rest = [f"also not right: {joined([*parts][LINES_OF_MARKDOWN:])}"] if len(parts) > len(shown) else []
    print(f"{'; '.join([*rest, *_right_parts(report)])}. `{command}`".lstrip(". "))


def _count(measured: Sequence[Judgement]) -> str:
    alarms = sum(one.verdict.is_alarm for one in measured)
    unjudged = sum(one.verdict is Verdict.UNJUDGED for one in measured)
    total = f"{len(measured)} {_configurations(len(measured))}"
    if alarms:
        return f"logits wrong in {alarms} of {total}" + (f", and {unjudged} could not be judged" if unjudged else "")
    if unjudged:
        return f"logits of {unjudged} of {total} could not be judged, none is known to be wrong"
    return f"logits right in {'all ' if len(measured) > 1 else ''}{total}"


def _configurations(number: int) -> str:
    return "configuration" if number == 1 else "configurations"


def _grouped(troubled: Sequence[Judgement]) -> Iterator[tuple[Verdict, str, str, str]]:
    """Verdict, options with wrapper, dtypes and what is wrong, with one row for all that agree in the last two."""
    groups = defaultdict(list)
    for one in troubled:
        groups[one.verdict, one.cell.option, one.cell.wrapper, "" if one.measurement else one.reason].append(one)
    several = len({one.cell.wrapper for one in troubled}) > 1
    rows: dict[tuple[Verdict, str, str, str], list[str]] = defaultdict(list)
    for (verdict, option, wrapper, reason), group in groups.items():
        dtypes = "\n".join(one.cell.dtype for one in group)
        rows[verdict, wrapper if several else "", dtypes, reason or _off(group)].append(option)
    for (verdict, of_wrapper, dtypes, what), options in rows.items():
        names = "every option" if len(options) == len(Option) else "\n".join(options)
        yield verdict, f"{names}\n{of_wrapper}".strip(), dtypes, what


def _off(group: Sequence[Judgement]) -> str:
    """How far a group's worst cell is off."""
    errors = [error.max for one in group if (error := one.error(Space.LOGIT))]
    off = [f"off by up to {max(errors):.3g} nats"] if errors else []
    judged = [one for one in group if one.ratio is not None]
    if judged:
        off.append(_times(max(judged, key=lambda one: one.ratio or 0.0)))
    return ", ".join(off) or "; ".join(sorted({one.reason for one in group}))


def _times(one: Judgement) -> str:
    of = "the spread of HuggingFace's own rounding" if one.judged_by is JudgedBy.HUGGINGFACE else "HuggingFace's own error"
    return f"{one.ratio:.4g} times {of}"


def print_table(console: Console, space: Space, judgements: Sequence[Judgement]) -> None:
    """One row per measured cell."""
    unit = "nats" if space is Space.LOGIT else "probability"
    title = f"Error against HuggingFace ({space}, {unit}) and against the golden"
    measured = _measured(judgements)
    lines = [_line(one, space) for one in measured]
    render.show(console, Format.RICH, title, COLUMNS, lines, [STYLES.get(one.verdict, "") for one in measured])


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
    return [word(one.verdict, one.judged_by), *astuple(one.cell)[1:], *errors, *figures, floor]


def _notes(judgements: Sequence[Judgement]) -> Iterator[str]:
    """What else to know: what does not exist or was not measured, and what the marks of figures mean."""
    by_reason = defaultdict(list)
    for one in judgements:
        was_told = one.verdict is Verdict.UNJUDGED or one.verdict is Verdict.FAILED
        if one.reason and not was_told:
            by_reason[one.reason].append(one)
    for reason, group in by_reason.items():
        verdicts = " and ".join(dict.fromkeys(one.verdict for one in group))
        yield f"{verdicts}: {len(group)} {_configurations(len(group))}: {reason}"
    if any(one.truth and one.truth.golden_precision != "float64" for one in judgements):
        yield f"{FLOAT32_GOLDEN}: against a float32 golden"
    if any(one.judged_by is JudgedBy.HUGGINGFACE for one in judgements):
        yield (
            f"{BY_HUGGINGFACE}: judged by HuggingFace's own rounding. The ratio is the distance from HuggingFace over the "
            "largest distance between HuggingFace and a variant of it (random rounding, reversed sums, threads, batch split)"
        )


def _measured(judgements: Sequence[Judgement]) -> list[Judgement]:
    """Those that exist here and have been run."""
    return [one for one in judgements if one.measurement or one.verdict.is_alarm]


def suspect(judgements: Sequence[Judgement]) -> Cell | None:
    """The wrong cell in which to look for the first wrong component: the plainest. None if there is none to look into."""
    wrong = [one.cell for one in judgements if one.measurement and one.verdict.is_alarm]
    return min(wrong, key=lambda cell: (list(Option).index(cell.option), list(Dtype).index(cell.dtype)), default=None)


def conclusion(judgements: Sequence[Judgement]) -> str:
    """One line: the result and what to do about it."""
    measured = _measured(judgements)
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
    return f"{one.cell} ({one.reason})" if one.ratio is None else f"{one.cell}, {_times(one)}"


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
