"""One table in three formats: every expected text is written by hand."""

import csv
import io

import pytest
from rich.console import Console

from tlbench.cli import cache
from tlbench.components import Component, site
from tlbench.grid import Cell, Statistic
from tlbench.records.depth_profile import DepthProfile, SiteError
from tlbench.report import budgets, profiles, verify
from tlbench.report.render import Column, Format, show

COLUMNS = (
    Column(None, csv="commit"),
    Column("model"),
    Column("error", "{:.2g}".format),
    Column("99 %", lambda half: f"± {100 * half:.1f} %", csv="half_width"),
    Column("note", csv=None),
)
ROWS = [["c0ffee", "gpt2", 0.1 + 0.2, 1 / 64, "no-op"], ["c0ffee", "llama, 2", "failed", None, ""]]


def printed(style, title="Errors", columns=COLUMNS, rows=ROWS, **options):
    console = Console(file=io.StringIO(), width=100, **options)
    show(console, style, title, columns, rows, ["", "red"])
    return console.file.getvalue()


def test_csv_has_every_digit_its_own_columns_and_no_title(capsys):
    assert printed(Format.CSV) == ""
    assert capsys.readouterr().out == (
        'commit,model,error,half_width\nc0ffee,gpt2,0.30000000000000004,0.015625\nc0ffee,"llama, 2",failed,\n'
    )


def test_what_is_read_back_from_csv_is_the_figure_to_the_last_bit(capsys):
    figures = [1 / 3, 5e-324, 1.7976931348623157e308, 3]
    printed(Format.CSV, columns=[Column("x", "{:.1f}".format)], rows=[[figure] for figure in figures])
    assert [float(line["x"]) for line in csv.DictReader(io.StringIO(capsys.readouterr().out))] == figures


def test_markdown_has_people_s_columns_and_spelling(capsys):
    assert printed(Format.MARKDOWN) == ""
    assert capsys.readouterr().out.splitlines() == [
        "**Errors**",
        "",
        "| model    | error   | 99 %    | note   |",
        "|:---------|:--------|:--------|:-------|",
        "| gpt2     | 0.3     | ± 1.6 % | no-op  |",
        "| llama, 2 | failed  |         |        |",
        "",
    ]


def test_markdown_without_a_title_begins_with_the_table(capsys):
    printed(Format.MARKDOWN, title="")
    assert capsys.readouterr().out.startswith("| model")


def test_a_reason_of_several_lines_and_with_bars_stays_one_cell_in_markdown(capsys):
    printed(Format.MARKDOWN, columns=[Column("reason")], rows=[["a | b\nc"]])
    assert capsys.readouterr().out.splitlines()[-2] == r"| a \| b c |"


def test_a_terminal_has_words_on_the_left_and_figures_on_the_right():
    lines = printed(Format.RICH).splitlines()
    assert lines[0].rstrip() == "Errors"
    assert lines[2] == "┃ model    ┃  error ┃    99 % ┃ note  ┃"
    assert lines[4:6] == ["│ gpt2     │    0.3 │ ± 1.6 % │ no-op │", "│ llama, 2 │ failed │         │       │"]


def test_a_terminal_colours_a_row_in_the_style_given_for_it():
    plain, coloured = printed(Format.RICH, force_terminal=True, color_system="standard").splitlines()[4:6]
    assert "\x1b[31mllama, 2" in coloured
    assert "\x1b[31m" not in plain


def test_square_brackets_and_colons_are_no_markup_on_a_terminal():
    words = "no [bold] of [/path] :warning:"
    lines = printed(Format.RICH, title=words, columns=[Column(words)], rows=[[words]]).splitlines()
    assert [line.strip("┃│ ") for line in (lines[0], lines[2], lines[4])] == [words] * 3


CELL = Cell("zoo-gpt2", "bfloat16", "center_writing_weights", "TransformerBridge")
NAMES = ["bfloat16", "center_writing_weights", "TransformerBridge"]
WIDE = {
    "verify": (
        verify.COLUMNS,
        ["same rounding", *NAMES, *[1.23e-05] * len(Statistic), "0.123", 0.123, 1.23, 1.23e-08, "12 + 3 ties", 1.2e-05],
    ),
    "budget": (budgets.COLUMNS, ["zoo-gpt2", *NAMES, *[1.23e-05] * len(budgets.FIGURES)]),
    "cache": (cache.COLUMNS, ["context-errors", "HuggingFace's errors at each context length", 12345.0, 12345.6, 12.0]),
}


@pytest.mark.parametrize("name", WIDE)
def test_the_tables_about_one_model_fit_80_columns_and_wrap_no_figure(name):
    columns, row = WIDE[name]
    console = Console(file=io.StringIO(), width=80)
    show(console, Format.RICH, name, columns, [row, [*row[:-1], 1.0]])
    printed = console.file.getvalue()
    assert max(map(len, printed.splitlines())) <= 80
    figure = {"verify": "0.123", "budget": "1.23e-05", "cache": "12345.6"}[name]
    assert printed.count(figure) >= 2


def test_the_table_of_where_fits_80_columns_with_every_component():
    wrong = SiteError(0.12, 3.6, 1.2e-07, 3.6e-07)
    profile = DepthProfile(CELL, 2, {site(i, name): wrong for i in range(2) for name in Component}, (), (), ())
    console = Console(file=io.StringIO(), width=80)
    profiles.print_profile(console, "TransformerLens 4.3.0", profile)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.split().count("3.6") for line in lines) == 2 * len(Component) - 1, (
        "every block's input but the first is one"
    )
