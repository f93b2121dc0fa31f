"""What can be asked of a cell: which function measures it, and what kind of record it gives."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tlbench.grid import Attention, Cell, Import, ReferenceCell, RuntimeCell

R = TypeVar("R")
S = TypeVar("S", Cell, ReferenceCell, RuntimeCell, Import)


@dataclass(frozen=True)
class Question(Generic[S, R]):
    """Something that can be asked of every cell.

    Attributes:
        name: begins the names of its files.
        cell: what it is asked of.
        measurer: ``module:function`` that measures; imported only where something is measured. Of a :class:`Cell` it takes
            the cell and what :func:`tlbench.questions.loading.load_cell` returned for it; of any other, the cell.
        record: the kind of record that it returns.
        references: which of HuggingFace's logits it reads. They are computed before the cell's own model is loaded: two
            large models at once would not fit.
        is_kept: whether the record is kept between runs, which only what is deterministic may be.
    """

    name: str
    cell: type[S]
    measurer: str
    record: type[R]
    references: tuple[Attention, ...] = ()
    is_kept: bool = True

    @property
    def module(self) -> str:
        """The module of its measurer: the code that this imports decides its figures."""
        return self.measurer.split(":")[0]

    @property
    def address(self) -> str:
        """Where another process finds the question: ``registry:name``. Each package of measurers has its registry."""
        return f"{self.module.rpartition('.')[0]}.registry:{self.name}"

    def measurer_function(self) -> Callable[..., R]:
        """The function that measures."""
        module, function = self.measurer.split(":")
        measurer: Callable[..., R] = getattr(importlib.import_module(module), function)
        return measurer


def find(address: str) -> Question[Any, Any]:
    """The question that :attr:`Question.address` names."""
    module, name = address.split(":")
    question: Question[Any, Any] = importlib.import_module(module).QUESTIONS[name]
    return question
