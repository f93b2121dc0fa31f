"""Error formulas over tensors, statistics and verdicts. No models here."""
