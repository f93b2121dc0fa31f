"""How much do runs that should agree differ? No error below this floor means anything."""

from benchmarks.cell import GridOfEnds
from tlbench.questions.registry import NOISE_FLOOR


class NoiseFloor(GridOfEnds):
    """The largest difference of the centred logits between two runs. Needs its own load and four forward passes."""

    question = NOISE_FLOOR
    unit = "nats"

    def track_repeat(self, *cell):
        return self.measurement.repeat

    def track_threads(self, *cell):
        return self.measurement.threads

    def track_batch(self, *cell):
        return self.measurement.batch

    def track_attention(self, *cell):
        return self.measurement.attention
