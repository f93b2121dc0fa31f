"""Are hooks, caches and generation faithful? Most checks need no reference: anything but 0 is an error."""

from benchmarks.cell import GridOfEnds, figure
from tlbench.questions.attempts import NOT_APPLICABLE
from tlbench.questions.registry import GENERATION, HOOKS


class Hooks(GridOfEnds):
    """What hook points promise, and interventions through them against the golden."""

    question = HOOKS

    def _figure(self, value, *attempts):
        reasons = [self.measurement.reasons[name] for name in attempts if name in self.measurement.reasons]
        # A failure comes before a not-applicable reason.
        return figure(value, "; ".join(sorted(reasons, key=lambda reason: reason.startswith(NOT_APPLICABLE))))

    def track_additivity(self, *cell):
        return self._figure(self.measurement.additivity, "sums")

    def track_pattern_rows(self, *cell):
        """0 if no entry is negative and every row has its sum: one, or with sinks, as in GPT-OSS, the golden's sum."""
        return self._figure(self.measurement.pattern_rows, "sums", "patterns")

    def track_final_logits(self, *cell):
        return self._figure(self.measurement.final, "final")

    def track_hook_disturbance(self, *cell):
        return self._figure(self.measurement.disturbance, "cache", "counts")

    def track_silent_hooks(self, *cell):
        return self._figure(len(self.measurement.silent) if self.measurement.n_hooks else None, "counts")

    def track_repeated_hooks(self, *cell):
        return self._figure(len(self.measurement.repeated) if self.measurement.n_hooks else None, "counts")

    def track_leftover_hooks(self, *cell):
        return self._figure(self.measurement.leftover if self.measurement.n_hooks else None, "counts")

    def track_stop_at_layer(self, *cell):
        return self._figure(self.measurement.stop_at_layer, "stop_at_layer")

    def track_start_at_layer(self, *cell):
        return self._figure(self.measurement.start_at_layer, "start_at_layer")

    def track_edit_ratio(self, *cell):
        return self._figure(self.measurement.edit_ratio, "edits")

    track_additivity.unit = "relative error"
    track_pattern_rows.unit = "probability"
    track_final_logits.unit = "relative error"
    track_hook_disturbance.unit = "nats"
    track_silent_hooks.unit = "hook points"
    track_repeated_hooks.unit = "hook points"
    track_leftover_hooks.unit = "hooks"
    track_stop_at_layer.unit = "residual stream"
    track_start_at_layer.unit = "nats"
    track_edit_ratio.unit = "ratio"


class Generation(GridOfEnds):
    """The key-value cache against the full forward pass, and greedy continuations against HuggingFace's."""

    question = GENERATION

    def track_cache_error(self, *cell):
        return figure(self.measurement.cache_error, self.measurement.reasons.get("steps", ""))

    def track_cache_error_growth(self, *cell):
        growth = self.measurement.growth
        return figure(growth and growth.exponent, "n/a: too few steps differ to fit a line")

    def track_wrong_tokens(self, *cell):
        return figure(self.measurement.wrong_tokens, self.measurement.reasons.get("greedy", ""))

    track_cache_error.unit = "nats"
    track_cache_error_growth.unit = "exponent"
    track_wrong_tokens.unit = "tokens"
