"""Is this implementation right? Every cell of one model on one TransformerLens, with a verdict and a conclusion."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tlbench.checkpoints import Checkpoint
from tlbench.environments import LensEnvironment, lens_environment
from tlbench.exceptions import BadInput, NoGolden
from tlbench.grid import Cell, Dtype, Option, Space
from tlbench.metrics.figures import RATIO_GATE, ErrorStatistics, Truth
from tlbench.metrics.verdict import JudgedBy, Verdict
from tlbench.questions.answers import Answers
from tlbench.questions.registry import ACCURACY, NOISE_FLOOR
from tlbench.records.measurement import Measurement, NoiseFloor
from tlbench.records.outcome import Kind
from tlbench.reference import golden
from tlbench.reference.golden import Weights


@dataclass(frozen=True)
class Judgement:
    """One cell with what is known of it.

    Attributes:
        cell: which cell.
        verdict: one word.
        measurement: its figures, if it could be measured.
        floor: the noise floor, if it could be measured.
        reason: why there are no figures, or no verdict.
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
        """What the verdict rests on."""
        return self.measurement.judged_by if self.measurement else JudgedBy.NOTHING

    @property
    def ratio(self) -> float | None:
        """How many times HuggingFace's own error or spread this cell's is, by what it was judged by."""
        if self.judged_by is JudgedBy.HUGGINGFACE:
            return self.measurement.closeness.ratio if self.measurement and self.measurement.closeness else None
        return self.truth.error_ratio if self.truth else None

    def error(self, space: Space) -> ErrorStatistics | None:
        """The error against HuggingFace."""
        accuracy = self.measurement.accuracy if self.measurement else None
        return accuracy.space(space) if accuracy else None

    def to_json(self, space: Space) -> dict[str, Any]:
        """One entry of ``cells`` in the command's JSON; absent figures are null."""
        truth, error = self.truth, self.error(space)
        return {
            "model": self.cell.model,
            "dtype": self.cell.dtype.value,
            "option": self.cell.option.value,
            "wrapper": self.cell.wrapper.value,
            "verdict": self.verdict.value,
            "judged_by": self.judged_by.value,
            "ratio": truth.error_ratio if truth else None,
            "correlation": truth.error_correlation if truth else None,
            "bits_lost": truth.bits_lost if truth else None,
            "kl_nats": truth.kl_nats if truth else None,
            "top1_flips": truth.top1_flips if truth else None,
            "nonfinite": self.measurement.nonfinite if self.measurement else None,
            "max": error.max if error else None,
            "mean": error.mean if error else None,
            "median": error.median if error else None,
            "std": error.std if error else None,
            "floor": self.floor.largest if self.floor else None,
            "golden": truth.golden_precision if truth else None,
            "closeness": asdict(closeness) if (closeness := self.measurement and self.measurement.closeness) else None,
            "reason": self.reason,
        }


def environment_for(tl: str, say: Callable[[str], None] = lambda _: None) -> LensEnvironment:
    """The environment of the TransformerLens that was asked for; without a wish, the one that tlbench runs in.

    Raises:
        BadInput: if it cannot be had.
    """
    if tl:
        return lens_environment(tl, say)
    if importlib.util.find_spec("transformer_lens") is None:
        raise BadInput(
            "no TransformerLens is installed beside tlbench: name one with --tl, a release such as 4.3.0, a commit, or the "
            "folder of a source tree"
        )
    return LensEnvironment(Path(sys.executable), "installed")


def prepare_golden(checkpoint: Checkpoint) -> None:
    """Compute the golden before anything else is loaded. Where there is none, each cell says why."""
    with suppress(NoGolden):
        golden.golden(checkpoint, Weights.ORIGINAL)


def judgement(answers: Answers) -> Judgement:
    """The verdict of a cell from its answers."""
    accuracy, floor = answers.outcomes[ACCURACY.name], answers.outcomes.get(NOISE_FLOOR.name)
    if accuracy.record is None:
        words = {Kind.NOT_APPLICABLE: Verdict.NOT_APPLICABLE, Kind.NOT_MEASURED: Verdict.NOT_MEASURED}
        verdict = words.get(accuracy.kind, Verdict.FAILED)
        return Judgement(answers.cell, verdict, None, None, accuracy.reason)
    measured = accuracy.record
    reason = measured.no_accuracy or measured.note
    t, h = measured.vocabulary
    if t != h:
        reason = (
            f"TransformerLens has {t} logits a position and HuggingFace {h}: the first {min(t, h)} are compared. {reason}"
        )
    return Judgement(answers.cell, measured.verdict, measured, floor.record if floor else None, reason.strip())


