"""Records of what TransformerLens promises beyond its logits: figures only, None where one is missing.

``reasons`` say why a figure is missing, by its attribute's name.
"""

from __future__ import annotations

from dataclasses import dataclass

from tlbench.grid import Cell


@dataclass(frozen=True)
class Causality:
    """Whether another last token leaves the earlier logits alone. All are largest differences, in nats.

    Attributes:
        last_token: the change of the earlier positions' logits.
        given_last_token: the same of a model made with ``hf_model=``, loaded under HuggingFace's default attention.
        given_logits: that model's logits against HuggingFace's own under the default attention.
    """

    cell: Cell
    last_token: float | None
    given_last_token: float | None
    given_logits: float | None
    reasons: dict[str, str]


@dataclass(frozen=True)
class Padding:
    """Prompts of unequal length in one batch, with a mask, against each prompt alone.

    Attributes:
        left: the largest difference of the logits with padding on the left, in nats.
        right: the same with padding on the right.
        generated: the number of greedy tokens from the first that differs, with padding on the left.
        loss: the difference of the mean loss with padding on the left, in nats.
        listed: as ``generated``, if ``generate`` gets both prompts as texts in one list.
    """

    cell: Cell
    left: float | None
    right: float | None
    generated: int | None
    loss: float | None
    listed: int | None
    reasons: dict[str, str]


@dataclass(frozen=True)
class Loss:
    """TransformerLens's loss against the cross-entropy of HuggingFace's logits, in nats of the realised token.

    Attributes:
        mean: the difference of the means, by ``return_type="loss"``.
        per_token: the largest difference at any token, by ``loss_per_token``.
    """

    cell: Cell
    mean: float | None
    per_token: float | None
    reasons: dict[str, str]


@dataclass(frozen=True)
class Switches:
    """How much each switch that must be an identity moves the logits: the largest difference, in nats."""

    cell: Cell
    use_attn_result: float | None
    use_split_qkv_input: float | None
    use_attn_in: float | None
    use_hook_mlp_in: float | None
    refactor_factored_attn_matrices: float | None
    reasons: dict[str, str]


@dataclass(frozen=True)
class Accessors:
    """Whether accessors such as ``W_Q`` return the checkpoint's weights, bit for bit.

    Attributes:
        compared: the accessors that were compared.
        wrong: those that differ, each with the reason.
    """

    cell: Cell
    compared: tuple[str, ...]
    wrong: dict[str, str]
    reasons: dict[str, str]

    @property
    def n_wrong(self) -> int | None:
        """How many differ; None if none could be compared."""
        return len(self.wrong) if self.compared else None


@dataclass(frozen=True)
class Backward:
    """Gradients that TransformerLens hands out against autograd's, as relative errors: the largest over the hook points.

    Attributes:
        bwd_hooks: those that backward hooks get from ``run_with_hooks``.
        incl_bwd: those that ``run_with_cache`` stores with ``incl_bwd``.
    """

    cell: Cell
    bwd_hooks: float | None
    incl_bwd: float | None
    reasons: dict[str, str]


@dataclass(frozen=True)
class Decomposition:
    """Whether the parts of the residual stream are what they claim.

    Attributes:
        accumulated: the largest difference of ``accumulated_resid`` from the hooked residual stream, block by block.
        logit_lens: the largest difference of the last of ``accumulated_resid(apply_ln=True)``, unembedded, from the logits,
            in nats.
        decomposed: the relative error of the sum of ``decompose_resid``.
        attributed: the difference of the sum of ``logit_attrs`` from the logit difference of two tokens, in nats.
    """

    cell: Cell
    accumulated: float | None
    logit_lens: float | None
    decomposed: float | None
    attributed: float | None
    reasons: dict[str, str]


@dataclass(frozen=True)
class HeldMemory:
    """What a loaded model holds beside HuggingFace's, in bytes, shared tensors once.

    Attributes:
        parameter_bytes: HuggingFace's parameters.
        reference_bytes: all that HuggingFace's model holds.
        untied_bytes: the embedding, if the checkpoint shares it with the unembedding, which processing separates.
        held_bytes: all that TransformerLens's model holds, after a forward pass over one token.
        left_bytes: what a forward pass over the prompts leaves in the model beyond that.
    """

    cell: Cell
    parameter_bytes: int
    reference_bytes: int
    untied_bytes: int
    held_bytes: int
    left_bytes: int

    @property
    def copies(self) -> float:
        """What it holds beyond HuggingFace's model, in copies of the parameters."""
        return max(self.held_bytes - self.reference_bytes - self.untied_bytes, 0) / self.parameter_bytes
