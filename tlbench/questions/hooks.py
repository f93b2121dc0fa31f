"""Do hooks and caches tell the truth? What needs no reference, and edits against the exact function's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from tlbench.checkpoints import Checkpoint
from tlbench.components import Component, site
from tlbench.exceptions import CellFailed, NoGolden, NotApplicable
from tlbench.grid import Cell, Dtype
from tlbench.lens.interface import Hook, Lens
from tlbench.metrics.relative_error import relative_error
from tlbench.metrics.worst import worst
from tlbench.questions.attempts import Attempts
from tlbench.questions.depth import hook_names
from tlbench.questions.loading import Loaded, load_cell
from tlbench.records.inside import HookTruth, Pair
from tlbench.reference import huggingface
from tlbench.reference.activations import Exact, exact, huggingface_inside
from tlbench.reference.interventions import CHANGES

SUM_ROUNDING = 1e-9
"""A row of an exact pattern that sums to one does so up to float64's rounding, n * 2**-53 for n entries."""


def measure_hooks(cell: Cell, loaded: Loaded | None = None) -> HookTruth:
    """Everything that hooks and caches promise, of one cell: about a dozen forward passes.

    Args:
        cell: which cell.
        loaded: what :func:`~tlbench.questions.loading.load_cell` gave for it, where that is there already.

    Raises:
        BadInput: if the model is not in the catalogue, or its checkpoint is missing or altered.
        CheckpointUnavailable: if it is a hub model that is not on this machine.
        NotApplicable: if this TransformerLens has no such wrapper, option or architecture.
        CellFailed: if loading or running raised.
    """
    checkpoint, lens = loaded or load_cell(cell)
    ids = huggingface.tokens(checkpoint, "natural")
    attempts = Attempts()
    with torch.inference_mode():
        try:
            plain = lens.logits(ids)
        except Exception as error:
            raise CellFailed(f"the forward pass raised {type(error).__name__}: {error}") from error
        sums = attempts.attempt("sums", lambda: _sums(lens, ids)) or []
        patterns = attempts.attempt("patterns", lambda: _pattern_rows(checkpoint, cell, lens, ids))
        counts = attempts.attempt("counts", lambda: _identity_hooks(lens, ids, plain))
        cached = attempts.attempt("cache", lambda: _largest(lens.run_with_cache(ids)[0], plain))
        final = attempts.attempt("final", lambda: _final(lens, ids, plain))
        stop = attempts.attempt("stop_at_layer", lambda: _stop(lens, ids))
        start = attempts.attempt("start_at_layer", lambda: _start(lens, ids, plain))
        edits = attempts.attempt("edits", lambda: _edits(checkpoint, cell, lens, ids)) or {}
    return HookTruth(
        cell=cell,
        additivity=worst(sums),
        additivity_block=sums.index(max(sums)) if sums else None,
        pattern_rows=patterns,
        final=final,
        cached=cached,
        hooked=counts.disturbance if counts else None,
        n_hooks=counts.n_hooks if counts else 0,
        refused=counts.refused if counts else (),
        silent=counts.silent if counts else (),
        repeated=counts.repeated if counts else (),
        leftover=counts.leftover if counts else 0,
        stop_at_layer=stop,
        start_at_layer=start,
        edits=edits,
        reasons=attempts.reasons,
    )


def _sums(lens: Lens, ids: Tensor) -> list[float]:
    """By block, how far input + attention + MLP is from the output."""
    found: list[float] = []
    now: dict[Component, Tensor] = {}

    def keep(component: Component) -> Callable[[Tensor], None]:
        def look(value: Tensor) -> None:
            # What is added in place afterwards must not be seen.
            now[component] = value.clone()
            if component is Component.RESID_POST:
                found.append(_additivity(now))
                now.clear()

        return look

    names = hook_names(lens.n_blocks)
    hooks = {}
    for i in range(lens.n_blocks):
        for component in (Component.RESID_PRE, Component.ATTN_OUT, Component.MLP_OUT, Component.RESID_POST):
            hook = names[site(i, component)]
            if not lens.has_hook(hook):
                raise NotApplicable(f"this TransformerLens has no {hook}")
            hooks[hook] = keep(component)
    lens.run_with_hooks(ids, hooks)
    return found


