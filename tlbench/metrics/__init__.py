"""Errors as numbers: formulas over tensors, statistics and verdicts. Knows nothing of models."""
