"""HookedTransformer, in TransformerLens 1.x to 3.x.

It accepts only official model names, never a folder. So tlbench requests the catalogue's ``hooked_name``, patches
``AutoConfig`` to return the checkpoint's own configuration, and passes in its HuggingFace model for the weights: for a model
of the Hub too, else a fine-tune or another revision would be compared with the weights of the official name.
TransformerLens's conversion of both is under test and runs unchanged. tlbench replaces two things in the converted
configuration: sizes, which TransformerLens hard-codes for some architectures, and the constants listed in the catalogue.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import cache, partial
from io import StringIO
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from tlbench import device
from tlbench.checkpoints import Checkpoint
from tlbench.exceptions import CellFailed, NotApplicable
from tlbench.grid import Dtype, Option
from tlbench.lens import weights
from tlbench.lens.interface import Lens, class_of, failures, generated
from tlbench.spans import Category, span

LONGEST_MASK = 2048
"""Cap on n_ctx: HookedTransformer stores a causal mask of n_ctx x n_ctx per layer. TransformerLens uses the same cap."""
EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")
"""What configurations of HuggingFace call the epsilon of their norms."""
CHANGED = "TransformerLens changed how it processes weights: {}; see tlbench/lens/hooked.py"


def load_hooked_transformer(checkpoint: Checkpoint, dtype: Dtype, option: Option, readback: bool = True) -> Lens:
    """Load a model with ``HookedTransformer.from_pretrained``.

    Raises:
        NotApplicable: if this TransformerLens has no HookedTransformer, or that lacks the architecture or the dtype.
        CellFailed: if loading raised, or weights or configuration bypassed the functions that tlbench patches.
    """
    from tlbench.reference.huggingface import load_model

    wrapper = hooked_transformer_class()
    _require_known_name(checkpoint)
    torch_dtype = getattr(torch, dtype)
    accepted = inspect.signature(wrapper.from_pretrained).parameters
    arguments: dict[str, Any] = {
        "device": device.current(),
        # `dtype` from 1.8.1 on, `torch_dtype` from 1.3 to 1.8.0.
        "dtype" if "dtype" in accepted else "torch_dtype": torch_dtype,
        **{flag: value for flag, value in option.flags().items() if flag in accepted},
    }
    weights_read = _WeightReadback(wrapper, torch_dtype, option, readback)
    with _loading_errors(), redirect_stdout(StringIO()), weights_read.watching(), span(Category.LOAD):
        hf_model = load_model(checkpoint.folder, dtype)
        with _local_config(checkpoint, hf_model.config):
            model = wrapper.from_pretrained(checkpoint.model.hooked_name, hf_model=hf_model, tokenizer=None, **arguments)
        constants = other_constants(model.cfg, hf_model.config, checkpoint.model.hooked_name)
        del hf_model
    model.eval()
    parameter_dtypes = {parameter.dtype for parameter in model.parameters()}
    # TransformerLens keeps the router of a mixture of experts in float32 at any dtype.
    if torch_dtype not in parameter_dtypes:
        names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in parameter_dtypes))
        raise NotApplicable(f"this HookedTransformer does not support {dtype}: it loads the parameters as {names}")

    @cache
    def tokenizer() -> Any:
        """The key-value cache up to 1.19, and ``generate`` from 2.0 on, need a tokenizer even for token ids."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(checkpoint.folder)

    def steps(ids: Tensor) -> Iterator[Tensor]:
        past = _key_value_cache().init_cache(model.cfg, device.current(), len(ids))
        takes_mask = "attention_mask" in inspect.signature(model.forward).parameters
        with patch.object(model, "tokenizer", tokenizer()):
            for i in range(ids.shape[1]):
                token = ids[:, i : i + 1]
                # From 2.0 on, the tokenizer determines the padding unless there is a mask. These prompts have no padding.
                mask = {"attention_mask": torch.ones_like(token)} if takes_mask else {}
                yield model(token, return_type="logits", past_kv_cache=past, **mask)[:, -1]

    def greedy(prompts: Tensor | list[str], n: int) -> Tensor:
        # What set_tokenizer would leave behind, for this call alone.
        begins = tokenizer().bos_token_id in tokenizer()("").input_ids
        prepends = patch.object(model.cfg, "tokenizer_prepends_bos", begins, create=True)
        with patch.object(model, "tokenizer", tokenizer()), prepends:
            return generated(model, prompts, n)

    def process(requested: Option, refactor: bool = False) -> None:
        if not hasattr(model, "process_weights_"):
            raise NotApplicable("this HookedTransformer has no process_weights_")
        supported = inspect.signature(model.process_weights_).parameters
        flags = {**requested.flags(), **({"refactor_factored_attn_matrices": True} if refactor else {})}
        with redirect_stdout(StringIO()):
            model.process_weights_(**{flag: value for flag, value in flags.items() if flag in supported})

    changed = weights_read.changed_weights(model)
    return Lens(partial(model, return_type="logits"), changed, model, steps, greedy, process, constants)


