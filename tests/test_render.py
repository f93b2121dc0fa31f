"""One table in three formats: every expected text is written by hand."""

import csv
import io

from rich.console import Console

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
