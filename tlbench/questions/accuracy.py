"""The error of a cell: one load, one forward pass per prompt set, every statistic."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from tlbench.checkpoints import Checkpoint, named
from tlbench.exceptions import CellFailed, NoGolden, NonFiniteLogits
from tlbench.grid import Attention, Cell, Dtype, ReferenceCell
from tlbench.metrics import hf_error as errors
from tlbench.metrics import percentiles
from tlbench.metrics.closeness import closeness
from tlbench.metrics.distribution import Fingerprint
from tlbench.metrics.figures import Closeness, Truth
from tlbench.metrics.golden_error import against_truth
from tlbench.questions.loading import Loaded, forward, load_cell
from tlbench.records.measurement import Accuracy, Measurement, ReferenceMeasurement
from tlbench.reference import golden, huggingface, routing, soundness
from tlbench.reference.golden import Weights


def measure(cell: Cell, loaded: Loaded | None = None) -> Measurement:
    """Measure the installed TransformerLens's error in one cell. Deterministic on a CPU.

    Raises what :func:`load_cell` raises, and CellFailed if running the model raised.
    """
    checkpoint, model = loaded or load_cell(cell, [Attention.EAGER])
    reference = huggingface.reference_logits(checkpoint, cell.dtype, Attention.EAGER)
    t = {name: forward(model, huggingface.tokens(checkpoint, name)) for name in huggingface.PROMPT_SETS}
    fingerprint = Fingerprint(percentiles.fingerprint(t["natural"]), percentiles.fingerprint(reference["natural"]))
    vocabulary = (t["natural"].shape[-1], reference["natural"].shape[-1])
    for name, logits in t.items():
        t[name], reference[name] = errors.over_common_vocabulary(logits, reference[name])
    measured = Measurement(
        cell=cell,
        changed_weights=model.changed_weights,
        nonfinite=sum(errors.count_nonfinite(logits) for logits in t.values()),
        reference_nonfinite=sum(errors.count_nonfinite(logits) for logits in reference.values()),
        vocabulary=vocabulary,
        remark=model.other_constants,
        fingerprint=fingerprint,
    )
    natural = (t["natural"], reference["natural"])
    try:
        accuracy = Accuracy(
            origin=errors.origin_error(t["origin"], reference["origin"]),
            probability=errors.probability_error(*natural),
            logit=errors.logit_error(*natural),
            shift=errors.removed_shift(*natural),
        )
    except NonFiniteLogits as error:
        return replace(measured, no_accuracy=str(error), no_truth=str(error))
    remark = ". ".join(filter(None, (model.other_constants, soundness.other_function(checkpoint))))
    fault = soundness.reference_fault(checkpoint)
    measured = replace(measured, accuracy=accuracy, reference_fault=fault, remark=remark)
    try:
        truth, g = _truth(checkpoint, cell.dtype, *natural)
        spread = percentiles.distribution(*natural, g, huggingface.tokens(checkpoint, "natural"))
        measured = replace(measured, truth=truth, distribution=spread)
    except NoGolden as error:
        measured = replace(measured, no_truth=str(error))
    if measured.truth is None or measured.reference_fault:
        measured = replace(measured, closeness=_closeness(checkpoint, cell.dtype, *natural))
    return measured


def measure_reference(cell: ReferenceCell) -> ReferenceMeasurement:
    """Measure HuggingFace's own distance from the golden, with one of its attention implementations.

    Raises what :func:`named` raises, and CellFailed if HuggingFace cannot run the model.
    """
    checkpoint = named(cell.model)
    h = huggingface.reference_logits(checkpoint, cell.dtype, cell.attention)["natural"]
    eager = huggingface.reference_logits(checkpoint, cell.dtype, Attention.EAGER)["natural"]
    nonfinite, eager_nonfinite = errors.count_nonfinite(h), errors.count_nonfinite(eager)
    if nonfinite or eager_nonfinite:
        which = "" if nonfinite else " with eager attention, which its error is relative to"
        reason = f"HuggingFace returned {nonfinite or eager_nonfinite} non-finite logits{which}"
        return ReferenceMeasurement(cell, nonfinite, no_truth=reason)
    try:
        return ReferenceMeasurement(cell, nonfinite, _truth(checkpoint, cell.dtype, h, eager)[0])
    except NoGolden as error:
        return ReferenceMeasurement(cell, nonfinite, no_truth=str(error))


def _truth(checkpoint: Checkpoint, dtype: Dtype, t: Tensor, h: Tensor) -> tuple[Truth, Tensor]:
    """The figures against the golden of the rounded weights, and its logits."""
    g = golden.golden(checkpoint, Weights(dtype))
    original = golden.golden(checkpoint, Weights.ORIGINAL)
    d_vocab = t.shape[-1]
    rounded = g.logits[..., :d_vocab]
    in_file = rounded if g.is_same_file(original) else original.logits[..., :d_vocab]
    settled = routing.settled(g.margins, dtype) if checkpoint.has_experts else None
    return against_truth(t, h, rounded, in_file, dtype, g.precision.value, settled=settled), rounded


def _closeness(checkpoint: Checkpoint, dtype: Dtype, t: Tensor, h: Tensor) -> Closeness:
    try:
        variants = huggingface.reference_variants(checkpoint, dtype)
    except CellFailed:
        variants = {}  # the cell stays unjudged
    return closeness(t, h, variants, dtype, has_experts=checkpoint.has_experts)
