"""TransformerLens issue 496's table, for one commit or two side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple

from rich.console import Console

from tlbench.grid import Space, Statistic
from tlbench.report import render
from tlbench.report.render import CELL, COMMIT, Column, Format, Value
from tlbench.report.stored import Commit, Row, State


def show(console: Console, style: Format, commits: Sequence[Commit], found: Mapping[Space, Sequence[Sequence[Row]]]) -> None:
    """People see a table for each space, a line for each cell, the commits side by side; CSV has a line for each row.

    ``found`` holds, for each space, the rows of each commit.
    """
    if style is Format.CSV:
        rows = [row for of_space in found.values() for of_one in of_space for row in of_one]
        lines = [[row.commit, row.tag, *astuple(row.cell), row.space, *(_figure(row, s) for s in Statistic)] for row in rows]
        render.show(console, style, "", [*COMMIT, *CELL, Column("space"), *map(Column, Statistic)], lines)
        return
    suffixes = [f" {commit}" if len(commits) > 1 else "" for commit in commits]
    figures = [Column(f"{statistic}{suffix}", "{:.6g}".format) for statistic in Statistic for suffix in suffixes]
    for space, rows_of in found.items():
        columns, lines = [*CELL, *figures, Column("note")], _side_by_side(rows_of)
        if style is Format.MARKDOWN:  # with row numbers, as in issue 496
            columns, lines = [Column(""), *columns], [[str(index), *line] for index, line in enumerate(lines)]
        render.show(console, style, _title(space, commits), columns, lines)


def _title(space: Space, commits: Sequence[Commit]) -> str:
    unit = "logits, centred at each position, in nats" if space is Space.LOGIT else "probabilities"
    names = " and ".join(f"TransformerLens {commit}" for commit in commits)
    return f"{names} against HuggingFace: absolute error of the {unit} (space: {space})"


def _side_by_side(rows: Sequence[Sequence[Row]]) -> list[list[Value]]:
    """A line a cell, with each statistic at every commit."""
    found = [{row.cell: row for row in of_one} for of_one in rows]
    cells = dict.fromkeys(row.cell for of_one in rows for row in of_one)
    lines = []
    for cell in cells:
        figures = [_figure(of_one.get(cell), statistic) for statistic in Statistic for of_one in found]
        is_no_op = any(of_one[cell].no_op for of_one in found if cell in of_one)
        lines.append([*astuple(cell), *figures, "no-op" if is_no_op else ""])
    return lines


def _figure(row: Row | None, statistic: Statistic) -> Value:
    if row is None:
        return State.NOT_MEASURED
    return row.values[statistic] if row.state is State.MEASURED else row.state
