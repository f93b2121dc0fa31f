"""A question about a cell: the function that measures it and the kind of record it returns."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tlbench.grid import Attention, Cell, Import, ReferenceCell, RuntimeCell

R = TypeVar("R")
S = TypeVar("S", Cell, ReferenceCell, RuntimeCell, Import)


@dataclass(frozen=True)
class Question(Generic[S, R]):
    """A question that applies to every cell of one kind.

    Attributes:
        name: the prefix of its file names.
        cell: the kind of cell it applies to.
        measurer: the ``module:function`` that measures, imported only when measuring. It takes the cell, and for a
            :class:`Cell` also the result of :func:`tlbench.questions.loading.load_cell`.
        record: the type of record it returns.
        references: the HuggingFace logits it reads, computed before the cell's model is loaded: two would not fit.
        golden: the ``module:function`` that computes the goldens it reads, given dtypes and a model's name. It runs in
            this project's own environment.
        reference: the one that computes HuggingFace's logits that it reads, in the environment under test.
        is_kept: whether its records are cached between runs. Only deterministic ones may be.
    """

    name: str
    cell: type[S]
    measurer: str
    record: type[R]
    references: tuple[Attention, ...] = ()
    golden: str = ""
    reference: str = ""
    is_kept: bool = True

    @property
    def module(self) -> str:
        """The measurer's module, whose code and imports determine the figures."""
        return self.measurer.split(":")[0]

    @property
    def address(self) -> str:
        """Where another process finds the question: ``registry:name``. Each package of measurers has its own registry."""
        return f"{self.module.rpartition('.')[0]}.registry:{self.name}"

    def measurer_function(self) -> Callable[..., R]:
        """Import and return the function that measures."""
        measurer: Callable[..., R] = pkgutil.resolve_name(self.measurer)
        return measurer


def find(address: str) -> Question[Any, Any]:
    """The question at an address; see :attr:`Question.address`."""
    registry, name = address.split(":")
    question: Question[Any, Any] = pkgutil.resolve_name(f"{registry}:QUESTIONS")[name]
    return question
