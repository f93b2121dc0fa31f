"""How fast does error grow over depth and length? ``.venv/bin/python -m tools.docs.growth [RELEASE] [MODEL...]``.

Measures each model (by default the zoo and SmolLM2) in a release of TransformerLens (by default 4.3.0, its bridge, without
processing) and prints, as Markdown, the exponents p of error ~ depth^p and error ~ length^p with their standard errors
beside HuggingFace's own, and what stands beside the claim that larger models are more robust. Where matplotlib is
installed (``uv pip install --python .venv/bin/python matplotlib``), draws docs/images/growth.png.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tabulate import tabulate

from tlbench import Cell, Dtype, Option, Wrapper, catalogue
from tlbench.checkpoints import ensure
from tlbench.environments import lens_environment
from tlbench.metrics.figures import UNIT_ROUNDOFF
from tlbench.metrics.growth import Growth, fit
from tlbench.questions.answers import interview
from tlbench.questions.registry import ACCURACY, CONTEXT_LENGTH, DEPTH
from tlbench.records.depth_profile import DepthProfile
from tlbench.records.inside import ContextLength
from tlbench.records.measurement import Measurement

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "growth.png"
DTYPES = tuple(Dtype)
COLOURS = {Dtype.FLOAT32: "#0072b2", Dtype.FLOAT16: "#009e73", Dtype.BFLOAT16: "#d55e00"}
LARGEST = "smollm2-135m"
BOTTOM, TOP = 0.4, 120.0
"""Of the picture, where the two slopes meet."""


@dataclass(frozen=True)
class Found:
    """One model at one dtype.

    Attributes:
        model: its name.
        parameters: how many it has.
        dtype: at which it was measured.
        depth: its errors inside.
        length: its errors along the sequence.
        accuracy: its errors at the end.
    """

    model: str
    parameters: int
    dtype: Dtype
    depth: DepthProfile
    length: ContextLength
    accuracy: Measurement

    @property
    def reference_depth(self) -> Growth | None:
        """HuggingFace's own growth over depth."""
        seen = [(i + 1.0, one.reference_propagated) for i, one in enumerate(self.depth.outputs) if one]
        return fit([x for x, _ in seen], [error for _, error in seen])

    @property
    def reference_length(self) -> Growth | None:
        """HuggingFace's own growth over length."""
        lengths = sorted(n for n in self.length.reference_errors if n > 1)
        return fit([float(n) for n in lengths], [self.length.reference_errors[n] for n in lengths])


def measured(release: str, names: Sequence[str]) -> Iterator[Found]:
    """Every model at every dtype; what could not be measured is told on standard error."""

    def say(what: str) -> None:
        print(what, file=sys.stderr, flush=True)

    environment = lens_environment(release, say)
    models = catalogue.load()
    for name in names:
        checkpoint = ensure(models.get(name), models)
        cells = [Cell(name, dtype, Option.UNPROCESSED, Wrapper.TRANSFORMER_BRIDGE) for dtype in DTYPES]
        questions = (DEPTH, CONTEXT_LENGTH, ACCURACY)
        for answers in interview(environment.python, questions, cells, starting=lambda cell: say(str(cell))):
            records = [answers.outcomes[question.name].record for question in (DEPTH, CONTEXT_LENGTH, ACCURACY)]
            if None in records:
                say(f"{answers.cell}: {[outcome.reason for outcome in answers.outcomes.values()]}")
                continue
            yield Found(name, checkpoint.parameters, answers.cell.dtype, *records)


def exponent(growth: Growth | None) -> str:
    """The exponent and its standard error."""
    return f"{growth.exponent:.2f} ± {growth.standard_error:.2f}" if growth else "none"


def table_of_exponents(found: Sequence[Found]) -> str:
    """One row a model and dtype."""
    header = ["model", "dtype", "blocks", "over depth", "HF", "lengths to", "over length", "HF"]
    rows = [
        [
            one.model,
            one.dtype,
            one.depth.n_blocks,
            exponent(one.depth.growth),
            exponent(one.reference_depth),
            one.length.longest,
            exponent(one.length.growth),
            exponent(one.reference_length),
        ]
        for one in found
    ]
    return tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True)


