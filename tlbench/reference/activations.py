"""Golden activations, and the error of HuggingFace's own activations at each dtype.

Golden activations are computed in this project's own environment, as golden logits are. HuggingFace's errors are computed
in the environment under test, in a subprocess that never imports TransformerLens.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tlbench import arithmetic, checkpoints
from tlbench.checkpoints import Checkpoint
from tlbench.components import END, LOGITS, ROUTING, Component, site
from tlbench.environments import reference_python
from tlbench.exceptions import CellFailed, NoGolden, NotApplicable, NotGolden
from tlbench.grid import Attention, Dtype, Option
from tlbench.metrics.hf_error import centred
from tlbench.metrics.relative_error import logit_difference, relative_error
from tlbench.reference import golden, huggingface
from tlbench.reference import tensor_store as store
from tlbench.reference.attribution import FOLDED_VALUE_BIASES, HEADS, VALUE_BIASES, head_attribution
from tlbench.reference.elsewhere import read_or_compute
from tlbench.reference.float64 import assert_true_float64, true_float64
from tlbench.reference.golden import Precision, Weights
from tlbench.reference.interventions import CHANGES, Edit
from tlbench.reference.sites import editing, feeding, sites, watching

PROPAGATED, LOCAL, EDITED, GRADIENT = "propagated", "local", "edited", "gradient"
TOKENS, STEPS, GREEDY, GREEDY_LOGITS = "tokens", "steps", "greedy", "greedy_logits"
GREEDY_START, GREEDY_TOKENS = 16, 32
"""How many tokens of each prompt a greedy continuation starts from, and how many it adds."""


@dataclass(frozen=True)
class Exact:
    """Golden activations of a checkpoint on the natural-text prompts, with its weights rounded to a dtype.

    Attributes:
        tensors: float64 tensors by :func:`~tlbench.components.site`, ``ln_final`` and ``logits``, plus those that the
            properties below read. A block's output is stored as the next block's input.
        n_blocks: number of blocks.
        centres: whether the norms subtract the mean, so that the residual stream is defined only up to its mean.
        n_encoder_blocks: how many of the blocks are an encoder's. They come first.
    """

    tensors: Mapping[str, Tensor]
    n_blocks: int
    centres: bool
    n_encoder_blocks: int = 0

    def get(self, block: int, component: Component) -> Tensor | None:
        """One activation, or None if this architecture has no such activation."""
        return self.by_name(site(block, component))

    def by_name(self, name: str) -> Tensor | None:
        """One activation by name, or None."""
        inner = (i for i in range(self.n_blocks) if i not in self.ends)
        outputs = {site(i, Component.RESID_POST): site(i + 1, Component.RESID_PRE) for i in inner}
        return self.tensors.get(outputs.get(name, name))

    @property
    def ends(self) -> list[int]:
        """The last block of each stack."""
        return ends_of(self.n_blocks, self.n_encoder_blocks)

    @property
    def input_names(self) -> list[str]:
        """What :meth:`inputs` returns, by name."""
        into = [site(i, Component.RESID_PRE) for i in range(self.n_blocks)]
        return into + [site(i, Component.RESID_POST) for i in self.ends]

    def has(self, name: str) -> bool:
        """Whether this architecture has an activation of this name."""
        return self.by_name(name) is not None

    def expert_mask(self, name: str, indices: Tensor) -> Tensor:
        """Turn expert indices ``[batch * pos, k]`` or ``[batch, pos, k]`` into a mask ``[batch, pos, expert]``."""
        exact = self.tensors[name]
        return torch.zeros_like(exact).scatter(-1, indices.cpu().reshape(*exact.shape[:-1], -1), 1)

    def inputs(self) -> list[Tensor]:
        """The input of each block, then the output of each stack of blocks, each ``[batch, pos, d_model]``."""
        return [self.tensors[name] for name in self.input_names]

    @property
    def tokens(self) -> Tensor:
        """The two most likely tokens at the end of each prompt, ``[batch, 2]``. They define the logit difference."""
        return self.tensors[TOKENS]

    def edited(self, edit: Edit) -> Tensor:
        """The logits at the last position under an intervention, ``[batch, d_vocab]``."""
        return self.tensors[f"{EDITED}/{edit}"]

    def gradient(self, block: int) -> Tensor:
        """The gradient of the logit difference with respect to a block's input, ``[batch, pos, d_model]``."""
        return self.tensors[f"{GRADIENT}/{block}"]

    def head_attribution(self, option: Option) -> Tensor | None:
        """What each head adds to the logit difference, ``[batch, block, head]``, or None if a norm follows the heads.

        The option may move constants out of the heads: the value biases, and what ``fold_ln`` adds to them.
        """
        if HEADS not in self.tensors:
            return None
        flags = option.flags()
        if not flags["fold_value_biases"]:
            return self.tensors[HEADS]
        return self.tensors[HEADS] - self.tensors[FOLDED_VALUE_BIASES if flags["fold_ln"] else VALUE_BIASES]

    def error(self, name: str, value: Tensor, tokens: Tensor | None = None) -> float:
        """The relative error of an activation over all tokens, or over those in a mask ``[batch, pos]``.

        Raises:
            CellFailed: if the golden has no such activation, or one of another shape.
        """
        exact = self.by_name(name)
        if exact is not None and value.ndim < exact.ndim and value.numel() == exact.numel():
            # Some implementations flatten batch and position into one dimension.
            value = value.reshape(exact.shape)
        if exact is None or exact.shape != value.shape:
            has = "has none" if exact is None else f"has shape {list(exact.shape)}"
            raise CellFailed(f"{name} has shape {list(value.shape)}, but the golden {has}")
        up_to_mean = name == LOGITS or (name not in END and self.centres and Component(name.split(".")[2]).is_residual)
        if tokens is not None:
            value, exact = value.cpu()[tokens], exact[tokens]
        return relative_error(value, exact, centred=up_to_mean)


