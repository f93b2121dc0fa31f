"""The table of `tlbench coverage`: what TransformerLens supports, which models measure it, and what is not covered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from tlbench.catalogue import Model
from tlbench.checkpoints.architectures import NOT_MADE, Kind, architecture_of, kind_of
from tlbench.metrics.verdict import Verdict
from tlbench.report import render
from tlbench.report.render import Column, Format
from tlbench.report.verify import Judgement

COLUMNS = (
    Column("architecture"),
    Column("entries", "{:.0f}".format),
    Column("models", is_wrapped=True, drop=1),
    Column("verdict", is_wrapped=True),
    Column("why not", is_wrapped=True, drop=2),
)
OF_TEXT = {Kind.DECODER, Kind.ENCODER_DECODER, Kind.MASKED}
"""Kinds whose models read text alone."""


@dataclass(frozen=True)
class Line:
    """One architecture that TransformerLens supports.

    Attributes:
        architecture: the name of its class in transformers.
        entries: how many models TransformerLens's registry lists of it.
        kind: what kind of model it is.
        models: the catalogue's models of it that need no Hub.
        verdicts: of each measured cell.
    """

    architecture: str
    entries: int
    kind: Kind
    models: tuple[str, ...]
    verdicts: tuple[Verdict, ...] = ()

    @property
    def is_measured(self) -> bool:
        """Whether a cell of it was measured; a failure is a result."""
        return any(verdict not in (Verdict.NOT_APPLICABLE, Verdict.NOT_MEASURED) for verdict in self.verdicts)

    @property
    def reason(self) -> str:
        """Why it has no model, or ""."""
        if self.models:
            return ""
        if self.architecture in NOT_MADE:
            return NOT_MADE[self.architecture]
        return f"{self.kind}: no model yet" if self.kind in OF_TEXT else str(self.kind)

    @property
    def words(self) -> str:
        """Its verdicts, each word once."""
        return ", ".join(word for word in map(str, Verdict) if word in map(str, self.verdicts))


def lines(supported: Mapping[str, int], models: Iterable[Model], judgements: Sequence[Judgement]) -> list[Line]:
    """A line for each architecture that TransformerLens supports, the most entries first."""
    of: dict[str, list[str]] = {}
    for model in models:
        if architecture := architecture_of(model):
            of.setdefault(architecture, []).append(model.name)
    found = []
    for architecture, entries in supported.items():
        names = of.get(architecture, [])
        verdicts = tuple(one.verdict for one in judgements if one.cell.model in names)
        found.append(Line(architecture, entries, kind_of(architecture), tuple(names), verdicts))
    return sorted(found, key=lambda line: (-line.entries, line.architecture))


def conclusion(tl: str, found: Sequence[Line], is_measured: bool) -> list[str]:
    """What is covered, in sentences: of decoders, of the registry, and what is not."""
    total = sum(line.entries for line in found)
    have = [line for line in found if (line.is_measured if is_measured else line.models)]
    entries = sum(line.entries for line in have)
    decoders = [line for line in found if line.kind is Kind.DECODER]
    of_text = [line for line in found if line.kind in OF_TEXT]
    read, read_total = (sum(line.entries for line in some) for some in ([line for line in of_text if line in have], of_text))
    word = "measured" if is_measured else "have a model"
    said = [
        f"TransformerLens {tl} supports {len(found)} architectures, of which {len(have)} {word}: {entries:,} of the "
        f"{total:,} models in its registry ({_share(entries, total)}).",
        f"Of {len(decoders)} decoders that transformers has, {sum(line in have for line in decoders)} {word}.",
        f"Of {len(of_text)} architectures whose models read text alone, {sum(line in have for line in of_text)} {word}: "
        f"{read:,} of {read_total:,} models ({_share(read, read_total)}).",
    ]
    for kind in Kind:
        missing = [line for line in found if line.kind is kind and line not in have]
        if missing:
            count = sum(line.entries for line in missing)
            said.append(f"Not covered: {len(missing)} of kind {kind} ({count:,} models, {_share(count, total)}).")
    return said


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "no share"


def show(console: Console, style: Format, tl: str, found: Sequence[Line], is_measured: bool) -> None:
    """Print the table and what it comes to. In CSV only the table."""
    rows = [
        [line.architecture, line.entries, ", ".join(line.models), line.words if is_measured else None, line.reason]
        for line in found
    ]
    columns = COLUMNS if is_measured else tuple(column for column in COLUMNS if column.name != "verdict")
    if not is_measured:
        rows = [[*row[:3], row[4]] for row in rows]
    render.show(console, style, f"What is covered of TransformerLens {tl}", columns, rows)
    if style is not Format.CSV:
        print()
        for sentence in conclusion(tl, found, is_measured):
            print(sentence)


def to_json(line: Line) -> dict[str, Any]:
    """One entry of the command's JSON."""
    return {
        "architecture": line.architecture,
        "entries": line.entries,
        "kind": line.kind,
        "models": line.models,
        "verdicts": line.verdicts,
        "is_measured": line.is_measured,
        "reason": line.reason,
    }
