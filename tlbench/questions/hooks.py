"""Are hooks and caches faithful? Checks that need no reference, and interventions against the golden."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from safetensors import safe_open
from torch import Tensor

from tlbench.checkpoints import Checkpoint
from tlbench.components import Component, site
from tlbench.exceptions import CellFailed, NoGolden, NotApplicable
from tlbench.grid import Cell, Dtype
from tlbench.lens.interface import Hook, Lens, failures
from tlbench.metrics.relative_error import relative_error
from tlbench.metrics.worst import worst
from tlbench.questions.attempts import Attempts
from tlbench.questions.depth import hook_names
from tlbench.questions.loading import Loaded, load_cell
from tlbench.records.inside import HookTruth, Pair
from tlbench.reference import huggingface
from tlbench.reference.activations import Exact, exact, huggingface_inside
from tlbench.reference.interventions import CHANGES

SUMMED = (Component.RESID_PRE, Component.ATTN_OUT, Component.MLP_OUT, Component.RESID_POST)
"""A block's input, what attention and MLP add to it, and its output."""
SUM_ROUNDING = 1e-9
"""A golden pattern's row that should sum to one does so up to float64 rounding, n * 2**-53 for n entries."""


def measure_hooks(cell: Cell, loaded: Loaded | None = None) -> HookTruth:
    """Check everything that hooks and caches promise in one cell: about a dozen forward passes.

    Raises what :func:`load_cell` raises, and CellFailed if running the model raised.
    """
    checkpoint, lens = loaded or load_cell(cell)
    ids = huggingface.tokens(checkpoint, "natural")
    attempts = Attempts(lens.inputs.task)
    with torch.inference_mode():
        with failures("the forward pass"):
            plain = lens.logits(ids)
        sums = attempts.attempt("sums", lambda: _sums(lens, ids)) or []
        return HookTruth(
            cell=cell,
            additivity=worst(sums),
            additivity_block=sums.index(max(sums)) if sums else None,
            pattern_rows=attempts.attempt("patterns", lambda: _pattern_rows(checkpoint, cell, lens, ids)),
            **vars(attempts.attempt("counts", lambda: _identity_hooks(lens, ids, plain)) or _IdentityHooks()),
            cached=attempts.attempt("cache", lambda: _largest(lens.run_with_cache(ids)[0], plain)),
            final=attempts.attempt("final", lambda: _final(lens, ids, plain)),
            stop_at_layer=attempts.attempt("stop_at_layer", lambda: _stop(lens, ids)),
            start_at_layer=attempts.attempt("start_at_layer", lambda: _start(lens, ids, plain)),
            edits=attempts.attempt("edits", lambda: _interventions(checkpoint, cell, lens, ids)) or {},
            reasons=attempts.reasons,
        )


def _sums(lens: Lens, ids: Tensor) -> list[float]:
    """The error of input + attention + MLP against the output, by block."""
    errors: list[float] = []
    activations: dict[Component, Tensor] = {}

    def keep(component: Component, value: Tensor) -> None:
        activations[component] = value.clone()  # the model may add to the original in place later
        if component is Component.RESID_POST:
            errors.append(_additivity(activations))
            activations.clear()

    names = hook_names(lens)
    hooks: dict[str, Hook] = {}
    for i, component in product(range(lens.n_blocks), SUMMED):
        hook = names[site(i, component)]
        if not lens.has_hook(hook):
            raise NotApplicable(f"this TransformerLens has no {hook}")
        hooks[hook] = partial(keep, component)
    lens.run_with_hooks(ids, hooks)
    return errors


def _pattern_rows(checkpoint: Checkpoint, cell: Cell, lens: Lens, ids: Tensor) -> float:
    """How wrong attention patterns are at most: how negative an entry is, or how far off a row's sum is.

    A row sums to one. With attention sinks, as in GPT-OSS, it sums to one minus the sink's probability, which the golden
    provides. That depends on the block's input, so every block is then fed its golden input: otherwise the errors of
    earlier blocks would count.
    """
    faults: list[float] = []
    names = hook_names(lens)
    g = _golden_with_sinks(checkpoint, cell.dtype)
    hooks = {} if g is None else _feeding_hooks(lens, g)

    def look(row_sums: Tensor | float, pattern: Tensor) -> None:
        rows = pattern.double().cpu().sum(-1)
        if isinstance(row_sums, Tensor) and rows.shape != row_sums.shape:
            shapes = f"{list(rows.shape)}, the golden's of shape {list(row_sums.shape)}"
            raise CellFailed(f"TransformerLens's pattern has rows of shape {shapes}")
        faults.extend(((rows - row_sums).abs().max().item(), -pattern.min().item()))

    for i in range(lens.n_blocks):
        if lens.has_hook(hook := names[site(i, Component.PATTERN)]):
            hooks[hook] = partial(look, 1.0 if g is None else _row_sums(g, i))
    lens.run_with_hooks(ids, hooks)
    if (largest := worst(faults)) is None:
        raise NotApplicable("no hook point returns an attention pattern")
    return largest


def _row_sums(g: Exact, block: int) -> Tensor:
    """The row sums of a block's golden pattern. ``[batch, head, query_pos]``"""
    if (pattern := g.get(block, Component.PATTERN)) is None:
        raise NotApplicable(f"block {block} has no golden pattern, and its rows need not sum to one")
    return pattern.sum(-1)


