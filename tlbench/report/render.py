"""Print a table in three formats: for a terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rich.console import Console
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

Value = str | float | None
"""The content of a table cell: words, a figure, or nothing."""
Rows = Sequence[Sequence[Value]]


class Format(StrEnum):
    """The format of a table."""

    RICH = "rich"
    MARKDOWN = "markdown"
    CSV = "csv"


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: the heading in a terminal and in Markdown; None leaves the column out there.
        spell: formats a figure there, such as ``"{:.3g}".format``. Such a column is right-aligned; None is for words.
        csv: the heading in CSV, "" for the same as ``name``; None leaves the column out of CSV.
    """

    name: str | None
    spell: Callable[[float], str] | None = None
    csv: str | None = ""

    def heading(self, style: Format) -> str | None:
        """The heading in a format; None if the format does not have the column."""
        return self.csv if style is Format.CSV and self.csv != "" else self.name

    def text(self, value: Value, style: Format) -> str:
        """A value as text. CSV keeps every digit. Words in a column of figures, such as `failed`, are not formatted."""
        if value is None or isinstance(value, str):
            return value or ""
        return repr(value) if style is Format.CSV or self.spell is None else self.spell(value)


COMMIT = (Column(None, csv="commit"), Column(None, csv="tag"))
CELL = (Column("model"), Column("dtype"), Column("options"), Column("wrapper"))
"""The columns of a :class:`~tlbench.grid.Cell`, in the order of its attributes."""


def show(
    console: Console, style: Format, title: str, columns: Sequence[Column], rows: Rows, row_styles: Sequence[str] = ()
) -> None:
    """Print a table. For a terminal it goes to the console, otherwise to standard output.

    Args:
        title: the title above the table, "" for none. CSV has none.
        rows: one value per column, with figures as numbers.
        row_styles: the rich style of each row, for a terminal.
    """
    shown = {i: heading for i, column in enumerate(columns) if (heading := column.heading(style)) is not None}
    headings = [*shown.values()]
    lines = [[columns[i].text(row[i], style) for i in shown] for row in rows]
    if style is Format.CSV:
        csv.writer(sys.stdout, lineterminator="\n").writerows([headings, *lines])
    elif style is Format.MARKDOWN:
        cells = [[text.replace("|", r"\|").replace("\n", " ") for text in line] for line in lines]
        table = tabulate(cells, headings, tablefmt="pipe", disable_numparse=True)
        print(f"**{title}**\n\n{table}\n" if title else f"{table}\n")
    else:
        # Text is literal. In a plain string, rich would read square brackets as markup.
        grid = Table(title=Text(title, "table.title") if title else None, title_justify="left", row_styles=row_styles)
        for i, heading in shown.items():
            grid.add_column(Text(heading), justify="right" if columns[i].spell else "left")
        for line in lines:
            grid.add_row(*map(Text, line))
        console.print(grid)
