"""A cell's errors by block and component, and where the first wrong one is. Knows figures only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tlbench.components import BLOCK_COMPONENTS, LN_FINAL, LOGITS, Component, site
from tlbench.grid import Cell
from tlbench.metrics.figures import RATIO_GATE, UNIT_ROUNDOFF
from tlbench.metrics.growth import Growth, fit
from tlbench.metrics.worst import times


@dataclass(frozen=True)
class SiteError:
    """The relative errors of one quantity against its exact value.

    Attributes:
        propagated: of the model run from the tokens.
        local: where the exact block input was fed to the block.
        reference_propagated: HuggingFace's own at the same dtype.
        reference_local: likewise.
    """

    propagated: float
    local: float
    reference_propagated: float
    reference_local: float


@dataclass(frozen=True)
class RoutingAgreement:
    """The share of the tokens that a mixture of experts sends where the exact function does.

    Attributes:
        agreement: TransformerLens's.
        reference_agreement: HuggingFace's at the same dtype.
    """

    agreement: float
    reference_agreement: float


@dataclass(frozen=True)
class Wrong:
    """Where the first wrong quantity is.

    Attributes:
        block: the block's index; None before and after the blocks.
        component: ``embed``, a component of a block, ``ln_final`` or ``logits``.
        part: what part of the network computes it.
        error: its relative error.
        reference_error: HuggingFace's own.
        ratio: how many times as large as that, or as one rounding at the dtype if that is larger.
    """

    block: int | None
    component: str
    part: str
    error: float
    reference_error: float
    ratio: float


@dataclass(frozen=True)
class DepthProfile:
    """What one cell's error is at each block and component.

    Attributes:
        cell: which cell.
        n_blocks: how many blocks the model has.
        sites: by the name that :func:`~tlbench.components.site` gives; what this TransformerLens has a firing hook
            for and this architecture computes.
        routing: by block, in a mixture of experts.
        silent: hook points that exist and did not fire.
        missing: quantities that the architecture computes and this TransformerLens has no hook point for.
    """

    cell: Cell
    n_blocks: int
    sites: dict[str, SiteError]
    routing: tuple[RoutingAgreement, ...]
    silent: tuple[str, ...]
    missing: tuple[str, ...]

    def at(self, block: int, component: Component) -> SiteError | None:
        """The errors of one quantity, if it was seen."""
        return self.sites.get(site(block, component))

    @property
    def outputs(self) -> list[SiteError | None]:
        """The residual stream after each block."""
        return [self.at(i, Component.RESID_POST) for i in range(self.n_blocks)]

    @property
    def propagated_last(self) -> float | None:
        """The relative error of the residual stream after the last block."""
        last = self.outputs[-1]
        return last.propagated if last else None

    @cached_property
    def worst_local(self) -> tuple[int, float] | None:
        """The block with the largest local error of any component, and that error."""
        found = [
            (error.local, i)
            for i in range(self.n_blocks)
            for component in BLOCK_COMPONENTS
            if component is not Component.RESID_PRE and (error := self.at(i, component))
        ]
        if not found:
            return None
        largest, block = max(found, key=lambda pair: (pair[0], -pair[1]))
        return block, largest

    @property
    def local_ratio(self) -> float | None:
        """The largest ratio of a local error to HuggingFace's own."""
        return max((ratio for _, _, ratio in self._ratios()), default=None)

    @property
    def routing_disagreement(self) -> float | None:
        """The share of the tokens and blocks that go to other experts than they should; None without experts."""
        return 1 - sum(one.agreement for one in self.routing) / len(self.routing) if self.routing else None

    @property
    def amplification(self) -> list[float | None]:
        """For each block's output, the propagated error over the local one."""
        return [one.propagated / one.local if one and one.local else None for one in self.outputs]

    @property
    def growth(self) -> Growth | None:
        """Of the propagated error of the residual stream over depth."""
        seen = [(i + 1.0, one.propagated) for i, one in enumerate(self.outputs) if one]
        return fit([depth for depth, _ in seen], [error for _, error in seen])

    def first_wrong(self) -> Wrong | None:
        """The first quantity, in the order of computation, whose local error is beyond the gate; None if none is."""
        for name, error, ratio in self._ratios():
            if not ratio <= RATIO_GATE[self.cell.dtype]:
                return _wrong(name, error, ratio)
        return None

    def ratio(self, error: SiteError) -> float:
        """The local error over HuggingFace's own, or over one rounding at the dtype where that is larger.

        1 where neither is finite: HuggingFace overflows there, too.
        """
        return times(error.local, error.reference_local, UNIT_ROUNDOFF[self.cell.dtype])

    def _ratios(self) -> Iterator[tuple[str, SiteError, float]]:
        names = [
            site(i, c) for i in range(self.n_blocks) for c in BLOCK_COMPONENTS if c is not Component.RESID_PRE or i == 0
        ]
        for name in (*names, LN_FINAL, LOGITS):
            error = self.sites.get(name)
            if error:
                yield name, error, self.ratio(error)


def _wrong(name: str, error: SiteError, ratio: float) -> Wrong:
    figures = (error.local, error.reference_local, ratio)
    if name == LN_FINAL:
        return Wrong(None, LN_FINAL, "norm", *figures)
    if name == LOGITS:
        return Wrong(None, LOGITS, "unembedding", *figures)
    _, block, text = name.split(".")
    component = Component(text)
    if component is Component.RESID_PRE:
        return Wrong(None, "embed", component.part, *figures)
    return Wrong(int(block), component.value, component.part, *figures)
