"""The table of `tlbench verify`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from tlbench.grid import Space, Statistic
from tlbench.metrics.verdict import JudgedBy, Verdict
from tlbench.report.verdicts import BY_HUGGINGFACE, word
from tlbench.report.verify import Judgement

COLUMNS = ("dtype", "option", "wrapper", *Statistic, "ratio", "corr.", "bits lost", "KL, nats", "flips", "floor", "verdict")
STYLES = {Verdict.UNJUDGED: "magenta", Verdict.WORSE: "yellow", Verdict.BROKEN: "red", Verdict.FAILED: "red"}
MAKESHIFT = "+"
"""Behind a ratio that rests on a float32 golden."""


def print_rich(console: Console, title: str, space: Space, judgements: Sequence[Judgement]) -> None:
    """One line a cell; below it the reasons of those without figures."""
    unit = "nats" if space is Space.LOGIT else "probability"
    table = Table(title=f"{title}: error against HuggingFace ({space}, {unit}) and against the golden")
    for name in COLUMNS:
        table.add_column(
            name, justify="left" if name in ("dtype", "option", "wrapper", "verdict") else "right", no_wrap=True
        )
    for one in judgements:
        table.add_row(*_figures(one, space), style=STYLES.get(one.verdict, ""))
    console.print(table)
    for reason, words in _reasons(judgements).items():
        console.print(f"{words}: {reason}", soft_wrap=True, highlight=False, markup=False)


def _figures(one: Judgement, space: Space) -> list[str]:
    cell, error, truth = one.cell, one.error(space), one.truth
    words = [cell.dtype.value, cell.option.value, cell.wrapper.value]
    words += [f"{error.get(statistic):.3g}" if error else "" for statistic in Statistic]
    if truth:
        ratio = f"{one.ratio:.3f}" + (MAKESHIFT if truth.golden_precision != "float64" else "")
        flips = f"{truth.top1_flips} + {truth.top1_ties} ties" if truth.top1_ties else str(truth.top1_flips)
        words += [ratio, f"{truth.error_correlation:.3f}", f"{truth.bits_lost:.2f}", f"{truth.kl_nats:.2e}", flips]
    else:
        words += ["" if one.ratio is None else f"{one.ratio:.3f}{BY_HUGGINGFACE}", *[""] * 4]
    return [*words, f"{one.floor.largest:.2g}" if one.floor else "", word(one.verdict, one.judged_by)]


def _reasons(judgements: Sequence[Judgement]) -> dict[str, str]:
    """From each reason to the cells that have it, in words."""
    found: dict[str, list[Judgement]] = {}
    for one in judgements:
        if one.reason:
            found.setdefault(one.reason, []).append(one)
    notes = {
        MAKESHIFT: any(one.truth and one.truth.golden_precision != "float64" for one in judgements),
        BY_HUGGINGFACE: any(one.judged_by is JudgedBy.HUGGINGFACE for one in judgements),
    }
    meanings = {
        MAKESHIFT: "against a float32 golden",
        BY_HUGGINGFACE: "judged by what HuggingFace's own rounding can do: the ratio is the distance from HuggingFace over "
        "the largest of its variants' (reversed sums, other attention, threads, batch split)",
    }
    lines = {
        reason: f"{ones[0].cell.wrapper} {ones[0].verdict} ({len(ones)} configurations)" for reason, ones in found.items()
    }
    return lines | {meanings[mark]: mark for mark, is_there in notes.items() if is_there}