def conclusion(judgements: Sequence[Judgement]) -> str:
    """One line: what was found, and what to do about it."""
    measured = [one for one in judgements if one.measurement or one.verdict.is_alarm]
    if not measured:
        return "Nothing could be measured."
    alarms = [one for one in measured if one.verdict.is_alarm]
    unjudged = [one for one in measured if one.verdict is Verdict.UNJUDGED]
    if alarms:
        words = ", ".join(f"{sum(one.verdict is word for one in alarms)} {word}" for word in Verdict if _has(alarms, word))
        worst = max(alarms, key=_severity)
        return (
            f"{len(alarms)} of {len(measured)} configurations failed the check ({words}). Worst: {_told(worst)}. "
            f"{_advice(alarms)}{_unjudged(unjudged, measured)}"
        )
    if unjudged:
        return f"Nothing is known to be wrong, but not everything could be judged.{_unjudged(unjudged, measured)}"
    worst = max(measured, key=_severity)
    return (
        f"No configuration of {len(measured)} is worse than benign. Worst: {_told(worst)}. "
        f"Errors are of the size that rounding at these dtypes has; nothing needs to be done.{_by_huggingface(measured)}"
    )


def exit_status(judgements: Sequence[Judgement]) -> int:
    """0 where all that was measured is right, 1 where something is wrong, 3 where something is only unjudged."""
    if any(one.verdict.is_alarm for one in judgements):
        return 1
    return 3 if any(one.verdict is Verdict.UNJUDGED for one in judgements) else 0


def _unjudged(unjudged: Sequence[Judgement], measured: Sequence[Judgement]) -> str:
    if not unjudged:
        return ""
    errors = [error.max for one in unjudged if (error := one.error(Space.LOGIT))]
    largest = f" They are up to {max(errors):.4g} nats from HuggingFace's logits." if errors else ""
    return f" {len(unjudged)} of {len(measured)} are unjudged: {unjudged[0].reason}.{largest}"


def _by_huggingface(measured: Sequence[Judgement]) -> str:
    count = sum(one.judged_by is JudgedBy.HUGGINGFACE for one in measured)
    return f" {count} were judged by HuggingFace's own rounding, for want of a golden." if count else ""


def _has(judgements: Sequence[Judgement], word: Verdict) -> bool:
    return any(one.verdict is word for one in judgements)


def _severity(one: Judgement) -> tuple[bool, bool, float]:
    return one.verdict is Verdict.FAILED, one.verdict is Verdict.BROKEN, one.ratio or 0.0


def _told(one: Judgement) -> str:
    if one.ratio is None:
        return f"{one.cell} ({one.reason})"
    of = "the spread of HuggingFace's own rounding" if one.judged_by is JudgedBy.HUGGINGFACE else "HuggingFace's own error"
    return f"{one.cell}, {one.ratio:.4g} times {of}"


def _advice(alarms: Sequence[Judgement]) -> str:
    """Where to look first, from which cells are wrong."""
    cells = [one.cell for one in alarms]
    if all(one.verdict is Verdict.FAILED for one in alarms):
        return "They raised: the reason above says where."
    if any(cell.option is Option.UNPROCESSED and cell.dtype is Dtype.FLOAT32 for cell in cells):
        return (
            "float32 without any processing is wrong already: look at the translation of the configuration and of the "
            "weights, and at the forward pass (scale, epsilon, rotary base, masks, soft caps)."
        )
    options = sorted({cell.option.value for cell in cells if cell.option is not Option.UNPROCESSED})
    if any(cell.dtype is Dtype.FLOAT32 for cell in cells):
        return f"Unprocessed is right in float32, so look at what {', '.join(options)} does to the weights."
    if any(cell.option is Option.UNPROCESSED for cell in cells):
        return (
            "float32 is right, so the function is: look for what HuggingFace computes in float32 and TransformerLens in "
            "16 bits (norms, softmax, rotary tables). An error within "
            f"{RATIO_GATE[Dtype.FLOAT16]:g} times HuggingFace's is benign."
        )
    return f"Only 16 bits under {', '.join(options)} are wrong: process the weights in float32 and round once, at the end."
