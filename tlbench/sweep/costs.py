"""What tasks cost, from the receipts of earlier ones. What was never measured here is unknown, not free."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from statistics import median

from tlbench.sweep.tasks import Grid, Receipt, Rest, Task


@dataclass(frozen=True)
class UnitCosts:
    """Measured costs by their unit.

    Attributes:
        cell_s: seconds a cell, by model, dtype and device.
        start_s: what a job takes before its first cell, by device.
        cell_bytes: what a cell adds to the cache; None if that is unknown.
        preparation: seconds and bytes of a model's checkpoint and goldens.
        weights_bytes: the size of a model's files.
        commit_s: what a sweep takes beside its jobs, by commit; None if that is unknown.
    """

    cell_s: dict[tuple[str, str, str], float] = field(default_factory=dict)
    start_s: dict[str, float] = field(default_factory=dict)
    cell_bytes: float | None = None
    preparation: dict[str, tuple[float, int]] = field(default_factory=dict)
    weights_bytes: dict[str, int] = field(default_factory=dict)
    commit_s: float | None = None

    @classmethod
    def of(cls, receipts: Iterable[Receipt], rests: Iterable[Rest] = ()) -> UnitCosts:
        """The costs that receipts show: the mean of all cells, and the median of all starts and rests."""
        totals: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
        starts: dict[str, list[float]] = defaultdict(list)
        sizes: list[float] = []
        found = cls()
        for receipt in receipts:
            model = receipt.task.model
            found.weights_bytes[model] = max(receipt.weights_bytes, found.weights_bytes.get(model, 0))
            if not receipt.task.commit and receipt.seconds > found.preparation.get(model, (0.0, 0))[0]:
                found.preparation[model] = (receipt.seconds, receipt.kept_bytes)
            for cost in receipt.costs:
                total = totals[model, cost.dtype, receipt.grid.device]
                total[0], total[1] = total[0] + cost.seconds, total[1] + cost.cells
            if receipt.start_s:
                starts[receipt.grid.device].append(receipt.start_s)
            if measured := sum(cost.cells for cost in receipt.costs):
                sizes.append(receipt.kept_bytes / measured)
        found.cell_s.update({key: seconds / cells for key, (seconds, cells) in totals.items() if cells})
        found.start_s.update({device: median(each) for device, each in starts.items()})
        each = [rest.seconds / rest.commits for rest in rests]
        return replace(found, cell_bytes=median(sizes) if sizes else None, commit_s=median(each) if each else None)

    def seconds_of(self, task: Task, grid: Grid) -> float | None:
        """What a task will take, without the start of its job; None if that is unknown."""
        if not task.commit:
            return self.preparation[task.model][0] if task.model in self.preparation else None
        units = [self.cell_s.get((task.model, cell.dtype, grid.device)) for cell in grid.cells(task.model)]
        known = [unit for unit in units if unit is not None]
        return sum(known) if len(known) == len(units) else None

    def bytes_of(self, task: Task, grid: Grid) -> float | None:
        """What a task will add to the cache; None if that is unknown."""
        if not task.commit:
            return float(self.preparation[task.model][1]) if task.model in self.preparation else None
        return None if self.cell_bytes is None else self.cell_bytes * len(grid.cells(task.model))
