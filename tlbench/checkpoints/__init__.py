"""Immutable checkpoints: where they are stored, and how they are made and verified."""

from tlbench.checkpoints.store import Checkpoint, ensure, locate, named

__all__ = ["Checkpoint", "ensure", "locate", "named"]
