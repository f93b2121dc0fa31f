"""TransformerLens issue 496's table, for one commit or two side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rich.console import Console
from rich.table import Table
from tabulate import tabulate

from tlbench.grid import Cell, Space, Statistic
from tlbench.report.stored import Commit, Row, State

CSV_COLUMNS = ("commit", "tag", "model", "dtype", "options", "wrapper", "space", *Statistic)
CELL_COLUMNS = ("model", "dtype", "options", "wrapper")


class Format(StrEnum):
    """How a table is written."""

    RICH = "rich"
    MARKDOWN = "markdown"
    CSV = "csv"


@dataclass(frozen=True)
class Filter:
    """Which cells are wanted; an empty text wants them all."""

    model: str = ""
    dtype: str = ""
    option: str = ""
    wrapper: str = ""

    def wants(self, cell: Cell) -> bool:
        """Whether the cell is one of them."""
        return (
            self.model in ("", cell.model)
            and self.dtype in ("", cell.dtype)
            and self.option in ("", cell.option)
            and self.wrapper in ("", cell.wrapper)
        )


def write_csv(rows: Sequence[Row]) -> str:
    """One line a row, figures with every digit; a failed cell says `failed` in place of figures."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        figures = [_figure(row, statistic, repr) for statistic in Statistic]
        writer.writerow([row.commit, row.tag, *_words(row.cell), row.space.value, *figures])
    return text.getvalue()


def write_markdown(space: Space, commits: Sequence[Commit], rows: Sequence[Sequence[Row]]) -> str:
    """A table in the shape of issue 496's, with its row numbers."""
    header, body = _grid(commits, rows)
    numbered = [[str(index), *line] for index, line in enumerate(body)]
    table = tabulate(numbered, headers=["", *header], tablefmt="pipe", disable_numparse=True)
    return f"**{_title(space, commits)}**\n\n{table}\n"


def print_rich(console: Console, space: Space, commits: Sequence[Commit], rows: Sequence[Sequence[Row]]) -> None:
    """The same for a terminal."""
    header, body = _grid(commits, rows)
    table = Table(title=_title(space, commits), title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index < len(CELL_COLUMNS) else "right", no_wrap=True)
    for line in body:
        table.add_row(*line)
    console.print(table)


def _title(space: Space, commits: Sequence[Commit]) -> str:
    unit = "logits, centred at each position, in nats" if space is Space.LOGIT else "probabilities"
    names = " and ".join(f"TransformerLens {commit}" for commit in commits)
    return f"{names} against HuggingFace: absolute error of the {unit} (space: {space})"


def _grid(commits: Sequence[Commit], rows: Sequence[Sequence[Row]]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: a line a cell, and for each statistic one column a commit."""
    suffixes = [f" {commit}" if len(commits) > 1 else "" for commit in commits]
    header = [*CELL_COLUMNS, *(f"{statistic}{suffix}" for statistic in Statistic for suffix in suffixes), "note"]
    found = [{row.cell: row for row in of_one} for of_one in rows]
    cells = dict.fromkeys(row.cell for of_one in rows for row in of_one)
    body = []
    for cell in cells:
        figures = [_figure(of_one.get(cell), statistic, _short) for statistic in Statistic for of_one in found]
        notes = {"no-op" for of_one in found if cell in of_one and of_one[cell].no_op}
        body.append([*_words(cell), *figures, *(notes or {""})])
    return header, body


def _words(cell: Cell) -> list[str]:
    return [cell.model, cell.dtype.value, cell.option.value, cell.wrapper.value]


def _figure(row: Row | None, statistic: Statistic, spell: Callable[[float], str]) -> str:
    if row is None:
        return State.NOT_MEASURED.value
    return spell(row.values[statistic]) if row.state is State.MEASURED else row.state.value


def _short(value: float) -> str:
    return f"{value:.6g}"