def _pattern_rows(checkpoint: Checkpoint, cell: Cell, lens: Lens, ids: Tensor) -> float:
    """By how much an attention pattern is wrong, at most: how negative an entry is, or how far off the sum of a row is.

    A row sums to one. Where attention has sinks, as in GPT-OSS, it sums to one less the sink's probability, and the exact
    function says how much that is. It depends on what the block reads, so there every block is fed its exact input: else
    the errors of the blocks before it would count.
    """
    found: list[float] = []
    names = hook_names(lens.n_blocks)
    g = _exact_with_sinks(checkpoint, cell.dtype)
    hooks = {} if g is None else _feeding(lens, g)

    def look(row_sums: Tensor | float, pattern: Tensor) -> None:
        found.extend(_distances(pattern, row_sums))

    for i in range(lens.n_blocks):
        if lens.has_hook(hook := names[site(i, Component.PATTERN)]):
            hooks[hook] = partial(look, 1.0 if g is None else _row_sums(g, i))
    lens.run_with_hooks(ids, hooks)
    largest = worst(found)
    if largest is None:
        raise NotApplicable("no hook point gives an attention pattern")
    return largest


def _distances(pattern: Tensor, row_sums: Tensor | float) -> tuple[float, float]:
    """How far a row's sum is from ``row_sums``, ``[batch, head, query_pos]``, at most; and how negative an entry is."""
    rows = pattern.double().cpu().sum(-1)
    if isinstance(row_sums, Tensor) and rows.shape != row_sums.shape:
        shapes = f"{list(rows.shape)} where the exact function has {list(row_sums.shape)}"
        raise CellFailed(f"TransformerLens's pattern has rows of shape {shapes}")
    return (rows - row_sums).abs().max().item(), -pattern.min().item()


def _row_sums(g: Exact, block: int) -> Tensor:
    """What the rows of a block's exact pattern sum to. ``[batch, head, query_pos]``"""
    pattern = g.get(block, Component.PATTERN)
    if pattern is None:
        raise NotApplicable(f"the exact pattern of block {block}, whose rows need not sum to one, is not known")
    return pattern.sum(-1)


def _exact_with_sinks(checkpoint: Checkpoint, dtype: Dtype) -> Exact | None:
    """The exact function if its attention has sinks; None if every row of a pattern sums to one.

    Raises:
        NotApplicable, NoGolden: if it has sinks and the exact function is not known, so that neither are the sums.
    """
    try:
        g = exact(checkpoint, dtype)
    except (NotApplicable, NoGolden) as error:
        if not _stores_sinks(checkpoint):
            return None
        reason = "a row sums to one less its attention sink's probability, which is not known"
        raise type(error)(f"{reason}: {error}") from error
    patterns = (g.get(i, Component.PATTERN) for i in range(g.n_blocks))
    has_sinks = any((pattern.sum(-1) - 1).abs().max() > SUM_ROUNDING for pattern in patterns if pattern is not None)
    return g if has_sinks or _stores_sinks(checkpoint) else None


def _stores_sinks(checkpoint: Checkpoint) -> bool:
    """Whether a weight of the checkpoint is called ``sinks``, its name in every architecture of transformers 5.23."""
    for path in checkpoint.folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            if any(name.rsplit(".", 1)[-1] == "sinks" for name in file.keys()):  # noqa: SIM118
                return True
    return False


def _feeding(lens: Lens, g: Exact) -> dict[str, Hook]:
    """Hooks that have every block read its exact input."""
    if lens.n_blocks != g.n_blocks:
        raise CellFailed(f"TransformerLens has {lens.n_blocks} blocks where the checkpoint has {g.n_blocks}")
    names = hook_names(g.n_blocks)
    hooks: dict[str, Hook] = {}
    for i, exact_input in enumerate(g.inputs()[:-1]):
        hook = names[site(i, Component.RESID_PRE)]
        if not lens.has_hook(hook):
            raise NotApplicable(f"this TransformerLens has no {hook}: its blocks cannot be fed")
        hooks[hook] = partial(_replaced, exact_input)
    return hooks


def _replaced(exact_input: Tensor, value: Tensor) -> Tensor:
    return exact_input.to(value.dtype).to(value.device)


