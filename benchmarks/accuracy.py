"""How far is TransformerLens from HuggingFace? The max, mean, median and std of the error, in three spaces."""

from benchmarks.cell import GridOfCells, accuracy
from tlbench import Space


class _InSpace(GridOfCells):
    """Four statistics of the error in one space."""

    def setup(self, *cell):
        super().setup(*cell)
        self.error = accuracy(self.measurement).space(self.space)

    def track_max(self, *cell):
        return self.error.max

    def track_mean(self, *cell):
        return self.error.mean

    def track_median(self, *cell):
        return self.error.median

    def track_std(self, *cell):
        return self.error.std


class Origin(_InSpace):
    """TransformerLens issue 496 exactly: softmax in the model's dtype, four prompts of four tokens."""

    space, unit = Space.ORIGIN, "probability"


class Probability(_InSpace):
    """Probability error: softmax in float64, natural text."""

    space, unit = Space.PROBABILITY, "probability"


class Logit(_InSpace):
    """Logit error: centred at each position, natural text."""

    space, unit = Space.LOGIT, "nats"


class Processing(GridOfCells):
    """What weight processing did: tensors changed (0: a no-op), and the constant logit shift, which softmax ignores."""

    unit = "nats"

    def track_changed_weights(self, *cell):
        return self.measurement.changed_weights

    def track_removed_shift(self, *cell):
        return accuracy(self.measurement).shift.max_abs

    def track_raw_max(self, *cell):
        return accuracy(self.measurement).shift.raw_max

    track_changed_weights.unit = "tensors"