def ends_of(n_blocks: int, n_encoder_blocks: int) -> list[int]:
    """The last block of each stack."""
    return ([n_encoder_blocks - 1] if n_encoder_blocks else []) + [n_blocks - 1]


class Errors:
    """Computes the error of each activation during a forward pass, without keeping the activations.

    Args:
        fed: whether each block reads its golden input. If so, activations after the experts leave out the tokens that went
            to the wrong ones. That error is not one of arithmetic, and ``routing`` reports it. With no token left the error
            is infinite: of a block that has its golden input, no arithmetic sends every token to others.

    Attributes:
        found: relative errors by name; for ``routing``, the share of tokens with the right experts.
        seen: the names of all activations passed to :meth:`see`.
    """

    def __init__(self, g: Exact, *, fed: bool) -> None:
        self._exact, self._fed = g, fed
        self._tokens: Tensor | None = None
        self.found: dict[str, float] = {}
        self.seen: set[str] = set()

    def see(self, name: str, value: Tensor) -> None:
        """Add one activation. Those of a block must come in the order of computation."""
        self.seen.add(name)
        if name.endswith(Component.RESID_PRE):
            self._tokens = None
        if name.endswith(ROUTING):
            has_right_experts = ((self._exact.tensors[name] > 0) == (value.cpu() > 0)).all(-1)
            self.found[name] = has_right_experts.double().mean().item()
            self._tokens = has_right_experts if self._fed else None
            return
        tokens = self._tokens if name.endswith((Component.MLP_OUT, Component.RESID_POST)) else None
        has_tokens = tokens is None or bool(tokens.any())
        self.found[name] = self._exact.error(name, value, tokens) if has_tokens else math.inf


def exact(checkpoint: Checkpoint, dtype: Dtype, *, whole: bool = True) -> Exact:
    """Read the golden activations from the store. Compute them first if they are missing or damaged.

    Args:
        whole: whether the caller needs every block to be attention and an MLP. Others have activations alone: no results
            of interventions, gradients or generation.

    Raises:
        NoGolden: if they do not fit in memory, or the model cannot be evaluated in true float64.
        NotApplicable: if tlbench cannot read this architecture's activations, or not those of whole blocks.
    """
    path = huggingface.result_path("inside", checkpoint, dtype, __name__)
    request = (reference_python(Path(sys.executable)), compute_missing, "exact", dtype.value, checkpoint.model.name)
    what = f"golden activations of {checkpoint.model.name}"
    check = partial(golden.require_memory, checkpoint, Precision.FLOAT64)
    stored = read_or_compute(path, "inside.lock", *request, what=what, check=check)
    if reason := stored.provenance.get("reason"):
        raise (NotApplicable if stored.provenance.get("unknown") else NoGolden)(reason)
    n_blocks, n_encoder_blocks = (int(stored.provenance[name]) for name in ("n_blocks", "n_encoder_blocks"))
    if whole and stored.provenance["whole"] != "True":
        raise NotApplicable(f"tlbench finds no attention or no MLP in some of the blocks of {checkpoint.model.name}")
    return Exact(stored.tensors, n_blocks, stored.provenance["centres"] == "True", n_encoder_blocks)


@dataclass(frozen=True)
class HuggingFaceErrors:
    """The relative errors of HuggingFace's own activations at a dtype, with eager attention, by name.

    Attributes:
        propagated: of the model run from the tokens.
        local: of blocks that are fed their golden input.
    """

    propagated: Mapping[str, float]
    local: Mapping[str, float]


