"""At which block and component does error enter? Two forward passes: one from the tokens, one with golden block inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from tlbench.catalogue import Task
from tlbench.components import LN_FINAL, LOGITS, ROUTING, Component, site
from tlbench.exceptions import CellFailed, NotApplicable
from tlbench.grid import Cell
from tlbench.lens.interface import Hook, Lens, failures
from tlbench.questions.loading import Loaded, load_cell
from tlbench.records.depth_profile import DepthProfile, RoutingAgreement, SiteError
from tlbench.reference import huggingface
from tlbench.reference.activations import Errors, Exact, exact, huggingface_errors

NORMALISED = "hook_normalized"
HOOKS: dict[Component | str, tuple[str, ...]] = {
    Component.RESID_PRE: ("hook_resid_pre",),
    Component.LN1: (f"ln1.{NORMALISED}", f"norm.{NORMALISED}"),
    Component.MIXER_OUT: ("mixer.hook_out", "mamba.hook_out", "linear_attn.hook_out", "conv.hook_out"),
    Component.PATTERN: ("attn.hook_pattern", "self_attn.hook_pattern"),
    Component.ATTN_OUT: ("hook_attn_out", "ln1_post.hook_out"),
    Component.CROSS_ATTN_OUT: ("ln2_post.hook_out", "cross_attn.hook_out"),
    Component.LN2: (f"ln2.{NORMALISED}",),
    ROUTING: ("mlp.hook_expert_indices",),
    Component.MLP_OUT: ("hook_mlp_out", "ln3_post.hook_out", "ln2_post.hook_out"),
    Component.RESID_POST: ("hook_resid_post",),
}
"""Hook points of both wrappers. The first name has not changed since TransformerLens 1.0; the others are those of decoders
that attend to an encoder, and of blocks that are not attention and an MLP."""


def measure_depth(cell: Cell, loaded: Loaded | None = None) -> DepthProfile:
    """Measure the errors inside a cell's model, by block and component, as activations pass by. No activation is kept.

    Raises what :func:`load_cell` and :func:`huggingface_errors` raise, and CellFailed if running the model raised or an
    activation's shape differs from HuggingFace's.
    """
    checkpoint, lens = loaded or load_cell(cell)
    g = exact(checkpoint, cell.dtype, whole=False)
    reference = huggingface_errors(checkpoint, cell.dtype)
    if lens.n_blocks != g.n_blocks:
        raise CellFailed(f"TransformerLens has {lens.n_blocks} blocks, the checkpoint has {g.n_blocks}")
    names = hook_names(lens)
    computed = {name for name in names if g.has(name)}
    present = {name: hook for name, hook in names.items() if name in computed and lens.has_hook(hook)}
    ids = huggingface.tokens(checkpoint, "natural")
    propagated = _errors(lens, ids, g, present, fed=False)
    local = _errors(lens, ids, g, present, fed=True)
    fired = propagated.seen & local.seen
    # Where HuggingFace itself sends no token to the right experts, there is nothing to compare with.
    own = {name for name, error in reference.local.items() if error < math.inf}
    comparable = propagated.found.keys() & local.found.keys() & own
    return DepthProfile(
        cell=cell,
        n_blocks=g.n_blocks,
        n_encoder_blocks=g.n_encoder_blocks,
        sites={
            name: SiteError(propagated.found[name], local.found[name], reference.propagated[name], reference.local[name])
            for name in (*names, LOGITS)
            if name in comparable and not name.endswith(ROUTING)
        },
        routing=tuple(
            RoutingAgreement(propagated.found[name], reference.propagated[name])
            for name in (site(i, ROUTING) for i in range(g.n_blocks))
            if name in comparable
        ),
        silent=tuple(hook for name, hook in present.items() if name not in fired),
        missing=(
            *(names[name] for name in names if name in computed and name not in present),
            *(name for name in g.tensors if name.endswith(Component.MIXER_OUT) and name not in names),
        ),
    )


def hook_names(lens: Lens) -> dict[str, str]:
    """TransformerLens's hook points by quantity name, in order of computation."""
    names = {}
    has_encoder = lens.inputs.task is Task.ENCODER_DECODER
    for i, block in enumerate(lens.blocks):
        for component, hooks in HOOKS.items():
            if component is Component.CROSS_ATTN_OUT and not has_encoder:
                continue
            candidates = [f"{block}.{hook}" for hook in hooks]
            found = next(filter(lens.has_hook, candidates), None)
            if found or component is not Component.MIXER_OUT:  # most blocks have no mixer
                names[site(i, component)] = found or candidates[0]
    last = "decoder_ln_final" if has_encoder else "ln_final"
    return {**names, LN_FINAL: f"{last}.{NORMALISED}"}


def _errors(lens: Lens, ids: Tensor, g: Exact, hooks: dict[str, str], *, fed: bool) -> Errors:
    """The relative error of each quantity. With ``fed``, every block and the final norm get their golden input."""
    errors = Errors(g, fed=fed)
    feeds = dict(zip(g.input_names, g.inputs(), strict=True)) if fed else {}
    if absent := [name for name in feeds if name not in hooks]:
        raise NotApplicable(f"this TransformerLens has no hook point for {absent[0]}: golden inputs cannot be fed")

    def look(name: str, hook: str) -> Hook:
        as_defined: Callable[[Tensor], Tensor] = lens.before_gain(hook) if hook.endswith(NORMALISED) else lambda value: value
        if name.endswith(ROUTING):
            as_defined = partial(g.expert_mask, name)

        def edit(value: Tensor) -> Tensor | None:
            errors.see(name, as_defined(value))
            feed = feeds.get(name)
            return None if feed is None else feed.to(value.dtype).to(value.device)

        return edit

    with failures("run_with_hooks"), torch.inference_mode():
        logits = lens.run_with_hooks(ids, {hook: look(name, hook) for name, hook in hooks.items()})
    errors.see(LOGITS, logits)
    return errors
