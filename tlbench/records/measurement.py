"""What is kept of an error's measurement: frozen values."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from tlbench.exceptions import NoGolden, NonFiniteLogits
from tlbench.grid import Cell, ReferenceCell, Space
from tlbench.metrics.figures import Closeness, ErrorStatistics, Shift, Truth
from tlbench.metrics.verdict import Evidence, JudgedBy, Verdict, judge, judged_by

ACCURACY = "accuracy"
"""The name of the question that :class:`Measurement` answers."""


@dataclass(frozen=True)
class Accuracy:
    """The error against HuggingFace.

    Attributes:
        origin: TransformerLens issue 496's statistics, on its own prompts, in the model's dtype.
        probability: statistics of the probabilities' error on natural text.
        logit: statistics of the centred logits' error on natural text.
        shift: what centring removed.
    """

    origin: ErrorStatistics
    probability: ErrorStatistics
    logit: ErrorStatistics
    shift: Shift

    def space(self, space: Space) -> ErrorStatistics:
        """The statistics of one space."""
        statistics: ErrorStatistics = getattr(self, space.value)
        return statistics


@dataclass(frozen=True)
class Measurement:
    """Everything measured of one cell, by one load and one forward of each prompt set.

    Attributes:
        cell: which cell it is.
        changed_weights: weight tensors that processing changed; 0 under any option but ``unprocessed`` is a no-op.
        nonfinite: TransformerLens's logits that are NaN or infinite.
        reference_nonfinite: HuggingFace's that are.
        vocabulary: logits a position of TransformerLens and of HuggingFace; the smaller number of them is compared.
        accuracy: the error against HuggingFace; None where a logit of either is not finite.
        no_accuracy: the reason then.
        truth: the distance from the golden; None where there is none, or no accuracy.
        no_truth: the reason then.
        reference_fault: why HuggingFace itself is wrong; "" where it is right, or no golden can tell.
        closeness: the distance from HuggingFace beside its variants'; only where there is no golden, or it finds HuggingFace
            wrong.
    """

    cell: Cell
    changed_weights: int
    nonfinite: int
    reference_nonfinite: int
    vocabulary: tuple[int, int]
    accuracy: Accuracy | None = None
    no_accuracy: str = ""
    truth: Truth | None = None
    no_truth: str = ""
    reference_fault: str = ""
    closeness: Closeness | None = None

    @property
    def is_no_op(self) -> bool:
        """Whether the option was to change weights and changed none."""
        return self.changed_weights == 0 and any(self.cell.option.flags().values())

    @property
    def evidence(self) -> Evidence:
        """All that its verdict is given on."""
        return Evidence(
            dtype=self.cell.dtype,
            nonfinite=self.nonfinite,
            reference_nonfinite=self.reference_nonfinite,
            no_op=self.is_no_op,
            truth=self.truth,
            closeness=self.closeness,
            reference_fault=self.reference_fault,
        )

    @property
    def verdict(self) -> Verdict:
        """One word for it."""
        return judge(self.evidence)

    @property
    def judged_by(self) -> JudgedBy:
        """What the verdict rests on."""
        return judged_by(self.evidence)

    @property
    def note(self) -> str:
        """Why the verdict does not rest on a float64 golden and a reference that is right; "" where it does."""
        if self.reference_fault or self.no_truth:
            return self.reference_fault or self.no_truth
        if self.truth is not None and self.truth.golden_precision != "float64":
            return "the golden was computed in float32, since a float64 one cannot be had here"
        return ""

    @property
    def lacks_golden(self) -> bool:
        """Whether all that is missing for the figures against it is a golden."""
        return self.accuracy is not None and self.truth is None

    @property
    def is_final(self) -> bool:
        """Whether another run would find the same: not where what memory was free decided what was measured."""
        return self.accuracy is None or (self.truth is not None and self.truth.golden_precision == "float64")

    @property
    def severity(self) -> float:
        """The verdict as a number, whether or not the option is a no-op; see :attr:`Verdict.severity`."""
        return judge(dataclasses.replace(self.evidence, no_op=False)).severity

    def require_accuracy(self) -> Accuracy:
        """The error against HuggingFace.

        Raises:
            NonFiniteLogits: if there is none.
        """
        if self.accuracy is None:
            raise NonFiniteLogits(self.no_accuracy)
        return self.accuracy

    def require_truth(self) -> Truth:
        """The distance from the exact answer.

        Raises:
            NonFiniteLogits: if a logit is not finite.
            NoGolden: if there is no exact answer.
        """
        self.require_accuracy()
        if self.truth is None:
            raise NoGolden(self.no_truth)
        return self.truth


@dataclass(frozen=True)
class ReferenceMeasurement:
    """HuggingFace itself against the truth: what shows whether a step is its own or TransformerLens's.

    Attributes:
        cell: which model, dtype and attention.
        nonfinite: its logits that are NaN or infinite.
        truth: the figures, relative to ``eager`` attention; None where there are none.
        no_truth: the reason then.
    """

    cell: ReferenceCell
    nonfinite: int
    truth: Truth | None = None
    no_truth: str = ""

    @property
    def lacks_golden(self) -> bool:
        """Whether all that is missing is a golden."""
        return not self.nonfinite and self.truth is None

    @property
    def is_final(self) -> bool:
        """As :attr:`Measurement.is_final`."""
        return bool(self.nonfinite) or (self.truth is not None and self.truth.golden_precision == "float64")

    def require_truth(self) -> Truth:
        """The distance from the exact answer.

        Raises:
            NonFiniteLogits: if a logit is not finite.
            NoGolden: if there is no exact answer.
        """
        if self.truth is None:
            raise (NonFiniteLogits if self.nonfinite else NoGolden)(self.no_truth)
        return self.truth


@dataclass(frozen=True)
class NoiseFloor:
    """What one cell's logits differ by between runs that should agree. All in nats, the largest over every entry.

    Attributes:
        cell: which cell.
        repeat: the same forward again, in the same process.
        threads: one thread against two.
        batch: each sequence alone against all in one batch.
        attention: HuggingFace's eager against its default attention, at the cell's dtype.
    """

    cell: Cell
    repeat: float
    threads: float
    batch: float
    attention: float

    @property
    def largest(self) -> float:
        """The largest of TransformerLens's own three."""
        return max(self.repeat, self.threads, self.batch)