@dataclass(frozen=True)
class Generated:
    """HuggingFace's results with its key-value cache.

    Attributes:
        steps: by position, the largest difference between centred logits with and without the cache, in nats.
        greedy: the start of the prompts, continued greedily, ``[batch, pos]``.
        greedy_logits: the logits that each added token was chosen from, ``[batch, n, d_vocab]``.
    """

    steps: Sequence[float]
    greedy: Tensor
    greedy_logits: Tensor


@dataclass(frozen=True)
class HuggingFaceInside:
    """HuggingFace's values inside the model at a dtype, with eager attention.

    Attributes:
        edited: logits at the last position under each intervention, ``[batch, d_vocab]``.
        gradients: gradient of the logit difference with respect to each block's input, ``[batch, pos, d_model]``.
        generated: what the key-value cache makes; None if the model has none.
    """

    edited: Mapping[Edit, Tensor]
    gradients: Sequence[Tensor]
    generated: Generated | None


def huggingface_inside(checkpoint: Checkpoint, dtype: Dtype) -> HuggingFaceInside:
    """Read HuggingFace's own values at ``dtype`` from the store. Compute them first if they are missing.

    Raises what :func:`exact` raises, and CellFailed if HuggingFace itself cannot run this checkpoint.
    """
    exact(checkpoint, dtype)
    tensors = _of_huggingface(checkpoint, dtype)
    gradients = huggingface.under(GRADIENT, tensors)
    has_cache = STEPS in tensors
    return HuggingFaceInside(
        edited={edit: tensors[f"{EDITED}/{edit}"] for edit in Edit},
        gradients=[gradients[str(i)] for i in range(len(gradients))],
        generated=Generated(tensors[STEPS].tolist(), tensors[GREEDY], tensors[GREEDY_LOGITS]) if has_cache else None,
    )


def huggingface_errors(checkpoint: Checkpoint, dtype: Dtype) -> HuggingFaceErrors:
    """Read HuggingFace's own errors, of blocks of any kind. Raises what :func:`huggingface_inside` raises."""
    exact(checkpoint, dtype, whole=False)
    tensors = _of_huggingface(checkpoint, dtype)
    return HuggingFaceErrors(
        *({name: error.item() for name, error in huggingface.under(kind, tensors).items()} for kind in (PROPAGATED, LOCAL))
    )


def _of_huggingface(checkpoint: Checkpoint, dtype: Dtype) -> Mapping[str, Tensor]:
    path = huggingface.result_path("inside-errors", checkpoint, dtype, __name__, **huggingface.setting(checkpoint))
    request = (Path(sys.executable), compute_missing, "errors", dtype.value, checkpoint.model.name)
    what = f"errors of HuggingFace's activations of {checkpoint.model.name} in {dtype}"
    return read_or_compute(path, "inside-errors.lock", *request, what=what).tensors


def compute_exact(checkpoint: Checkpoint, dtype: Dtype) -> None:
    """Compute and store the golden activations in this process. If that is impossible, store the reason instead."""
    path = huggingface.result_path("inside", checkpoint, dtype, __name__)
    if store.read(path) is not None:
        return
    arithmetic.establish()
    torch.set_num_threads(checkpoint.model.threads)
    ids = huggingface.tokens(checkpoint, golden.NATURAL)
    libraries = {"torch": torch.__version__, "transformers": version("transformers")}
    provenance = {"checkpoint": checkpoint.sha256, "dtype": dtype.value, **libraries}
    try:
        model = checkpoint.inputs.attached(golden.load_exact(checkpoint.folder, Weights(dtype)))
        model_sites = sites(model)
        assert_true_float64(model, ids)
        with true_float64():
            tensors = _exactly(model, ids, model_sites.is_whole)
    except (NotApplicable, NotGolden) as error:
        unknown = "yes" if isinstance(error, NotApplicable) else ""
        store.write(path, {"nothing": torch.zeros(0)}, {**provenance, "reason": str(error), "unknown": unknown})
        return
    n_blocks, n_encoder_blocks = len(model_sites.blocks), model_sites.n_encoder_blocks
    for i in set(range(n_blocks)) - {*ends_of(n_blocks, n_encoder_blocks)}:
        del tensors[site(i, Component.RESID_POST)]
    counts = {"n_blocks": str(n_blocks), "n_encoder_blocks": str(n_encoder_blocks)}
    kinds = {"centres": str(model_sites.centres), "whole": str(model_sites.is_whole)}
    store.write(path, tensors, {**provenance, **counts, **kinds})