def _additivity(found: dict[Component, Tensor]) -> float:
    """0 where some order of summation gives the output bit for bit; else the relative error of the sum in float64."""
    if len(found) < 4:
        missing = {Component.RESID_PRE, Component.ATTN_OUT, Component.MLP_OUT, Component.RESID_POST} - found.keys()
        raise NotApplicable(f"a hook does not fire: {', '.join(sorted(missing))}")
    pre, attn, mlp, post = (
        found[c] for c in (Component.RESID_PRE, Component.ATTN_OUT, Component.MLP_OUT, Component.RESID_POST)
    )
    mlp = mlp.reshape(post.shape)
    if any(
        torch.equal(total.to(post.dtype), post) for total in ((pre + attn) + mlp, pre + (attn + mlp), (pre + mlp) + attn)
    ):
        return 0.0
    return relative_error(pre.double() + attn.double() + mlp.double(), post)


@dataclass(frozen=True)
class _Counts:
    disturbance: float
    n_hooks: int
    refused: tuple[str, ...]
    silent: tuple[str, ...]
    repeated: tuple[str, ...]
    leftover: int


def _identity_hooks(lens: Lens, ids: Tensor, plain: Tensor) -> _Counts:
    """An identity hook on every hook point: the change of the logits, which fire, and what is left of them afterwards."""
    fired: Counter[str] = Counter()

    def identity(name: str) -> Callable[[Tensor], Tensor]:
        def hooked(value: Tensor) -> Tensor:
            fired[name] += 1
            return value

        return hooked

    before = lens.count_hooks()
    every = lens.hook_names()
    names = [name for name in every if lens.accepts_hook(name)]
    logits = lens.run_with_hooks(ids, {name: identity(name) for name in names})
    return _Counts(
        disturbance=_largest(logits, plain),
        n_hooks=len(every),
        refused=tuple(name for name in every if name not in names),
        silent=tuple(name for name in names if not fired[name]),
        repeated=tuple(name for name in names if fired[name] > 1),
        leftover=lens.count_hooks() - before,
    )


def _final(lens: Lens, ids: Tensor, plain: Tensor) -> float:
    """The cached residual stream through final norm and unembedding against the logits: 0, or the relative error."""
    last: list[Tensor] = []
    name = hook_names(lens.n_blocks)[site(lens.n_blocks - 1, Component.RESID_POST)]
    lens.run_with_hooks(ids, {name: last.append})
    logits = lens.unembedded(last[-1])
    return 0.0 if torch.equal(logits, plain) else relative_error(logits, plain, centred=True)


def _stop(lens: Lens, ids: Tensor) -> float:
    """``stop_at_layer`` half-way against the hooked residual stream."""
    return _largest(lens.stopped_at(ids, lens.n_blocks // 2), _half_way(lens, ids))


def _start(lens: Lens, ids: Tensor, plain: Tensor) -> float:
    """``start_at_layer`` from the residual stream half-way against the full run."""
    return _largest(lens.started_at(_half_way(lens, ids), lens.n_blocks // 2), plain)


def _half_way(lens: Lens, ids: Tensor) -> Tensor:
    seen: list[Tensor] = []
    lens.run_with_hooks(ids, {hook_names(lens.n_blocks)[site(lens.n_blocks // 2, Component.RESID_PRE)]: seen.append})
    return seen[-1]


def _edits(checkpoint: Any, cell: Cell, lens: Lens, ids: Tensor) -> dict[str, Pair]:
    """The relative error of the logits at the last position under each edit, and HuggingFace's own."""
    g = exact(checkpoint, cell.dtype)
    reference = huggingface_inside(checkpoint, cell.dtype)
    names = hook_names(lens.n_blocks)
    found = {}
    for edit, change in CHANGES.items():
        logits = lens.run_with_hooks(ids, {names[change.site(lens.n_blocks)]: change.apply})[:, -1]
        own = relative_error(reference.edited[edit], g.edited(edit), centred=True)
        found[edit.value] = Pair(relative_error(logits, g.edited(edit), centred=True), own)
    return found


def _largest(one: Tensor, other: Tensor) -> float:
    """The largest difference; infinite where one is not finite and the other is, or is otherwise."""
    if torch.equal(torch.nan_to_num(one), torch.nan_to_num(other)) and torch.equal(one.isfinite(), other.isfinite()):
        return 0.0
    difference = (one.double() - other.double()).abs().max().item()
    return difference if math.isfinite(difference) else math.inf
