"""Print a table in three formats: for a terminal, as Markdown and as CSV.

A terminal's table fits its width. If it is too narrow, a key that is the same in every row moves to the title, words and
figures are shortened, and then the columns that matter least are left out, which a line below says. Markdown and CSV always
have every column.
"""

from __future__ import annotations

import csv
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

from tlbench.grid import Wrapper

Value = str | float | None
"""The content of a table cell: words, a figure, or nothing."""
Rows = Sequence[Sequence[Value]]
WRAPPED = 18
"""The width that a column of long words may be wrapped to."""
GAP = 2
"""Between the columns of a narrow table."""


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
        short: how a narrow terminal spells the words or the figure; None for no other way.
        drop: in a narrow terminal, columns with a larger number are left out first; 0 is never left out.
        is_key: says what a row is about, so that a narrow terminal may say it once, in the title.
        is_wrapped: holds sentences or lists, which may be wrapped at a blank.
        is_first: stands first in a terminal.
    """

    name: str | None
    spell: Callable[[float], str] | None = None
    csv: str | None = ""
    short: Callable[[str], str] | Callable[[float], str] | None = None
    drop: int = 0
    is_key: bool = False
    is_wrapped: bool = False
    is_first: bool = False

    def heading(self, style: Format) -> str | None:
        """The heading in a format; None if the format does not have the column."""
        return self.csv if style is Format.CSV and self.csv != "" else self.name

    def text(self, value: Value, style: Format, is_short: bool = False) -> str:
        """A value as text. CSV keeps every digit. Words in a column of figures, such as `failed`, are not formatted."""
        if value is None or (isinstance(value, str) and (self.spell or not is_short or self.short is None)):
            return value or ""
        if is_short and self.short:
            return self.short(value)  # type: ignore[arg-type]
        return repr(value) if style is Format.CSV or self.spell is None else self.spell(value)  # type: ignore[arg-type]


def three_digits(figure: float) -> str:
    """A figure where there is little room."""
    return f"{figure:.3g}"


def short_wrapper(name: str) -> str:
    """A wrapper where there is little room: `Hooked` or `Bridge`."""
    return name.replace(Wrapper.HOOKED_TRANSFORMER, "Hooked").replace(Wrapper.TRANSFORMER_BRIDGE, "Bridge")


def folded_option(name: str) -> str:
    """An option on two lines if it is longer than `all_options`."""
    head, _, tail = name.rpartition("_")
    return f"{head}_\n{tail}" if head and len(name) > WRAPPED - 4 else name


COMMIT = (Column(None, csv="commit"), Column(None, csv="tag"))
CELL = (
    Column("model", is_key=True),
    Column("dtype", is_key=True),
    Column("options", short=folded_option, is_key=True),
    Column("wrapper", short=short_wrapper, is_key=True),
)
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
    if style is Format.RICH:
        _show_in_terminal(console, title, columns, shown, rows, row_styles)
        return
    headings = [*shown.values()]
    lines = [[columns[i].text(row[i], style) for i in shown] for row in rows]
    if style is Format.CSV:
        csv.writer(sys.stdout, lineterminator="\n").writerows([headings, *lines])
        return
    cells = [[text.replace("|", r"\|").replace("\n", " ") for text in line] for line in lines]
    table = tabulate(cells, headings, tablefmt="pipe", disable_numparse=True)
    print(f"**{title}**\n\n{table}\n" if title else f"{table}\n")


def _show_in_terminal(
    console: Console, title: str, columns: Sequence[Column], shown: dict[int, str], rows: Rows, row_styles: Sequence[str]
) -> None:
    places = sorted(shown, key=lambda i: not columns[i].is_first)
    wide = [_Shown(columns[i], shown[i], [columns[i].text(row[i], Format.RICH) for row in rows]) for i in places]
    if sum(one.widest for one in wide) + 3 * len(wide) + 1 <= console.width:
        # Text is literal. In a plain string, rich would read square brackets as markup.
        heading = Text(title, "table.title") if title else None
        grid = Table(title=heading, title_justify="left", row_styles=row_styles)
        _fill(grid, wide, len(rows))
        console.print(grid)
        return
    constant = [one for one in wide if one.column.is_key and len(rows) > 1 and len(set(filter(None, one.texts))) == 1]
    left = [one for one in wide if one not in constant and any(one.texts)]
    short = [one.narrowed([row[places[wide.index(one)]] for row in rows]) for one in left]
    short, left_out = _fitted(short, console.width)
    said = ", ".join(next(filter(None, one.texts)) for one in constant)
    if title or said:
        console.print(Text(f"{title} ({said})".strip() if said else title, "table.title"))
    grid = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, row_styles=row_styles)
    _fill(grid, short, len(rows))
    console.print(grid)
    if left_out:
        words = f"Left out, as the terminal is narrow: {'; '.join(left_out)}."
        console.print(words, highlight=False, markup=False, style="dim")


@dataclass(frozen=True)
class _Shown:
    """A column with its heading and its texts."""

    column: Column
    heading: str
    texts: Sequence[str]

    @property
    def widest(self) -> int:
        """Its width without wrapping."""
        return max(cell_len(line) for text in (self.heading, *self.texts) for line in text.split("\n"))

    @property
    def least(self) -> int:
        """Its width with sentences wrapped."""
        return min(self.widest, WRAPPED) if self.column.is_wrapped else self.widest

    def narrowed(self, values: Sequence[Value]) -> _Shown:
        """The same with short texts, and the heading on several lines."""
        texts = [self.column.text(value, Format.RICH, is_short=True) for value in values]
        room = max((cell_len(line) for text in texts for line in text.split("\n")), default=1)
        heading = "\n".join(textwrap.wrap(self.heading, max(room, *map(len, self.heading.split()), 1)))
        return _Shown(self.column, heading, texts)


def _fitted(columns: Sequence[_Shown], width: int) -> tuple[list[_Shown], list[str]]:
    """The columns that fit, and the headings of those left out. If keys alone are too wide, they share a column."""
    fitting, left_out = [*columns], []
    for one in sorted((one for one in columns if one.column.drop), key=lambda one: -one.column.drop):
        if _least(fitting) <= width:
            break
        fitting.remove(one)
        left_out.append(one.heading.replace("\n", " "))
    keys = [one for one in fitting if one.column.is_key]
    if _least(fitting) > width and len(keys) > 1:
        by_row = zip(*(one.texts for one in keys), strict=True)
        texts = [" ".join(text.replace("\n", "") for text in of_row if text) for of_row in by_row]
        at = fitting.index(keys[0])
        rest = [one for one in fitting if one not in keys]
        fitting = [*rest[:at], _Shown(Column("cell", is_wrapped=True), "cell", texts), *rest[at:]]
    return fitting, left_out


def _least(columns: Sequence[_Shown]) -> int:
    return sum(one.least for one in columns) + GAP * (len(columns) - 1)


def _fill(grid: Table, columns: Sequence[_Shown], n_rows: int) -> None:
    for one in columns:
        justify: Literal["left", "right"] = "right" if one.column.spell else "left"
        grid.add_column(Text(one.heading), justify=justify, no_wrap=not one.column.is_wrapped, overflow="fold")
    for k in range(n_rows):
        grid.add_row(*(Text(one.texts[k]) for one in columns))


LONG_LIST = re.compile(r"\[[^][]{200,}\]")
"""In TransformerLens's own reasons, such as every architecture that it knows."""


def without_lists(reason: str) -> str:
    """A reason whose long lists are left out."""
    return LONG_LIST.sub("[...]", reason)