def _exactly(model: Any, ids: Tensor, is_whole: bool) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}

    def seen(name: str, value: Tensor) -> None:
        tensors[name] = value.detach().double().contiguous().clone()

    _run(model, ids, seen)
    if not is_whole:
        return tensors
    tokens = tensors[LOGITS][:, -1].topk(2, dim=-1).indices
    computed = {**head_attribution(model, ids, tokens), **_edited(model, ids), **_gradients(model, ids, tokens)}
    return {**tensors, TOKENS: tokens, **computed}


def compute_errors(checkpoint: Checkpoint, dtype: Dtype) -> None:
    """Compute and store HuggingFace's own errors and values in this process, if they are missing."""
    path = huggingface.result_path("inside-errors", checkpoint, dtype, __name__, **huggingface.setting(checkpoint))
    if store.read(path) is not None:
        return
    arithmetic.establish()
    torch.set_num_threads(checkpoint.model.threads)
    g = exact(checkpoint, dtype, whole=False)
    ids = huggingface.tokens(checkpoint, golden.NATURAL)
    model = checkpoint.inputs.attached(huggingface.load_model(checkpoint.folder, dtype, Attention.EAGER))
    tensors: dict[str, Tensor] = {}
    for kind, inputs in ((PROPAGATED, None), (LOCAL, g.inputs())):
        errors = Errors(g, fed=inputs is not None)
        _run(model, ids, errors.see, inputs)
        tensors |= {f"{kind}/{name}": torch.tensor(error, dtype=torch.float64) for name, error in errors.found.items()}
    if sites(model).is_whole:
        tensors |= {**_edited(model, ids), **_gradients(model, ids, g.tokens), **_generated(model, ids)}
    store.write(path, tensors, huggingface.setting(checkpoint))


def _edited(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """The logits at the last position under each intervention."""
    logits_by_name = {}
    block = len(sites(model).blocks) // 2
    for edit, change in CHANGES.items():
        with torch.no_grad(), editing(model, block, change.component, change.apply):
            logits_by_name[f"{EDITED}/{edit}"] = model(ids, use_cache=False).logits[:, -1].double().clone()
    return logits_by_name


def _generated(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """Results with the key-value cache: over the prompts, and over a greedy continuation of their start.

    Empty if the model, such as the first GPT, has no such cache.
    """
    differences, greedy_logits = [], []
    with torch.no_grad():
        full = centred(model(ids, use_cache=False).logits)
        cache = None
        for i in range(ids.shape[1]):
            output = model(ids[:, i : i + 1], past_key_values=cache, use_cache=True)
            if (cache := getattr(output, "past_key_values", None)) is None:
                return {}
            differences.append((centred(output.logits[:, -1]) - full[:, i]).abs().max())
        cache = None
        tokens = step = ids[:, :GREEDY_START]
        for _ in range(GREEDY_TOKENS):
            output = model(step, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            greedy_logits.append(output.logits[:, -1].float())
            step = greedy_logits[-1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, step], -1)
    return {STEPS: torch.stack(differences), GREEDY: tokens, GREEDY_LOGITS: torch.stack(greedy_logits, 1)}


def _gradients(model: Any, ids: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """The gradient of the logit difference, summed over the prompts, with respect to each block's input."""
    inputs: list[Tensor] = []
    model.requires_grad_(False)

    def seen(name: str, value: Tensor) -> None:
        if name.endswith(Component.RESID_PRE):
            value.requires_grad_(True)
            value.retain_grad()
            inputs.append(value)

    with torch.enable_grad(), watching(model, seen):
        logits = model(ids, use_cache=False).logits
        torch.autograd.backward(logit_difference(logits, tokens).sum())
    gradients = {}
    for i, value in enumerate(inputs):
        assert value.grad is not None
        gradients[f"{GRADIENT}/{i}"] = value.grad.double().contiguous()
    return gradients


def _run(model: Any, ids: Tensor, seen: Callable[[str, Tensor], None], inputs: Sequence[Tensor] | None = None) -> None:
    """Run a forward pass and call ``seen`` with each activation. ``inputs`` replace those of the blocks and the final norm.

    ``seen`` gets a block's input before it is replaced, as TransformerLens's hooks do.
    """
    with torch.no_grad(), watching(model, seen), feeding(model, inputs) if inputs else nullcontext():
        # transformers 4 returns the attention pattern only on request.
        seen(LOGITS, model(ids, use_cache=False, output_attentions=True).logits)


def compute_missing(kind: str, dtype: str, name: str) -> None:
    """Compute the missing golden activations (``exact``) or HuggingFace's ``errors`` of the model of this name."""
    compute = {"exact": compute_exact, "errors": compute_errors}[kind]
    compute(checkpoints.named(name), Dtype(dtype))


def compute_ahead(dtypes: Sequence[str], name: str) -> None:
    """Compute the golden activations that cells of these dtypes will read."""
    for dtype in dtypes:
        compute_missing("exact", dtype, name)
