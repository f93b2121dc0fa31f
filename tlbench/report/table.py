"""TransformerLens issue 496's table, for one commit or several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import astuple

from rich.console import Console

from tlbench.grid import Cell, Space, Statistic, Wrapper
from tlbench.report import render
from tlbench.report.render import CELL, COMMIT, Column, Format, Value, three_digits
from tlbench.report.stored import Row, State

Rows = Sequence[Sequence[Row]]
"""The rows of each commit."""
DROPPED_LATER = {Statistic.MAX: 1, Statistic.MEAN: 0, Statistic.MEDIAN: 3, Statistic.STD: 4}
"""In a narrow terminal the mean stays: in 16 bits it is what shows a change."""
HAS_RUN = (State.MEASURED, State.FAILED, State.UNJUDGED)


def show(console: Console, style: Format, names: Sequence[str], rows_by_space: Mapping[Space, Rows]) -> None:
    """One table per space.

    In CSV one line per row. In Markdown one line per cell, the commits side by side. In a terminal one line per cell and
    commit, so that any number fits. Where one wrapper follows another, they share a line or stand below each other.

    Args:
        names: what to call each commit.
        rows_by_space: in each space, the rows of each commit.
    """
    if style is Format.CSV:
        rows = [
            row for rows in rows_by_space.values() for of_commit in rows for row in of_commit if row.state in HAS_RUN[:2]
        ]
        lines = [[row.commit, row.tag, *astuple(row.cell), row.space, *(_figure(row, s) for s in Statistic)] for row in rows]
        render.show(console, style, "", [*COMMIT, *CELL, Column("space"), *map(Column, Statistic)], lines)
        return
    for space, rows_by_commit in rows_by_space.items():
        unit = "logits, centred at each position, in nats" if space is Space.LOGIT else "probabilities"
        versions = " and ".join(f"TransformerLens {name}" for name in names)
        title = f"{versions} against HuggingFace: absolute error of the {unit} (space: {space})"
        if style is Format.MARKDOWN:
            columns, lines = _side_by_side(names, rows_by_commit)
        elif len(names) == 1:
            columns, lines = (
                [*CELL, *_figures(), Column("note")],
                [_line(row) for row in rows_by_commit[0] if _is_shown(row)],
            )
        else:
            columns, lines = _below_each_other(names, rows_by_commit)
        render.show(console, style, title, columns, lines)


def _figures() -> list[Column]:
    return [Column(s, "{:.6g}".format, short=three_digits, drop=DROPPED_LATER[s]) for s in Statistic]


def _line(row: Row) -> list[Value]:
    return [*astuple(row.cell), *(_figure(row, s) for s in Statistic), _note(row)]


def _is_shown(row: Row) -> bool:
    return row.state in (State.MEASURED, State.FAILED)


def _below_each_other(names: Sequence[str], rows_by_commit: Rows) -> tuple[list[Column], list[list[Value]]]:
    """For a terminal: each cell's commits below each other, with the mean over that of the line above."""
    found: dict[tuple[str, ...], list[tuple[str, Row]]] = defaultdict(list)
    for name, rows in zip(names, rows_by_commit, strict=True):
        of_commit: dict[tuple[str, ...], list[Row]] = defaultdict(list)
        for row in rows:
            of_commit[astuple(row.cell)[:3]].append(row)
        for key, alike in of_commit.items():
            run = [row for row in alike if row.state in HAS_RUN]  # where one wrapper ran, the other's absence says nothing
            found[key] += [(name, row) for row in run or alike[:1]]
    lines: list[list[Value]] = []
    for key, group in found.items():
        if not any(_is_shown(row) for _, row in group):
            continue
        before: float | None = None
        for name, row in group:
            mean = row.values.get(Statistic.MEAN)
            factor = mean / before if mean is not None and before else ""
            before = mean if mean is not None else before
            wrapper = row.cell.wrapper if row.state in HAS_RUN else ""
            lines.append([*key, name, wrapper, *(_figure(row, s) for s in Statistic), factor, _note(row)])
    times = Column("mean, times", "{:.3g}".format, drop=2)
    return [*CELL[:3], Column("at"), CELL[3], *_figures(), times, Column("note", drop=5)], lines


def _side_by_side(names: Sequence[str], rows_by_commit: Rows) -> tuple[list[Column], list[list[Value]]]:
    """For Markdown, with row numbers as in issue 496."""
    suffixes = [f" {name}" if len(names) > 1 else "" for name in names]
    figures = [Column(f"{statistic}{suffix}", "{:.6g}".format) for statistic in Statistic for suffix in suffixes]
    shown = [[row for row in rows if _is_shown(row)] for rows in rows_by_commit]
    wrappers = [{row.cell.wrapper for row in rows} for rows in shown]
    are_paired = len(names) > 1 and all(wrappers) and not any(a & b for i, a in enumerate(wrappers) for b in wrappers[:i])

    def key(cell: Cell) -> tuple[str, ...]:
        *words, wrapper = astuple(cell)
        return (*words, ", ".join(word for word in Wrapper if word in set().union(*wrappers)) if are_paired else wrapper)

    by_key = [
        {key(row.cell): row for row in rows if not are_paired or row.cell.wrapper in own}
        for rows, own in zip(rows_by_commit, wrappers, strict=True)
    ]
    lines: list[list[Value]] = []
    for words in dict.fromkeys(key(row.cell) for rows in shown for row in rows):
        rows = [of_commit.get(words) for of_commit in by_key]
        note = "no-op" if any(row and row.no_op for row in rows) else ""
        lines.append([str(len(lines)), *words, *(_figure(row, s) for s in Statistic for row in rows), note])
    return [Column(""), *CELL, *figures, Column("note")], lines


def _note(row: Row) -> str:
    return "no-op" if row.no_op else ""


def _figure(row: Row | None, statistic: Statistic) -> Value:
    if row is None:
        return State.NOT_MEASURED
    return row.values[statistic] if row.state is State.MEASURED else row.state
