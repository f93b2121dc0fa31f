"""A cell's errors by block and component, and the first wrong one. Works on figures only."""

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
    """The relative errors of one quantity against its golden value.

    Attributes:
        propagated: in a model run from the tokens.
        local: in a block that was fed its golden input.
        reference_propagated: HuggingFace's propagated error at the same dtype.
        reference_local: HuggingFace's local error at the same dtype.
    """

    propagated: float
    local: float
    reference_propagated: float
    reference_local: float


@dataclass(frozen=True)
class RoutingAgreement:
    """The share of tokens that a mixture of experts sends to the golden's experts.

    Attributes:
        agreement: TransformerLens's share.
        reference_agreement: HuggingFace's share at the same dtype.
    """

    agreement: float
    reference_agreement: float


@dataclass(frozen=True)
class Wrong:
    """The first wrong quantity.

    Attributes:
        block: index of its block; None before and after the blocks.
        component: ``embed``, a component of a block, ``ln_final`` or ``logits``.
        part: the part of the network that computes it.
        error: its relative error.
        reference_error: HuggingFace's own error.
        ratio: the error over HuggingFace's, or over one rounding at the dtype if that is larger.
    """

    block: int | None
    component: str
    part: str
    error: float
    reference_error: float
    ratio: float


@dataclass(frozen=True)
class DepthProfile:
    """One cell's error at each block and component.

    Attributes:
        n_blocks: number of blocks in the model.
        sites: errors by :func:`~tlbench.components.site` name, of every quantity that the architecture computes and this
            TransformerLens has a firing hook for.
        routing: by block, in a mixture of experts.
        silent: hook points that exist but did not fire.
        missing: quantities that the architecture computes but this TransformerLens has no hook point for.
    """

    cell: Cell
    n_blocks: int
    sites: dict[str, SiteError]
    routing: tuple[RoutingAgreement, ...]
    silent: tuple[str, ...]
    missing: tuple[str, ...]

    def at(self, block: int, component: Component) -> SiteError | None:
        """The errors of one quantity; None if it was not seen."""
        return self.sites.get(site(block, component))

    @property
    def outputs(self) -> list[SiteError | None]:
        """The errors of the residual stream after each block."""
        return [self.at(i, Component.RESID_POST) for i in range(self.n_blocks)]

    @property
    def propagated_last(self) -> float | None:
        """The relative error of the residual stream after the last block."""
        last = self.outputs[-1]
        return last.propagated if last else None

    @cached_property
    def worst_local(self) -> tuple[int, float] | None:
        """The block with the largest local error of any component, and that error."""
        local_errors = [
            (error.local, i)
            for i in range(self.n_blocks)
            for component in BLOCK_COMPONENTS
            if component is not Component.RESID_PRE and (error := self.at(i, component))
        ]
        if not local_errors:
            return None
        largest, block = max(local_errors, key=lambda pair: (pair[0], -pair[1]))
        return block, largest

    @property
    def local_ratio(self) -> float | None:
        """The largest local error relative to HuggingFace's own."""
        return max((ratio for _, _, ratio in self._ratios()), default=None)

    @property
    def routing_disagreement(self) -> float | None:
        """The share of tokens, averaged over blocks, that go to other experts than the golden's; None without experts."""
        return 1 - sum(block.agreement for block in self.routing) / len(self.routing) if self.routing else None

    @property
    def amplification(self) -> list[float | None]:
        """The propagated error of each block's output over its local error."""
        return [error.propagated / error.local if error and error.local else None for error in self.outputs]

    @property
    def growth(self) -> Growth | None:
        """How the propagated error of the residual stream grows with depth."""
        points = [(i + 1.0, error.propagated) for i, error in enumerate(self.outputs) if error]
        return fit([depth for depth, _ in points], [error for _, error in points])

    def first_wrong(self) -> Wrong | None:
        """The first quantity, in order of computation, whose local error is beyond the gate; None if there is none."""
        for name, error, ratio in self._ratios():
            if not ratio <= RATIO_GATE[self.cell.dtype]:
                return _wrong(name, error, ratio)
        return None

    def ratio(self, error: SiteError) -> float:
        """The local error over HuggingFace's own, or over one rounding at the dtype if that is larger.

        1 if neither is finite, since HuggingFace overflows too.
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
