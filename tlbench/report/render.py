"""Every table of tlbench, in three formats: for a terminal, as Markdown and as CSV."""

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
"""What stands in a table: words, a figure, or nothing."""


class Format(StrEnum):
    """How a table is written."""

    RICH = "rich"
    MARKDOWN = "markdown"
    CSV = "csv"


@dataclass(frozen=True)
class Column:
    """One column of a table: words on the left, figures on the right.

    Attributes:
        name: the heading that people read; None keeps the column to CSV.
        spell: how people read a figure, such as ``"{:.3g}".format``; None makes it a column of words.
        csv: the heading in CSV, by default the same name; None keeps the column out of CSV.
    """

    name: str | None
    spell: Callable[[float], str] | None = None
    csv: str | None = ""

    def heading(self, style: Format) -> str | None:
        """The heading in a format; None where the column is not in it."""
        return self.csv if style is Format.CSV and self.csv != "" else self.name

    def text(self, value: Value, style: Format) -> str:
        """How a value reads in a format. CSV keeps every digit; words among figures, such as `failed`, stay as they are."""
        if value is None or isinstance(value, str):
            return value or ""
        return repr(value) if style is Format.CSV or self.spell is None else self.spell(value)


COMMIT = (Column(None, csv="commit"), Column(None, csv="tag"))
CELL = (Column("model"), Column("dtype"), Column("options"), Column("wrapper"))
"""The columns of a :class:`~tlbench.grid.Cell`, in the order of its attributes."""


def show(
    console: Console,
    style: Format,
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Value]],
    row_styles: Sequence[str] = (),
) -> None:
    """Print a table: for a terminal on the console, else on standard output.

    Args:
        console: the terminal.
        style: the format.
        title: what stands above the table, "" for nothing; CSV has none.
        columns: those of every format.
        rows: for each column a value, figures as numbers.
        row_styles: how a terminal colours each row, in rich's words.
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
        # Text is taken as it is: rich would read square brackets in a plain string as markup.
        grid = Table(title=Text(title, "table.title") if title else None, title_justify="left", row_styles=row_styles)
        for i, heading in shown.items():
            grid.add_column(Text(heading), justify="right" if columns[i].spell else "left")
        for line in lines:
            grid.add_row(*map(Text, line))
        console.print(grid)