def hooked_transformer_class() -> Any:
    """The HookedTransformer class. Raises what :func:`class_of` raises."""
    return class_of("transformer_lens", "HookedTransformer", "removed in 4.0")


def _key_value_cache() -> Any:
    """The key-value cache class, which was renamed in 3.0."""
    import transformer_lens

    for name in ("TransformerLensKeyValueCache", "HookedTransformerKeyValueCache"):
        if cache_class := getattr(transformer_lens, name, None):
            return cache_class
    from transformer_lens.past_key_value_caching import HookedTransformerKeyValueCache

    return HookedTransformerKeyValueCache


class _WeightReadback:
    """Counts the tensors that processing changes, by comparing the model with the input of ``load_and_process_state_dict``.

    It also sets ``fold_value_biases``. In TransformerLens 1.3 that function has the flag, on by default, but
    ``from_pretrained`` accepts it only from 1.4 on.
    """

    def __init__(self, hooked_transformer: Any, dtype: torch.dtype, option: Option, reads: bool) -> None:
        self._class = hooked_transformer
        self._dtype = dtype
        self._reads = reads
        self._fold_value_biases = option.flags()["fold_value_biases"]
        self._before: weights.Fingerprints = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within the block, fingerprint the weights before processing. CellFailed if no option can have reached them."""
        original = self._class.load_and_process_state_dict
        calls = 0

        def load_and_process_state_dict(model: Any, state: Mapping[str, Tensor], **flags: Any) -> Any:
            nonlocal calls
            calls += 1
            if self._reads:
                self._before = weights.fingerprints(state, self._dtype)
            flags.setdefault("fold_value_biases", self._fold_value_biases)
            with span(Category.PROCESS):
                return original(model, state, **flags)

        with patch.object(self._class, "load_and_process_state_dict", load_and_process_state_dict):
            yield
        if not calls:
            raise CellFailed(CHANGED.format("it never called load_and_process_state_dict, which tlbench patches"))

    def changed_weights(self, model: Any) -> int:
        """Count the tensors that processing changed; 0 if readback is off. CellFailed if the model renamed all of them."""
        if not self._reads:
            return 0
        after = weights.fingerprints(model.state_dict(), self._dtype)
        if self._before.keys().isdisjoint(after):
            raise CellFailed(CHANGED.format("the model renames every weight, so tlbench cannot compare any"))
        return weights.changed(self._before, after)


def _require_known_name(checkpoint: Checkpoint) -> None:
    from transformer_lens import loading_from_pretrained as loading

    name = checkpoint.model.hooked_name
    if not name:
        raise NotApplicable(f"HookedTransformer has no architecture for {checkpoint.model.name}")
    try:
        loading.get_official_model_name(name)
    except ValueError:
        raise NotApplicable(f"this TransformerLens does not support {name}, whose architecture this model needs") from None


@contextmanager
def _loading_errors() -> Iterator[None]:
    """Map errors while loading: an unsupported architecture is not applicable, anything else is a failure."""
    with failures("HookedTransformer.from_pretrained"):
        try:
            yield
        except NotImplementedError as error:
            raise NotApplicable(f"HookedTransformer lacks this architecture: {error}") from error


@contextmanager
def _local_config(checkpoint: Checkpoint, hf_config: Any) -> Iterator[None]:
    """Within the block, TransformerLens gets ``hf_config`` instead of a configuration from the Hub.

    TransformerLens need not call ``AutoConfig``, because it hard-codes several architectures (Llama 2, Gemma). But
    ``convert_hf_model_config`` converts every configuration: without it the model would have another's sizes and constants.
    """
    from transformer_lens import loading_from_pretrained as loading

    convert: Callable[..., dict[str, Any]] = loading.convert_hf_model_config

    def convert_and_resize(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return _resized(convert(*args, **kwargs), hf_config, checkpoint.model.replace)

    local_config = SimpleNamespace(from_pretrained=lambda *_, **__: hf_config)
    converting = patch.object(loading, "convert_hf_model_config", side_effect=convert_and_resize)
    with patch.object(loading, "AutoConfig", local_config), converting as conversions:
        yield
    if not conversions.called:
        raise CellFailed(
            "TransformerLens changed how it finds a configuration: it never called convert_hf_model_config, so it did not "
            f"use that of {checkpoint.model.name}; see tlbench/lens/hooked.py"
        )


def other_constants(cfg: Any, hf_config: Any, name: str) -> str:
    """Which constants TransformerLens took from the official model of this ``name``, though the checkpoint has others.

    It hard-codes them for some architectures. An error that they explain belongs to the choice of the name.
    """
    rope = getattr(hf_config, "rope_parameters", None)
    theta = rope.get("rope_theta") if isinstance(rope, Mapping) else None
    own = {
        "eps": next((value for key in EPSILONS if (value := getattr(hf_config, key, None)) is not None), None),
        "rotary_base": getattr(hf_config, "rope_theta", None) or theta,
    }
    different = [
        f"{field} {converted:g} from {name}, where this checkpoint has {own[field]:g}"
        for field in own
        if isinstance(converted := getattr(cfg, field, None), int | float) and own[field] not in (None, converted)
    ]
    return f"HookedTransformer takes {', and '.join(different)}" if different else ""


def _resized(converted: dict[str, Any], hf_config: Any, replace: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the sizes in TransformerLens's converted configuration by the checkpoint's own."""
    n_heads = hf_config.num_attention_heads
    d_head = getattr(hf_config, "head_dim", None) or hf_config.hidden_size // n_heads
    mlp_sizes = (getattr(hf_config, name, None) for name in ("intermediate_size", "ffn_dim", "n_inner"))
    sizes: dict[str, Any] = {
        "d_model": hf_config.hidden_size,
        "n_layers": hf_config.num_hidden_layers,
        "n_heads": n_heads,
        "d_head": d_head,
        "d_vocab": hf_config.vocab_size,
        "d_mlp": int(next(filter(None, mlp_sizes), 4 * hf_config.hidden_size)),
    }
    n_kv = getattr(hf_config, "num_key_value_heads", None) or n_heads
    if n_kv != n_heads and "n_key_value_heads" not in converted:
        raise NotApplicable(
            "this TransformerLens does not support grouped-query attention for this architecture, and the checkpoint has "
            f"{n_kv} key-value heads for {n_heads} query heads"
        )
    if converted.get("n_key_value_heads") is not None:
        sizes["n_key_value_heads"] = n_kv
    if converted.get("rotary_dim") == converted["d_head"]:
        sizes["rotary_dim"] = d_head
    longest = getattr(hf_config, "max_position_embeddings", None) or LONGEST_MASK
    sizes["n_ctx"] = min(converted["n_ctx"], longest, LONGEST_MASK)
    if converted.get("attn_types"):
        sizes["attn_types"] = converted["attn_types"][: hf_config.num_hidden_layers]
    return {**converted, **sizes, "tokenizer_name": None, **replace}
