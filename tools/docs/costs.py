"""The tables of docs/costs.md, from stored results: ``python -m tools.docs.costs``, in the repository's root.

What ``tlbench costs --format csv`` wrote of other runs of the same releases stands in ``docs/repeats``.
"""

import csv
import statistics
from collections.abc import Callable
from pathlib import Path

from tabulate import tabulate

from tlbench.catalogue import load
from tlbench.grid import Import, Operation, RuntimeCell
from tlbench.metrics.paired import Change, is_inside, slower
from tlbench.report.slowdowns import (
    EXPONENTS,
    FAILED,
    LEAK,
    MEMORY_RATIO,
    OF_MEMORY,
    CostRow,
    FigureRow,
    growth_rows,
    memory_rows,
    rows,
)
from tlbench.report.stored import StoredResults

CONFIG = Path(__file__).resolve().parents[2] / "releases" / "asv.conf.json"
REPEATS = Path(__file__).resolve().parents[2] / "docs" / "repeats"
Found = dict[str, list[CostRow]]
"""By release."""
OTHERS_MACHINE = "epyc-2-cores"
"""That of the operations beside forward passes, of memory and of growth."""
OTHERS = ("zoo-gpt2", "zoo-llama", "smollm2-135m")
BY_DEFAULT = {"HookedTransformer": "all_options", "TransformerBridge": "unprocessed"}
"""What each wrapper does unless told otherwise."""
OF_LOADING = {Operation.LOADING: "unprocessed", Operation.PROCESSING: "all_options"}


def main() -> None:
    """Print every table as Markdown."""
    stored = StoredResults(CONFIG, "xeon-2-cores")
    found = {commit.tag: rows(stored, commit) for commit in stored.commits}
    found = {tag: own for tag, own in found.items() if own}
    kinds = sorted({(r.cell.wrapper, r.cell.option) for own in found.values() for r in own if is_forward(r)})
    for wrapper, option in kinds:
        print(f"**A forward pass of {wrapper}, {option}, over HuggingFace's (eager)**\n")
        print_by_release(found, lambda r, w=wrapper, o=option: is_forward(r) and (r.cell.wrapper, r.cell.option) == (w, o))
    others = StoredResults(CONFIG, OTHERS_MACHINE)
    by_release = {commit.tag: rows(others, commit) for commit in others.commits}
    for model in OTHERS:
        print_operations(by_release, model)
    print_memory(others)
    print_growth(others)
    for path in sorted(REPEATS.glob("*.csv")):
        print_repeat(found, path)


def is_forward(row: CostRow) -> bool:
    """Whether it is a run of the table of forward passes."""
    return not isinstance(row.cell, Import) and row.cell.operation is Operation.FORWARD


def print_by_release(found: Found, wanted: Callable[[CostRow], bool]) -> None:
    """One line a model, one column a release."""
    chosen = {tag: {r.cell.model: r for r in own if wanted(r)} for tag, own in found.items()}
    chosen = {tag: own for tag, own in chosen.items() if own}
    models = [model for model in load().names() if any(model in own for own in chosen.values())]
    lines = [[model, *(spelled(own.get(model)) for own in chosen.values())] for model in models]
    zoo = [[r.ratio for model, r in own.items() if model.startswith("zoo-")] for own in chosen.values()]
    medians = ["*zoo, median*", *(f"*{statistics.median(own):.2f}*" if own else "" for own in zoo)]
    print(tabulate([*lines, medians], ["", *chosen], tablefmt="pipe", disable_numparse=True), "\n")


def print_operations(found: Found, model: str) -> None:
    """One line a release and wrapper of which more than forward passes is stored, one column an operation."""
    lines = []
    for tag, own in found.items():
        of_model = [r for r in own if not isinstance(r.cell, Import) and r.cell.model == model]
        for wrapper in BY_DEFAULT:
            by_operation = {r.cell.operation: r for r in of_model if r.cell.wrapper == wrapper and is_shown(r.cell)}
            if by_operation.keys() - {Operation.FORWARD}:
                lines.append([tag, wrapper, *(spelled(by_operation.get(operation)) for operation in Operation)])
    if lines:
        print(f"**{model}: each operation over HuggingFace's**\n")
        print(tabulate(lines, ["", "", *Operation], tablefmt="pipe", disable_numparse=True), "\n")


