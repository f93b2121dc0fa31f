"""The questions about errors. The questions about costs are in :mod:`tlbench.costs.registry`."""

from __future__ import annotations

from typing import Any

from tlbench.grid import Attention, Cell, ReferenceCell
from tlbench.questions.question import Question
from tlbench.records import measurement
from tlbench.records.depth_profile import DepthProfile
from tlbench.records.inside import ContextLength, Generation, Gradients, HookTruth, Reading
from tlbench.records.measurement import ErrorBudget, Measurement, NoiseFloor, ReferenceMeasurement
from tlbench.records.promises import Accessors, Backward, Causality, Decomposition, HeldMemory, Loss, Padding, Switches

_HERE = "tlbench.questions"
_EAGER = (Attention.EAGER,)
_GOLDEN = "tlbench.reference.golden:compute_ahead"
_REFERENCE = "tlbench.reference.huggingface:compute_ahead"
_INSIDE = "tlbench.reference.activations:compute_ahead"

ACCURACY = Question[Cell, Measurement](
    measurement.ACCURACY, Cell, f"{_HERE}.accuracy:measure", Measurement, _EAGER, _GOLDEN, _REFERENCE
)
REFERENCE = Question[ReferenceCell, ReferenceMeasurement](
    "reference", ReferenceCell, f"{_HERE}.accuracy:measure_reference", ReferenceMeasurement
)
NOISE_FLOOR = Question[Cell, NoiseFloor](
    "noise-floor", Cell, f"{_HERE}.noise_floor:measure_floor", NoiseFloor, tuple(Attention)
)
ERROR_BUDGET = Question[Cell, ErrorBudget](
    "error-budget", Cell, f"{_HERE}.error_budget:measure_budget", ErrorBudget, golden=_GOLDEN
)
DEPTH = Question[Cell, DepthProfile]("depth", Cell, f"{_HERE}.depth:measure_depth", DepthProfile, golden=_INSIDE)
HOOKS = Question[Cell, HookTruth]("hooks", Cell, f"{_HERE}.hooks:measure_hooks", HookTruth, golden=_INSIDE)
READING = Question[Cell, Reading]("reading", Cell, f"{_HERE}.reading:measure_reading", Reading, _EAGER)
GENERATION = Question[Cell, Generation]("generation", Cell, f"{_HERE}.generation:measure_generation", Generation)
GRADIENTS = Question[Cell, Gradients]("gradients", Cell, f"{_HERE}.gradients:measure_gradients", Gradients, golden=_INSIDE)
CONTEXT_LENGTH = Question[Cell, ContextLength](
    "context-length", Cell, f"{_HERE}.context_length:measure_context", ContextLength
)
CAUSALITY = Question[Cell, Causality](
    "causality", Cell, f"{_HERE}.causality:measure_causality", Causality, (Attention.DEFAULT,)
)
PADDING = Question[Cell, Padding]("padding", Cell, f"{_HERE}.padding:measure_padding", Padding)
LOSS = Question[Cell, Loss]("loss", Cell, f"{_HERE}.loss:measure_loss", Loss, _EAGER)
SWITCHES = Question[Cell, Switches]("switches", Cell, f"{_HERE}.switches:measure_switches", Switches)
BACKWARD = Question[Cell, Backward]("backward-hooks", Cell, f"{_HERE}.backward_hooks:measure_backward_hooks", Backward)
DECOMPOSITION = Question[Cell, Decomposition](
    "decomposition", Cell, f"{_HERE}.decomposition:measure_decomposition", Decomposition
)
ACCESSORS = Question[Cell, Accessors]("accessors", Cell, f"{_HERE}.accessors:measure_accessors", Accessors)
HELD_MEMORY = Question[Cell, HeldMemory]("held-memory", Cell, f"{_HERE}.held_memory:measure_held_memory", HeldMemory)

QUESTIONS: dict[str, Question[Any, Any]] = {
    question.name: question
    for question in (
        *(ACCURACY, REFERENCE, NOISE_FLOOR, ERROR_BUDGET),
        *(DEPTH, HOOKS, READING, GENERATION, GRADIENTS, CONTEXT_LENGTH),
        *(CAUSALITY, PADDING, LOSS, SWITCHES, BACKWARD, DECOMPOSITION, ACCESSORS, HELD_MEMORY),
    )
}
