"""The questions about costs. No record is cached between runs, since times are never the same twice."""

from __future__ import annotations

from typing import Any

from tlbench.grid import Import, RuntimeCell
from tlbench.questions.question import Question
from tlbench.records.costs import Memory, Scaling, Slowdown

SLOWDOWN = Question("slowdown", RuntimeCell, "tlbench.costs.slowdown:measure_slowdown", Slowdown, is_kept=False)
IMPORT = Question("import", Import, "tlbench.costs.slowdown:measure_import", Slowdown, is_kept=False)
MEMORY = Question("memory", RuntimeCell, "tlbench.costs.memory:measure_memory", Memory, is_kept=False)
SCALING = Question("scaling", RuntimeCell, "tlbench.costs.scaling:measure_scaling", Scaling, is_kept=False)

QUESTIONS: dict[str, Question[Any, Any]] = {q.name: q for q in (SLOWDOWN, IMPORT, MEMORY, SCALING)}