def print_memory(stored: StoredResults) -> None:
    """One line a release and model."""
    lines = []
    for commit in stored.commits:
        cells: dict[tuple[str, ...], dict[str, str]] = {}
        for row in memory_rows(stored, commit):
            if not is_shown(row.cell):
                continue
            own = cells.setdefault((row.cell.model, row.cell.wrapper), {})
            own[str(row.cell.operation)] = figure(row, MEMORY_RATIO)
            if LEAK in row.figures:
                own[LEAK] = figure(row, LEAK)
        names = [*map(str, OF_MEMORY), LEAK]
        lines += [[commit.tag, *cell, *(own.get(name, "") for name in names)] for cell, own in cells.items()]
    if lines:
        print("**The most that a run holds beyond the model, over HuggingFace's (eager)**\n")
        print(tabulate(lines, ["", "", "", *OF_MEMORY, LEAK], tablefmt="pipe", disable_numparse=True), "\n")


def print_growth(stored: StoredResults) -> None:
    """One line a release and model, one column an exponent."""
    lines = [
        [commit.tag, row.cell.model, row.cell.wrapper, *(figure(row, name) for name in EXPONENTS)]
        for commit in stored.commits
        for row in growth_rows(stored, commit)
        if is_shown(row.cell)
    ]
    if lines:
        print("**Exponents of a forward pass over its four largest sizes**\n")
        header = ["", "", "", *(name.replace("_", " ") for name in EXPONENTS)]
        print(tabulate(lines, header, tablefmt="pipe", disable_numparse=True), "\n")


def is_shown(cell: RuntimeCell) -> bool:
    """Whether the tables have it: each wrapper as it comes by default, in float32, one sequence of 64 tokens."""
    option = OF_LOADING.get(cell.operation, BY_DEFAULT[cell.wrapper])
    return (cell.option, cell.dtype, cell.shape) == (option, "float32", "1x64")


def figure(row: FigureRow, name: str) -> str:
    """Such as 1.65."""
    if name not in row.figures:
        return ""
    value = row.figures[name]
    return FAILED if value is None else f"{value:.2f}"


def spelled(row: CostRow | None) -> str:
    """Such as 2.53 ± 1.1 %."""
    return f"{row.ratio:.2f} ± {100 * row.half_width:.1f} %" if row else ""


def print_repeat(found: Found, path: Path) -> None:
    """How many of a second run's ratios lie in the first's interval, and what would have been flagged."""
    with path.open() as file:
        lines = list(csv.DictReader(file))
    inside, pairs = 0, []
    for line in lines:
        (first,) = [r for r in found[line["tag"]] if words(r) == [line[name] for name in WORDS]] or [None]
        if first is None:
            continue
        second = CostRow(first.cell, float(line["slowdown"]), float(line["half_width"]))
        inside += is_inside(first, second)
        pairs.append((str(first.cell), Change.between(first, second)))
    flags = slower([change for _, change in pairs], 0.05)
    flagged = [cell for (cell, _), is_flagged in zip(pairs, flags, strict=True) if is_flagged]
    tags = " and ".join(dict.fromkeys(line["tag"] for line in lines))
    print(
        f"{tags}, run again: {inside} of {len(pairs)} ratios inside the first run's interval; flagged as slower: {flagged}"
    )


WORDS = ("operation", "model", "dtype", "options", "wrapper", "shape", "device")


def words(row: CostRow) -> list[str]:
    """The words of a row as they stand in the CSV."""
    if isinstance(row.cell, Import):
        return ["import", "", "", "", "", "", ""]
    cell = row.cell
    return [*map(str, (cell.operation, cell.model, cell.dtype, cell.option, cell.wrapper, cell.shape, cell.device))]


if __name__ == "__main__":
    main()
