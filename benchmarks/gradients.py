"""How wrong are gradients of a logit difference, and what else people compute: head attributions and patch effects?"""

from benchmarks.cell import GridOfEnds, figure
from tlbench.questions.registry import GRADIENTS, READING


class Gradients(GridOfEnds):
    """Gradients at the embeddings and every block's input, against the golden gradients: the worst block."""

    question = GRADIENTS

    def track_error_ratio(self, *cell):
        return figure(self.measurement.worst_ratio, "")

    def track_error(self, *cell):
        return figure(self.measurement.worst.error, "")

    def track_error_correlation(self, *cell):
        return figure(self.measurement.worst.correlation, "")

    def track_one_less_cosine(self, *cell):
        return figure(self.measurement.worst.one_less_cosine, "")

    track_error_ratio.unit = "ratio"
    track_error.unit = "relative error"
    track_error_correlation.unit = "correlation"
    track_one_less_cosine.unit = "1 - cosine"


class Reading(GridOfEnds):
    """Errors in nats, to compare with the size of an effect."""

    question = READING
    unit = "nats"

    def track_logit_difference(self, *cell):
        return self._figure("logit_difference", self._error(self.measurement.logit_difference))

    def track_patch_effect(self, *cell):
        return self._figure("patch_effect", self._error(self.measurement.patch_effect))

    def track_head_attribution(self, *cell):
        return self._figure("head_attribution", self.measurement.head_attribution)

    def _error(self, pair):
        return pair and pair.error

    def _figure(self, name, value):
        return figure(value, self.measurement.reasons.get(name, ""))
