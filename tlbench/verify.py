"""Is this implementation right? Every cell of one model on one TransformerLens, with a verdict and a conclusion."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlbench.apart import Answers
from tlbench.cells import Cell, Dtype, Option, Space
from tlbench.checkpoints import Checkpoint
from tlbench.environments import LensEnvironment, lens_environment
from tlbench.exceptions import BadInput, NoGolden
from tlbench.figures import RATIO_GATE, ErrorStatistics, Truth
from tlbench.memo import ACCURACY, NOISE_FLOOR, Kind
from tlbench.record import Measurement, NoiseFloor
from tlbench.reference import golden
from tlbench.reference.golden import Weights
from tlbench.verdict import Verdict


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
    """Compute the exact answer before anything else is loaded. Where there is none, each cell says why."""
    with suppress(NoGolden):
        golden.golden(checkpoint, Weights.ORIGINAL)


def judgement(answers: Answers) -> Judgement:
    """The verdict of a cell from its answers."""
    accuracy, floor = answers.outcomes[ACCURACY.name], answers.outcomes.get(NOISE_FLOOR.name)
    if accuracy.record is None:
        verdict = Verdict.NOT_APPLICABLE if accuracy.kind is Kind.NOT_APPLICABLE else Verdict.FAILED
        return Judgement(answers.cell, verdict, None, None, accuracy.reason)
    measured = accuracy.record
    reason = measured.no_accuracy or measured.no_truth
    t, h = measured.vocabulary
    if t != h:
        reason = (
            f"TransformerLens has {t} logits a position and HuggingFace {h}: the first {min(t, h)} are compared. {reason}"
        )
    return Judgement(answers.cell, measured.verdict, measured, floor.record if floor else None, reason.strip())


def conclusion(judgements: Sequence[Judgement]) -> str:
    """One line: what was found, and what to do about it."""
    measured = [one for one in judgements if one.measurement or one.verdict.is_alarm]
    alarms = [one for one in measured if one.verdict.is_alarm]
    if not measured:
        return "Nothing could be measured."
    if alarms:
        words = ", ".join(f"{sum(one.verdict is word for one in alarms)} {word}" for word in Verdict if _has(alarms, word))
        worst = max(alarms, key=_severity)
        return f"{len(alarms)} of {len(measured)} cells are not right ({words}). Worst: {_told(worst)}. {_advice(alarms)}"
    judged = [one for one in measured if one.truth]
    if not judged:
        errors = [error.max for one in measured if (error := one.error(Space.LOGIT))]
        largest = f" The largest difference from HuggingFace's logits is {max(errors):.4g} nats." if errors else ""
        return f"Of {len(measured)} cells that were measured none could be judged: {measured[0].reason}.{largest}"
    worst = max(judged, key=_severity)
    return (
        f"No cell of {len(measured)} is worse than benign. Worst: {_told(worst)}. "
        "Errors are of the size that rounding at these dtypes has; nothing needs to be done."
    )


def _has(judgements: Sequence[Judgement], word: Verdict) -> bool:
    return any(one.verdict is word for one in judgements)


def _severity(one: Judgement) -> tuple[bool, bool, float]:
    return one.verdict is Verdict.FAILED, one.verdict is Verdict.BROKEN, one.truth.error_ratio if one.truth else 0.0


def _told(one: Judgement) -> str:
    if one.truth is None:
        return f"{one.cell} ({one.reason})"
    return f"{one.cell}, {one.truth.error_ratio:.4g} times HuggingFace's own error"


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
