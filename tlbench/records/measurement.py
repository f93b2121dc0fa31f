"""Records of error measurements: frozen values."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from tlbench.exceptions import NoGolden, NonFiniteLogits
from tlbench.grid import Cell, ReferenceCell, Space
from tlbench.metrics.distribution import Distribution, Fingerprint
from tlbench.metrics.figures import Closeness, ErrorStatistics, Shift, Truth
from tlbench.metrics.verdict import Evidence, JudgedBy, Verdict, judge, judged_by

ACCURACY = "accuracy"  # the name of the question that :class:`Measurement` answers


@dataclass(frozen=True)
class Accuracy:
    """The error against HuggingFace.

    Attributes:
        origin: TransformerLens issue 496's statistics, on that issue's prompts, in the model's dtype.
        probability: statistics of the probability error on natural text.
        logit: statistics of the centred logit error on natural text.
    """

    origin: ErrorStatistics
    probability: ErrorStatistics
    logit: ErrorStatistics
    shift: Shift

    def space(self, space: Space) -> ErrorStatistics:
        """The statistics in one space."""
        statistics: ErrorStatistics = getattr(self, space.value)
        return statistics


@dataclass(frozen=True)
class Measurement:
    """Everything measured for one cell, from one load and one forward pass per prompt set.

    Attributes:
        changed_weights: number of weight tensors that processing changed. 0 under any option but ``unprocessed`` is a no-op.
        nonfinite: number of NaN or infinite logits from TransformerLens; ``reference_nonfinite``, from HuggingFace.
        vocabulary: logits per position of TransformerLens and of HuggingFace. The smaller number is compared.
        accuracy: the error against HuggingFace; None, with ``no_accuracy`` why, if any logit of either is not finite.
        truth: the distance from the golden; None, with ``no_truth`` why, if there is no golden, or no accuracy.
        reference_fault: why HuggingFace itself is wrong; "" if it is right or no golden can tell.
        closeness: the distance from HuggingFace over its variants'. Only without a golden, or if HuggingFace is wrong.
        remark: what else to know: constants of TransformerLens that are not the checkpoint's, or a HuggingFace that is two
            functions. "" if nothing.
        distribution: how the errors against the golden are distributed; None if they were not measured.
        fingerprint: hashes of the logits; None if they were not measured.
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
    remark: str = ""
    distribution: Distribution | None = None
    fingerprint: Fingerprint | None = None

    @property
    def is_no_op(self) -> bool:
        """Whether the option should have changed weights and changed none."""
        return self.changed_weights == 0 and any(self.cell.option.flags().values())

    @property
    def evidence(self) -> Evidence:
        """Everything the verdict is based on."""
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
        """The verdict in one word."""
        return judge(self.evidence)

    @property
    def judged_by(self) -> JudgedBy:
        """What the verdict is based on."""
        return judged_by(self.evidence)

    @property
    def note(self) -> str:
        """Why the verdict is not based on a float64 golden and a correct reference; "" if it is."""
        is_makeshift = self.truth is not None and self.truth.golden_precision != "float64"
        makeshift = "the golden is float32: no float64 golden is available here" if is_makeshift else ""
        return self.reference_fault or self.no_truth or makeshift

    @property
    def lacks_golden(self) -> bool:
        """Whether the figures against the golden are missing only for lack of a golden."""
        return self.accuracy is not None and self.truth is None

    @property
    def is_final(self) -> bool:
        """Whether another run would find the same. False if the amount of free memory decided what was measured."""
        return self.accuracy is None or (self.truth is not None and self.truth.golden_precision == "float64")

    @property
    def severity(self) -> float:
        """The verdict as a number, ignoring whether the option is a no-op; see :attr:`Verdict.severity`."""
        return judge(dataclasses.replace(self.evidence, no_op=False)).severity

    def require_accuracy(self) -> Accuracy:
        """The error against HuggingFace. Raises NonFiniteLogits if there is none."""
        if self.accuracy is None:
            raise NonFiniteLogits(self.no_accuracy)
        return self.accuracy

    def require_truth(self) -> Truth:
        """The distance from the golden. Raises NonFiniteLogits if a logit is not finite, NoGolden if there is no golden."""
        self.require_accuracy()
        if self.truth is None:
            raise NoGolden(self.no_truth)
        return self.truth


@dataclass(frozen=True)
class ReferenceMeasurement:
    """HuggingFace itself against the golden. Shows whether a step is HuggingFace's or TransformerLens's.

    Attributes:
        nonfinite: number of NaN or infinite logits.
        truth: the figures, relative to ``eager`` attention; None, with ``no_truth`` why, if there are none.
    """

    cell: ReferenceCell
    nonfinite: int
    truth: Truth | None = None
    no_truth: str = ""

    @property
    def lacks_golden(self) -> bool:
        """Whether only a golden is missing."""
        return not self.nonfinite and self.truth is None

    @property
    def is_final(self) -> bool:
        """See :attr:`Measurement.is_final`."""
        return bool(self.nonfinite) or (self.truth is not None and self.truth.golden_precision == "float64")

    def require_truth(self) -> Truth:
        """The distance from the golden. Raises what :meth:`Measurement.require_truth` raises."""
        if self.truth is None:
            raise (NonFiniteLogits if self.nonfinite else NoGolden)(self.no_truth)
        return self.truth


@dataclass(frozen=True)
class NoiseFloor:
    """How much one cell's logits differ between runs that should agree: the largest difference, in nats.

    Attributes:
        repeat: the same forward pass again, in the same process.
        threads: one thread against two.
        batch: each sequence alone against all in one batch.
        attention: HuggingFace's eager attention against its default, at the cell's dtype.
    """

    cell: Cell
    repeat: float
    threads: float
    batch: float
    attention: float

    @property
    def largest(self) -> float:
        """The largest of the three that are TransformerLens's own."""
        return max(self.repeat, self.threads, self.batch)


@dataclass(frozen=True)
class ErrorBudget:
    """One cell's total error, split by switching on one source of rounding at a time. All are rms, in nats.

    The four parts and ``unexplained`` add up to the total, entry by entry. If they are independent, their root sum of
    squares is close to ``total``.

    Attributes:
        total: TransformerLens's logits against the golden of the weights as stored in the file.
        weight_rounding: the golden of the weights rounded to the dtype, against the golden of the stored weights.
        weight_processing: the processed weights and tables run in float64, against the golden of the rounded weights.
        forward_arithmetic: what computing the residual stream at the dtype adds, with the unembedding in float64.
        final_rounding: what rounding these logits to the dtype adds.
        unexplained: the rest, which is the arithmetic of the unembedding.
        rotary_tables: what float32 loses of the golden's rotary frequencies, in HuggingFace and in TransformerLens.
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
        """The total if the parts were independent."""
        weights = (self.weight_rounding, self.weight_processing)
        return math.hypot(*weights, self.forward_arithmetic, self.final_rounding, self.unexplained)