@dataclass(frozen=True)
class ErrorBudget:
    """One cell's total error, split by switching one source of rounding on at a time. All rms, in nats.

    The four parts and ``unexplained`` add up, entry by entry, to the total: so their root sum of squares is near
    ``total_rms`` where they are independent.

    Attributes:
        cell: which cell.
        total: TransformerLens's logits against the exact function of the weights as they are in the file.
        weight_rounding: the exact function of the weights rounded to the dtype, against that of those in the file.
        weight_processing: the function that TransformerLens's processed weights and tables define, in float64,
            against the former.
        forward_arithmetic: what computing the residual stream at the dtype adds, with the unembedding in float64.
        final_rounding: what rounding these logits to the dtype adds.
        unexplained: the rest: the arithmetic of the unembedding itself.
        rotary_tables: what of the exact function's rotary frequencies float32 loses; a part of HuggingFace's and
            TransformerLens's error alike.
    """

    cell: Cell
    total: float
    weight_rounding: float
    weight_processing: float
    forward_arithmetic: float
    final_rounding: float
    unexplained: float
    rotary_tables: float

    @property
    def root_sum_of_squares(self) -> float:
        """What the total would be if the parts were independent."""
        weights = (self.weight_rounding, self.weight_processing)
        return math.hypot(*weights, self.forward_arithmetic, self.final_rounding, self.unexplained)
