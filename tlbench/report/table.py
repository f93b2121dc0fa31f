"""TransformerLens issue 496's table, for one commit or two side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple

from rich.console import Console

from tlbench.grid import Space, Statistic
from tlbench.report import render
from tlbench.report.render import CELL, COMMIT, Column, Format, Value
from tlbench.report.stored import Commit, Row, State

Rows = Sequence[Sequence[Row]]
"""The rows of each commit."""


def show(console: Console, style: Format, commits: Sequence[Commit], rows_by_space: Mapping[Space, Rows]) -> None:
    """One table per space with one line per cell and the commits side by side; in CSV, one line per row."""
    if style is Format.CSV:
        rows = [row for rows in rows_by_space.values() for of_commit in rows for row in of_commit]
        lines = [[row.commit, row.tag, *astuple(row.cell), row.space, *(_figure(row, s) for s in Statistic)] for row in rows]
        render.show(console, style, "", [*COMMIT, *CELL, Column("space"), *map(Column, Statistic)], lines)
        return
    suffixes = [f" {commit}" if len(commits) > 1 else "" for commit in commits]
    figures = [Column(f"{statistic}{suffix}", "{:.6g}".format) for statistic in Statistic for suffix in suffixes]
    names = " and ".join(f"TransformerLens {commit}" for commit in commits)
    for space, rows_by_commit in rows_by_space.items():
        columns, lines = [*CELL, *figures, Column("note")], _side_by_side(rows_by_commit)
        if style is Format.MARKDOWN:  # with row numbers, as in issue 496
            columns, lines = [Column(""), *columns], [[str(index), *line] for index, line in enumerate(lines)]
        unit = "logits, centred at each position, in nats" if space is Space.LOGIT else "probabilities"
        title = f"{names} against HuggingFace: absolute error of the {unit} (space: {space})"
        render.show(console, style, title, columns, lines)


def _side_by_side(rows_by_commit: Rows) -> list[list[Value]]:
    by_cell = [{row.cell: row for row in rows} for rows in rows_by_commit]
    lines: list[list[Value]] = []
    for cell in dict.fromkeys(row.cell for rows in rows_by_commit for row in rows):
        rows = [by_commit.get(cell) for by_commit in by_cell]
        figures = [_figure(row, statistic) for statistic in Statistic for row in rows]
        lines.append([*astuple(cell), *figures, "no-op" if any(row and row.no_op for row in rows) else ""])
    return lines


def _figure(row: Row | None, statistic: Statistic) -> Value:
    if row is None:
        return State.NOT_MEASURED
    return row.values[statistic] if row.state is State.MEASURED else row.state
