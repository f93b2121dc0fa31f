"""How far is TransformerLens from the exact answer, and how far is HuggingFace itself?

The exact answer (the golden) is the same function of the same rounded weights, evaluated in true float64.
"""

from benchmarks.cell import GridOfCells, GridOfReferences, skip_without_golden


class TransformerLens(GridOfCells):
    """TransformerLens against the golden, read from the one measurement of the cell."""

    version = "1"

    def setup(self, *cell):
        super().setup(*cell)
        skip_without_golden(self.measurement)

    def track_error_ratio(self, *cell):
        return self.measurement.require_truth().error_ratio

    def track_error_correlation(self, *cell):
        return self.measurement.require_truth().error_correlation

    def track_bits_lost(self, *cell):
        return self.measurement.require_truth().bits_lost

    def track_kl_nats(self, *cell):
        return self.measurement.require_truth().kl_nats

    def track_top1_flips(self, *cell):
        return self.measurement.require_truth().top1_flips

    def track_top1_ties(self, *cell):
        return self.measurement.require_truth().top1_ties

    def track_nonfinite(self, *cell):
        return self.measurement.nonfinite

    def track_shift_spread(self, *cell):
        return self.measurement.require_truth().shift_spread

    def track_total_rms(self, *cell):
        return self.measurement.require_truth().total_rms

    def track_verdict(self, *cell):
        return self.measurement.severity

    track_error_ratio.unit = "x HuggingFace's error"
    track_error_correlation.unit = "correlation"
    track_bits_lost.unit = "bits"
    track_kl_nats.unit = "nats"
    track_top1_flips.unit = "positions"
    track_top1_ties.unit = "positions"
    track_nonfinite.unit = "logits"
    track_shift_spread.unit = "nats"
    track_total_rms.unit = "nats"
    track_verdict.unit = "0 exact, 1 same rounding, 2 benign, 3 worse, 4 broken"


class HuggingFace(GridOfReferences):
    """HuggingFace itself, relative to its eager attention: a step here is not TransformerLens's."""

    version = "1"

    def setup(self, *cell):
        super().setup(*cell)
        skip_without_golden(self.measurement)

    def track_error_ratio(self, *cell):
        return self.measurement.require_truth().error_ratio

    def track_error_correlation(self, *cell):
        return self.measurement.require_truth().error_correlation

    def track_bits_lost(self, *cell):
        return self.measurement.require_truth().bits_lost

    def track_kl_nats(self, *cell):
        return self.measurement.require_truth().kl_nats

    def track_top1_flips(self, *cell):
        return self.measurement.require_truth().top1_flips

    def track_top1_ties(self, *cell):
        return self.measurement.require_truth().top1_ties

    def track_nonfinite(self, *cell):
        return self.measurement.nonfinite

    def track_shift_spread(self, *cell):
        return self.measurement.require_truth().shift_spread

    track_error_ratio.unit = "x its eager error"
    track_error_correlation.unit = "correlation"
    track_bits_lost.unit = "bits"
    track_kl_nats.unit = "nats"
    track_top1_flips.unit = "positions"
    track_top1_ties.unit = "positions"
    track_nonfinite.unit = "logits"
    track_shift_spread.unit = "nats"
