"""The questions about costs. No record is cached between runs, since times are never the same twice."""

from __future__ import annotations

from typing import Any

from tlbench.grid import Import, RuntimeCell
from tlbench.questions.question import Question
from tlbench.records.costs import Memory, Scaling, Slowdown

_HERE = "tlbench.costs"

SLOWDOWN = Question[RuntimeCell, Slowdown](
    "slowdown", RuntimeCell, f"{_HERE}.slowdown:measure_slowdown", Slowdown, is_kept=False
)
IMPORT = Question[Import, Slowdown]("import", Import, f"{_HERE}.slowdown:measure_import", Slowdown, is_kept=False)
MEMORY = Question[RuntimeCell, Memory]("memory", RuntimeCell, f"{_HERE}.memory:measure_memory", Memory, is_kept=False)
SCALING = Question[RuntimeCell, Scaling]("scaling", RuntimeCell, f"{_HERE}.scaling:measure_scaling", Scaling, is_kept=False)

QUESTIONS: dict[str, Question[Any, Any]] = {q.name: q for q in (SLOWDOWN, IMPORT, MEMORY, SCALING)}
