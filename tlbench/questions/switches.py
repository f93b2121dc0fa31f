"""Do TransformerLens's own switches leave the logits alone?"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from tlbench import lens as lenses
from tlbench.exceptions import CellFailed, NotApplicable
from tlbench.grid import Cell, Option
from tlbench.lens.interface import Switch
from tlbench.metrics.agreement import largest_difference
from tlbench.questions.attempts import Attempts
from tlbench.questions.loading import Loaded, forward, load_cell
from tlbench.records.promises import Switches
from tlbench.reference import huggingface

REFACTOR = "refactor_factored_attn_matrices"


def measure_switches(cell: Cell, loaded: Loaded | None = None) -> Switches:
    """Turn on one switch at a time: six forward passes, and one more load.

    Raises what :func:`load_cell` raises, and CellFailed if running the model raised.
    """
    checkpoint, lens = loaded or load_cell(cell)
    ids = huggingface.tokens(checkpoint, "natural")
    plain = forward(lens, ids)
    attempts = Attempts(lens.inputs.task)

    def switched(switch: Switch) -> float:
        with lens.switched(switch):
            return largest_difference(forward(lens, ids), plain)

    def refactored() -> float:
        other = lenses.load(replace(cell, option=Option.UNPROCESSED), checkpoint, readback=False)
        try:
            other.process(cell.option, refactor=True)
        except CellFailed as error:
            if "AssertionError" in str(error):  # it refuses rotary positions and grouped queries in this way
                raise NotApplicable(str(error)) from error
            raise
        return largest_difference(forward(other, ids), plain)

    figures = {switch.value: attempts.attempt(switch.value, partial(switched, switch)) for switch in Switch}
    with torch.inference_mode():
        figures[REFACTOR] = attempts.attempt(REFACTOR, refactored)
    return Switches(cell, **figures, reasons=attempts.reasons)
