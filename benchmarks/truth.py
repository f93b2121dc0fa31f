"""How far is TransformerLens from the golden, and how far is HuggingFace itself?

The golden is the same function of the same rounded weights, evaluated in true float64.
"""

from benchmarks.cell import GridOfCells, GridOfReferences, skip_if


class _AgainstTheGolden:
    """Figures that both have, read from the ``measurement`` that a grid's setup leaves."""

    @property
    def truth(self):
        skip_if(self.measurement.lacks_golden, self.measurement.no_truth)
        return self.measurement.require_truth()

    def track_error_ratio(self, *cell):
        return self.truth.error_ratio

    def track_bits_lost(self, *cell):
        return self.truth.bits_lost

    def track_nonfinite(self, *cell):
        return self.measurement.nonfinite

    track_error_ratio.unit = "ratio"
    track_bits_lost.unit = "bits"
    track_nonfinite.unit = "logits"


class TransformerLens(GridOfCells, _AgainstTheGolden):
    """TransformerLens against the golden, with the total error that a user gets and a verdict."""

    @property
    def truth(self):
        skip_if(self.measurement.reference_nonfinite, self.measurement.no_accuracy)
        return super().truth

    def track_error_correlation(self, *cell):
        return self.truth.error_correlation

    def track_kl_nats(self, *cell):
        return self.truth.kl_nats

    def track_top1_flips(self, *cell):
        return self.truth.top1_flips

    def track_top1_ties(self, *cell):
        return self.truth.top1_ties

    def track_shift_spread(self, *cell):
        return self.truth.shift_spread

    def track_total_rms(self, *cell):
        return self.truth.total_rms

    def track_difference_rms(self, *cell):
        """The error of a logit difference between two of the ten likeliest tokens."""
        return self.truth.difference_rms

    def track_difference_p99(self, *cell):
        """The 99th percentile of that error."""
        return self.truth.difference_p99

    def track_verdict(self, *cell):
        """0 exact, 1 same rounding, 2 benign, 2.5 unjudged, 3 worse, 4 broken."""
        return self.measurement.severity

    track_error_correlation.unit = "correlation"
    track_kl_nats.unit = "nats"
    track_top1_flips.unit = "positions"
    track_top1_ties.unit = "positions"
    track_shift_spread.unit = "nats"
    track_total_rms.unit = "nats"
    track_difference_rms.unit = "nats"
    track_difference_p99.unit = "nats"
    track_verdict.unit = "severity"


class HuggingFace(GridOfReferences, _AgainstTheGolden):
    """HuggingFace itself, relative to its eager attention. A step here does not come from TransformerLens."""
