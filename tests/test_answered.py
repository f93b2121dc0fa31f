"""How `verify` judges and reports the questions beyond the logits, from made-up records."""

import json
import math
from io import StringIO

import pytest
from rich.console import Console

from tlbench.grid import Cell, Dtype, Option, Wrapper
from tlbench.metrics.verdict import Verdict
from tlbench.questions.answers import Answers
from tlbench.questions.registry import ACCURACY, CAUSALITY, LOSS, NOISE_FLOOR
from tlbench.records.outcome import Kind, Outcome
from tlbench.records.promises import Causality, Loss
from tlbench.report import verify
from tlbench.report.answered import FIGURES, PARTS, part_statuses, questions_of
from tlbench.report.checks import CHECKS, ONLY_VERIFIED, QUESTIONS, Part
from tlbench.report.status import Word

CELL = Cell("zoo-gpt2", "float32", "unprocessed", "TransformerBridge")


def answers(**records):
    outcomes = {ACCURACY.name: Outcome(Kind.FAILED, reason="no accuracy here")}
    return Answers(CELL, {**outcomes, **{name.replace("_", "-"): outcome for name, outcome in records.items()}})


def words(outcome, part=Part.CAUSALITY):
    (status,) = part_statuses([answers(**{QUESTIONS[part].replace("-", "_"): outcome})], [part])
    return {one.what: one.word for one in status.checked}


def measured(**figures):
    known = {"last_token": 0.0, "given_last_token": 0.0, "given_logits": 0.0, "reasons": {}}
    return Outcome(Kind.MEASURED, Causality(CELL, **{**known, **figures}))


def test_a_figure_without_a_known_rounding_is_right_only_if_it_is_0():
    assert set(words(measured()).values()) == {Word.RIGHT}
    assert words(measured(last_token=1e-9))["another last token moves earlier logits"] is Word.UNJUDGED


@pytest.mark.parametrize(
    ("reason", "word"),
    [("n/a: no hf_model", Word.NOT_APPLICABLE), ("IndexError: too many indices", Word.FAILED), (None, Word.FAILED)],
)
def test_a_missing_figure_is_never_right(reason, word):
    record = measured(given_logits=None, reasons={"given_logits": reason} if reason else {})
    assert words(record)["hf_model= under default attention against HuggingFace"] is word


@pytest.mark.parametrize(
    ("kind", "word"),
    [(Kind.NOT_APPLICABLE, Word.NOT_APPLICABLE), (Kind.NOT_MEASURED, Word.NOT_MEASURED), (Kind.FAILED, Word.FAILED)],
)
def test_a_question_without_a_record_says_why(kind, word):
    assert set(words(Outcome(kind, reason="because")).values()) == {word}


def test_every_check_of_verify_finds_its_figure():
    for check in (*CHECKS, *ONLY_VERIFIED):
        if check.part in PARTS:
            name = QUESTIONS[check.part]
            from tlbench.questions.registry import QUESTIONS as BY_NAME

            record = BY_NAME[name].record
            assert (check.part, check.track) in FIGURES or hasattr(record, check.track) or check.track in fields(record)


def fields(record):
    return record.__dataclass_fields__


def test_the_other_questions_are_asked_on_both_paths_of_the_plainest_dtype():
    cells = [Cell("m", d, o, w) for w in Wrapper for d in Dtype for o in Option]
    asked = questions_of(cells, PARTS)
    full = [cell for cell in cells if CAUSALITY in asked[cell]]
    assert {(cell.dtype, cell.option) for cell in full} == {("float32", "unprocessed"), ("float32", "all_options")}
    assert all(asked[cell] == (ACCURACY, NOISE_FLOOR) for cell in cells if cell not in full)


def test_of_one_configuration_all_is_asked_there():
    cell = Cell("m", "bfloat16", "fold_ln", "TransformerBridge")
    assert CAUSALITY in questions_of([cell], PARTS)[cell]
    assert questions_of([cell], [Part.LOGITS])[cell] == (ACCURACY,)


# The report ------------------------------------------------------------------------------------------------------------


def report(causality, loss=None):
    loss = loss or Outcome(Kind.MEASURED, Loss(CELL, 0.0, 0.0, {}))
    parts = part_statuses([answers(**{CAUSALITY.name: causality, LOSS.name: loss})], [Part.CAUSALITY, Part.LOSS])
    judgement = verify.Judgement(CELL, Verdict.NOT_APPLICABLE, None, None, "")
    return verify.Report("zoo-gpt2 on TransformerLens 4.3.0", [judgement], parts)


def printed(one):
    out = StringIO()
    verify.print_summary(Console(file=out, width=80, soft_wrap=True), one)
    return out.getvalue()


@pytest.mark.parametrize(
    ("figures", "headline", "status"),
    [
        ({}, "RIGHT", 0),
        ({"last_token": 1e-9}, "UNJUDGED", 3),
        ({"last_token": None, "reasons": {"last_token": "RuntimeError: shapes"}}, "WRONG", 1),
        ({"last_token": None, "reasons": {"last_token": "n/a: no such thing"}}, "RIGHT", 0),
    ],
)
def test_the_first_line_is_the_verdict_of_all_questions(figures, headline, status):
    one = report(measured(**figures))
    assert (one.headline, one.exit_status) == (headline, status)
    assert printed(one).startswith(f"{headline}  zoo-gpt2")


def test_what_was_not_measured_does_not_pass_and_is_printed():
    one = report(Outcome(Kind.NOT_MEASURED, reason="its model is not here"))
    assert one.exit_status == 3
    assert "not measured" in printed(one)
    assert "its model is not here" in printed(one)


def test_only_what_is_not_right_gets_a_table_and_all_of_it_on_request():
    one = report(measured(last_token=1e-9))
    assert "another last token moves earlier logits" in printed(one)
    assert "loss_per_token" not in printed(one)
    out = StringIO()
    verify.print_summary(Console(file=out, width=80, soft_wrap=True), one, is_full=True)
    assert "loss_per_token" in out.getvalue()


def test_markdown_has_at_most_ten_lines(capsys):
    verify.print_markdown(report(measured(last_token=1e-9, given_logits=1.0)), "tlbench verify zoo-gpt2 --tl 4.3.0")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 10
    assert lines[0].startswith("**UNJUDGED** zoo-gpt2")
    assert "and 1 more" in lines[4]
    assert lines[-1].endswith("`tlbench verify zoo-gpt2 --tl 4.3.0`")


def test_json_has_every_check_and_no_infinity():
    rows = verify.checks_json(report(measured(last_token=math.inf)))
    assert len(rows) == 5
    assert json.loads(json.dumps(rows, allow_nan=False))[0]["value"] == "inf"
