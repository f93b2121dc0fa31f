"""At which block does the error enter, and how does it grow from there?

No processing option changes what these quantities should be, so one golden serves all. The *propagated* error is that of the
model run from the tokens. The *local* error is that of a block fed its golden input, so only the block's own error shows.
"""

from benchmarks.cell import GridOfEnds, figure
from tlbench.questions.registry import DEPTH


class Depth(GridOfEnds):
    """Relative errors of the residual stream, attention, MLP, norms and patterns against the golden activations."""

    question = DEPTH

    def track_propagated_last(self, *cell):
        return figure(self.measurement.propagated_last, "n/a: no hook point returns the last block's output")

    def track_local_max(self, *cell):
        return figure(self._worst()[1], "n/a: no hook point fires")

    def track_local_argmax_block(self, *cell):
        return figure(self._worst()[0], "n/a: no hook point fires")

    def track_local_ratio_max(self, *cell):
        return figure(self.measurement.local_ratio, "n/a: no hook point fires")

    def track_growth_exponent(self, *cell):
        growth = self.measurement.growth
        return figure(growth and growth.exponent, "n/a: too few blocks have an error to fit a line")

    def track_routing_disagreement(self, *cell):
        return figure(self.measurement.routing_disagreement, "n/a: this model has no experts")

    def _worst(self):
        return self.measurement.worst_local or (None, None)

    track_propagated_last.unit = "relative error"
    track_local_max.unit = "relative error"
    track_local_argmax_block.unit = "block"
    track_local_ratio_max.unit = "ratio"
    track_growth_exponent.unit = "exponent"
    track_routing_disagreement.unit = "share of tokens"