def medians(found: Sequence[Found]) -> str:
    """The zoo's exponents in the middle."""
    rows = []
    for dtype in DTYPES:
        growths = [(one.depth.growth, one.length.growth) for one in found if one.dtype is dtype and one.model != LARGEST]
        middle = [median(growth.exponent for growth in column if growth) for column in zip(*growths, strict=True)]
        rows.append([dtype, len(growths), *(f"{exponent:.2f}" for exponent in middle)])
    header = ["dtype", "models of the zoo", "median over depth", "median over length"]
    return tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True)


def table_of_lengths(found: Sequence[Found], name: str) -> str:
    """One model's error at each length."""
    by_dtype = [one.length.errors for one in found if one.model == name]
    lengths = sorted(set().union(*by_dtype))
    rows = [[n, *(f"{errors[n]:.2e}" if n in errors else "" for errors in by_dtype)] for n in lengths]
    header = ["tokens", *(f"{one.dtype}, nats" for one in found if one.model == name)]
    return tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True)


def table_of_sizes(found: Sequence[Found]) -> str:
    """What each model's error is at the end, in the units in which one may ask whether larger models have less."""
    header = [
        "model",
        "dtype",
        "parameters",
        "vocabulary",
        "rms logit error, nats",
        "relative, in roundings",
        "KL, nats a token",
    ]
    rows = []
    for one in found:
        truth = one.accuracy.require_truth()
        relative = truth.error_rms / truth.golden_rms / UNIT_ROUNDOFF[one.dtype]
        rows.append(
            [
                one.model,
                one.dtype,
                one.parameters,
                one.accuracy.vocabulary[0],
                f"{truth.error_rms:.1e}",
                f"{relative:.1f}",
                f"{truth.kl_nats:.1e}",
            ]
        )
    return tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True)


def draw(found: Sequence[Found], path: Path) -> None:
    """Errors over depth and over length, in units of one rounding at the dtype, with the two slopes beside them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (depth, length) = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for one in found:
        u = UNIT_ROUNDOFF[one.dtype]
        bold = one.model == LARGEST
        style = {"color": COLOURS[one.dtype], "linewidth": 2.2 if bold else 0.7, "alpha": 1.0 if bold else 0.45}
        label = f"{one.model}, {one.dtype}" if bold else None
        blocks = [(i + 1, site.propagated / u) for i, site in enumerate(one.depth.outputs) if site]
        depth.plot(*zip(*blocks, strict=True), label=label, **style)
        rms = one.accuracy.require_truth().golden_rms
        lengths = sorted(one.length.errors.items())
        length.plot([n for n, _ in lengths], [error / rms / u for _, error in lengths], **style)
    for axes, title, name, last in (
        (depth, "Residual stream over depth", "blocks", 30),
        (length, "Logits over length", "tokens", 8192),
    ):
        for p in (0.5, 1.0):
            start = max(1.0, last * (BOTTOM / TOP) ** (1 / p))
            axes.plot([start, last], [TOP * (start / last) ** p, TOP], color="black", linestyle=":", linewidth=1)
            middle = (start * last) ** 0.5
            axes.annotate(
                f"p = {p:g}", (middle, TOP * (middle / last) ** p), fontsize=9, backgroundcolor="white", ha="center"
            )
        axes.set(xscale="log", yscale="log", ylim=(BOTTOM, 1.3 * TOP), title=title, xlabel=name)
        axes.set_ylabel("relative error, in roundings at the dtype")
        axes.grid(alpha=0.25)
    depth.legend(fontsize=8, title="thin: the zoo")
    figure.savefig(path, dpi=110)


def main(release: str = "4.3.0", *names: str) -> None:
    """Measure, print, draw."""
    here = [model.name for model in catalogue.load().models if model.source != "hub"]
    found = list(measured(release, names or here))
    tables = [table_of_exponents(found), table_of_sizes(found)]
    if not names:
        tables += [medians(found), table_of_lengths(found, LARGEST)]
    print(*tables, sep="\n\n")
    if importlib.util.find_spec("matplotlib"):
        draw(found, PICTURE)
        print(f"drawn: {PICTURE.name}", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