def _golden_with_sinks(checkpoint: Checkpoint, dtype: Dtype) -> Exact | None:
    """The golden activations if attention has sinks; None if every row of a pattern sums to one."""
    try:
        g = exact(checkpoint, dtype)
    except (NotApplicable, NoGolden) as error:
        if not _stores_sinks(checkpoint):
            return None
        reason = "a row sums to one minus its attention sink's probability, which is unknown here"
        raise type(error)(f"{reason}: {error}") from error
    patterns = (g.get(i, Component.PATTERN) for i in range(g.n_blocks))
    has_sinks = any((pattern.sum(-1) - 1).abs().max() > SUM_ROUNDING for pattern in patterns if pattern is not None)
    return g if has_sinks or _stores_sinks(checkpoint) else None


def _stores_sinks(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint has a weight called ``sinks``, its name in every architecture of transformers 5.23."""
    for path in checkpoint.folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            if any(name.rsplit(".", 1)[-1] == "sinks" for name in file.keys()):  # noqa: SIM118
                return True
    return False


def _feeding_hooks(lens: Lens, g: Exact) -> dict[str, Hook]:
    """Hooks that feed every block its golden input."""

    def replace(golden_input: Tensor, value: Tensor) -> Tensor:
        return golden_input.to(value.dtype).to(value.device)

    if lens.n_blocks != g.n_blocks:
        raise CellFailed(f"TransformerLens has {lens.n_blocks} blocks, the checkpoint has {g.n_blocks}")
    names = hook_names(lens)
    hooks = [names[site(i, Component.RESID_PRE)] for i in range(g.n_blocks)]
    if absent := [hook for hook in hooks if not lens.has_hook(hook)]:
        raise NotApplicable(f"this TransformerLens has no {absent[0]}: golden inputs cannot be fed")
    inputs = g.inputs()[: g.n_blocks]
    return {hook: partial(replace, golden_input) for hook, golden_input in zip(hooks, inputs, strict=True)}


def _additivity(activations: dict[Component, Tensor]) -> float:
    """0 if some order of summation gives the output bit for bit, otherwise the relative error of the float64 sum."""
    if missing := set(SUMMED) - activations.keys():
        raise NotApplicable(f"no hook fired for {', '.join(sorted(missing))}")
    pre, attn, mlp, post = (activations[component] for component in SUMMED)
    mlp = mlp.reshape(post.shape)
    totals = ((pre + attn) + mlp, pre + (attn + mlp), (pre + mlp) + attn)
    if any(torch.equal(total.to(post.dtype), post) for total in totals):
        return 0.0
    return relative_error(pre.double() + attn.double() + mlp.double(), post)


@dataclass(frozen=True)
class _IdentityHooks:
    """The figures of :class:`HookTruth` that come from an identity hook on every hook point."""

    hooked: float | None = None
    n_hooks: int = 0
    refused: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    leftover: int = 0


def _identity_hooks(lens: Lens, ids: Tensor, plain: Tensor) -> _IdentityHooks:
    """Put an identity hook on every hook point: how the logits change, which hooks fire, and which stay attached."""
    fired: Counter[str] = Counter()

    def identity(name: str, value: Tensor) -> Tensor:
        fired[name] += 1
        return value

    before = lens.count_hooks()
    every = lens.hook_names()
    names = [name for name in every if lens.accepts_hook(name)]
    logits = lens.run_with_hooks(ids, {name: partial(identity, name) for name in names})
    return _IdentityHooks(
        hooked=_largest(logits, plain),
        n_hooks=len(every),
        refused=tuple(name for name in every if name not in names),
        silent=tuple(name for name in names if not fired[name]),
        repeated=tuple(name for name in names if fired[name] > 1),
        leftover=lens.count_hooks() - before,
    )


def _final(lens: Lens, ids: Tensor, plain: Tensor) -> float:
    """The hooked residual stream through final norm and unembedding: 0 if it gives the logits, else the relative error."""
    logits = lens.unembedded(_hooked(lens, ids, site(lens.n_blocks - 1, Component.RESID_POST)))
    return 0.0 if torch.equal(logits, plain) else relative_error(logits, plain, centred=True)


def _stop(lens: Lens, ids: Tensor) -> float:
    """``stop_at_layer`` at the middle block against the hooked residual stream."""
    middle = lens.n_blocks // 2
    return _largest(lens.stopped_at(ids, middle), _hooked(lens, ids, site(middle, Component.RESID_PRE)))


def _start(lens: Lens, ids: Tensor, plain: Tensor) -> float:
    """``start_at_layer`` at the middle block, from the hooked residual stream, against the full run."""
    middle = lens.n_blocks // 2
    return _largest(lens.started_at(_hooked(lens, ids, site(middle, Component.RESID_PRE)), middle), plain)


def _hooked(lens: Lens, ids: Tensor, name: str) -> Tensor:
    """The named activation, from a hook."""
    activations: list[Tensor] = []
    lens.run_with_hooks(ids, {hook_names(lens)[name]: activations.append})
    return activations[-1]


def _interventions(checkpoint: Checkpoint, cell: Cell, lens: Lens, ids: Tensor) -> dict[str, Pair]:
    """The relative error of the last position's logits under each intervention, and HuggingFace's own."""
    g = exact(checkpoint, cell.dtype)
    reference = huggingface_inside(checkpoint, cell.dtype)
    names = hook_names(lens)
    errors = {}
    for edit, change in CHANGES.items():
        logits = lens.run_with_hooks(ids, {names[change.site(lens.n_blocks)]: change.apply})[:, -1]
        reference_error = relative_error(reference.edited[edit], g.edited(edit), centred=True)
        errors[edit.value] = Pair(relative_error(logits, g.edited(edit), centred=True), reference_error)
    return errors


def _largest(a: Tensor, b: Tensor) -> float:
    """The largest difference. 0 if both match, non-finite entries included; infinite if a difference is not finite."""
    if torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) and torch.equal(a.isfinite(), b.isfinite()):
        return 0.0
    difference = (a.double() - b.double()).abs().max().item()
    return difference if math.isfinite(difference) else math.inf
