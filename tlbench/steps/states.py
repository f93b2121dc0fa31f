"""What an outcome says of its cell, as the rule of :mod:`tlbench.metrics.change` takes it."""

from __future__ import annotations

from tlbench.exceptions import CellFailed
from tlbench.grid import Cell
from tlbench.metrics.change import State
from tlbench.metrics.verdict import Verdict
from tlbench.records.measurement import Measurement
from tlbench.records.outcome import Kind, Outcome

States = dict[Cell, State]
_WORDS = {Kind.NOT_APPLICABLE: Verdict.NOT_APPLICABLE, Kind.NOT_MEASURED: Verdict.NOT_MEASURED, Kind.FAILED: Verdict.FAILED}


def fingerprint(measurement: Measurement) -> str:
    """A hash that is equal for equal logits. Raises CellFailed if the record has none."""
    if measurement.fingerprint is None:
        raise CellFailed(
            f"the record of {measurement.cell} has no hash of its logits: set TLBENCH_REMEASURE=1 and run again"
        )
    return measurement.fingerprint.tl


def state_of(outcome: Outcome[Measurement], environment: str) -> State:
    """What an outcome says of its cell."""
    if (record := outcome.record) is None:
        return State(_WORDS[outcome.kind], environment=environment, reason=outcome.reason)
    floor = record.truth.reference_rms if record.truth else record.closeness.spread_rms if record.closeness else 0.0
    return State(
        record.verdict,
        fingerprint(record),
        record.accuracy.logit.mean if record.accuracy else None,
        floor,
        environment,
        record.no_accuracy or record.note,
    )
