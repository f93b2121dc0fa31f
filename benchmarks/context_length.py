"""How does the error grow with the sequence, from one token to the model's longest context?"""

from benchmarks.cell import GridOfEnds, figure
from tlbench.questions.registry import CONTEXT_LENGTH


class ContextLength(GridOfEnds):
    """Errors against the golden by length: rms of the centred logits."""

    question = CONTEXT_LENGTH
    unit = "ratio"

    def track_longest(self, *cell):
        return figure(self.measurement.errors[self.measurement.longest], "")

    def track_largest_ratio(self, *cell):
        return figure(self.measurement.largest_ratio, "n/a: HuggingFace has no error at any length")

    def track_growth_exponent(self, *cell):
        growth = self.measurement.growth
        return figure(growth and growth.exponent, "n/a: too few lengths have an error to fit a line")

    def track_left_padding(self, *cell):
        return figure(self.measurement.left_padding, self.measurement.reasons.get("left_padding", ""))

    def track_past_window(self, *cell):
        return self._at("window", "no sliding window shorter than its longest context")

    def track_past_rotary_table(self, *cell):
        return self._at("rotary_table", "no rotary table that grows within its longest context")

    def track_table_end(self, *cell):
        return self._at("table_end", "no learned position table")

    def _at(self, edge, absent):
        return figure(self.measurement.ratio_at(edge), f"n/a: this model has {absent}, or the run stopped before it")

    track_longest.unit = "nats"
    track_growth_exponent.unit = "exponent"
    track_left_padding.unit = "nats"
