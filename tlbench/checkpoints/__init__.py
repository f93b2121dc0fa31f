"""Checkpoints that never change: where they lie, how they are made and verified."""

from tlbench.checkpoints.store import Checkpoint, ensure, locate

__all__ = ["Checkpoint", "ensure", "locate"]
