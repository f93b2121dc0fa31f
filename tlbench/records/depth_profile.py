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

COMPUTED_BY_BLOCK = tuple(component for component in BLOCK_COMPONENTS if component is not Component.RESID_PRE)


@dataclass(frozen=True)
class SiteError:
    """The relative errors of one quantity against its golden value. ``reference_`` is HuggingFace at the same dtype.

    Attributes:
        propagated: in a model run from the tokens.
        local: in a block that was fed its golden input.
    """

    propagated: float
    local: float
    reference_propagated: float
    reference_local: float


@dataclass(frozen=True)
class RoutingAgreement:
    """The share of tokens that a mixture of experts sends to the golden's experts, and HuggingFace's at the same dtype."""

    agreement: float
    reference_agreement: float


@dataclass(frozen=True)
class Wrong:
    """The first wrong quantity.

    Attributes:
        block: index of its block; None before and after the blocks.
        component: ``embed``, a component of a block, ``ln_final`` or ``logits``.
        part: the part of the network that computes it.
        error: its relative error; ``reference_error`` is HuggingFace's own.
        ratio: see :meth:`DepthProfile.ratio`.
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
        sites: errors by :func:`~tlbench.components.site` name. One for each quantity that has a firing hook.
        routing: by block, in a mixture of experts.
        silent: hook points that exist but did not fire.
        missing: quantities that the architecture computes but this TransformerLens has no hook point for.
        n_encoder_blocks: how many of the blocks are an encoder's. They come first, and count on into the decoder's.
    """

    cell: Cell
    n_blocks: int
    sites: dict[str, SiteError]
    routing: tuple[RoutingAgreement, ...]
    silent: tuple[str, ...]
    missing: tuple[str, ...]
    n_encoder_blocks: int = 0

    def at(self, block: int, component: Component) -> SiteError | None:
        """The errors of one quantity; None if it was not seen."""
        return self.sites.get(site(block, component))

    def name_of(self, block: int) -> str:
        """A block's name: its number, in its own stack if there are two."""
        if not self.n_encoder_blocks:
            return str(block)
        is_encoder = block < self.n_encoder_blocks
        return f"encoder {block}" if is_encoder else f"decoder {block - self.n_encoder_blocks}"

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
        errors = ((i, self.at(i, component)) for i in range(self.n_blocks) for component in COMPUTED_BY_BLOCK)
        return max(((i, error.local) for i, error in errors if error), key=lambda pair: pair[1], default=None)

    @property
    def local_ratio(self) -> float | None:
        """The largest local error relative to HuggingFace's own."""
        return max((ratio for _, _, ratio in self._ratios()), default=None)

    @property
    def routing_disagreement(self) -> float | None:
        """The share of tokens, averaged over blocks, that go to other experts than the golden's; None without experts."""
        return 1 - sum(block.agreement for block in self.routing) / len(self.routing) if self.routing else None

    @property
    def growth(self) -> Growth | None:
        """How the propagated error of the residual stream grows with depth."""
        points = [(i + 1.0, error.propagated) for i, error in enumerate(self.outputs) if error]
        return fit([depth for depth, _ in points], [error for _, error in points])

    def first_wrong(self) -> Wrong | None:
        """The first quantity, in order of computation, whose local error is beyond the gate; None if there is none."""
        gate = RATIO_GATE[self.cell.dtype]
        return next((_wrong(name, error, ratio) for name, error, ratio in self._ratios() if not ratio <= gate), None)

    def ratio(self, error: SiteError) -> float:
        """The local error over HuggingFace's own, or over one rounding at the dtype if that is larger."""
        return times(error.local, error.reference_local, UNIT_ROUNDOFF[self.cell.dtype])

    def _ratios(self) -> Iterator[tuple[str, SiteError, float]]:
        in_blocks = [site(i, component) for i in range(self.n_blocks) for component in COMPUTED_BY_BLOCK]
        for name in (site(0, Component.RESID_PRE), *in_blocks, LN_FINAL, LOGITS):
            if error := self.sites.get(name):
                yield name, error, self.ratio(error)


def _wrong(name: str, error: SiteError, ratio: float) -> Wrong:
    figures = (error.local, error.reference_local, ratio)
    if part := {LN_FINAL: "norm", LOGITS: "unembedding"}.get(name):
        return Wrong(None, name, part, *figures)
    _, block, text = name.split(".")
    component = Component(text)
    if component is Component.RESID_PRE:
        return Wrong(None, "embed", component.part, *figures)
    return Wrong(int(block), component.value, component.part, *figures)
