"""HookedTransformer, TransformerLens 1.x to 3.x.

It accepts official names only, never a folder. So it is asked for the name that the catalogue gives
(``hooked_name``), while ``AutoConfig`` answers with the checkpoint's own configuration and the weights come from the
checkpoint's HuggingFace model. TransformerLens's translation of configuration and weights runs unchanged, flags and all:
that code is under test. Only sizes are replaced in what it returns, since some architectures' are hard-coded
(Llama 2, Gemma), and the constants that the catalogue names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import cache
from io import StringIO
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from tlbench import device
from tlbench.catalogue import Source
from tlbench.checkpoints import Checkpoint
from tlbench.exceptions import CellFailed, NotApplicable
from tlbench.grid import Dtype, Option
from tlbench.lens import weights
from tlbench.lens.interface import Lens, class_of
from tlbench.spans import Category, span

LONGEST_MASK = 2048
"""HookedTransformer keeps a causal mask of n_ctx x n_ctx for every layer; TransformerLens caps its own models here too."""
CHANGED_PROCESSING = "TransformerLens changed how it processes weights: {}; see tlbench/lens/hooked.py"


def load_hooked_transformer(checkpoint: Checkpoint, dtype: Dtype, option: Option, readback: bool = True) -> Lens:
    """Load through ``HookedTransformer.from_pretrained``.

    Raises:
        NotApplicable: if this TransformerLens has no HookedTransformer, or it has no such architecture or dtype.
        CellFailed: if loading raised, or the weights or the configuration did not go through what is watched.
    """
    wrapper = hooked_transformer_class()
    _require_known_name(checkpoint)
    torch_dtype = getattr(torch, dtype)
    offered = inspect.signature(wrapper.from_pretrained).parameters
    arguments: dict[str, Any] = {
        "device": device.current(),
        # `dtype` from 1.8.1; before it `torch_dtype`, from 1.3.
        "dtype" if "dtype" in offered else "torch_dtype": torch_dtype,
        **{flag: value for flag, value in option.flags().items() if flag in offered},
    }
    weights_read = _WeightReadback(wrapper, torch_dtype, option, readback)
    with _loading_errors(), redirect_stdout(StringIO()), weights_read.watching(), span(Category.LOAD):
        if checkpoint.model.source is Source.HUB:
            model = wrapper.from_pretrained(checkpoint.model.hooked_name, **arguments)
        else:
            from tlbench.reference.huggingface import load_model

            hf_model = load_model(checkpoint.folder, dtype)
            with _standing_in(checkpoint, hf_model.config):
                model = wrapper.from_pretrained(checkpoint.model.hooked_name, hf_model=hf_model, tokenizer=None, **arguments)
            del hf_model
    model.eval()
    found = {parameter.dtype for parameter in model.parameters()}
    # A mixture's router stays float32 at any dtype, by TransformerLens's own choice.
    if torch_dtype not in found:
        names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in found))
        raise NotApplicable(f"this HookedTransformer cannot hold {dtype}: its parameters came out as {names}")

    def logits(tokens: Tensor) -> Tensor:
        output: Tensor = model(tokens, return_type="logits")
        return output

    @cache
    def loaded_tokenizer() -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(checkpoint.folder)

    def tokenizer() -> Any:
        """Up to 1.19 for the key-value cache, and from 2.0 for ``generate``, a tokenizer is wanted even for token ids."""
        return patch.object(model, "tokenizer", loaded_tokenizer())

    def steps(ids: Tensor) -> Iterator[Tensor]:
        past = _key_value_cache().init_cache(model.cfg, device.current(), len(ids))
        takes_mask = "attention_mask" in inspect.signature(model.forward).parameters
        with tokenizer():
            for i in range(ids.shape[1]):
                token = ids[:, i : i + 1]
                # From 2.0 the tokenizer would say what is padding; nothing is.
                mask = {"attention_mask": torch.ones_like(token)} if takes_mask else {}
                yield model(token, return_type="logits", past_kv_cache=past, **mask)[:, -1]

    def greedy(ids: Tensor, n: int) -> Tensor:
        with tokenizer():
            tokens: Tensor = model.generate(ids, max_new_tokens=n, do_sample=False, stop_at_eos=False, verbose=False)
        return tokens

    def process(asked: Option) -> None:
        if not hasattr(model, "process_weights_"):
            raise NotApplicable("this HookedTransformer has no process_weights_")
        taken = inspect.signature(model.process_weights_).parameters
        with redirect_stdout(StringIO()):
            model.process_weights_(**{flag: value for flag, value in asked.flags().items() if flag in taken})

    return Lens(logits, weights_read.changed_weights(model), model, steps, greedy, process)


def hooked_transformer_class() -> Any:
    """HookedTransformer.

    Raises:
        NotApplicable: if this TransformerLens has none.
        CellFailed: if it does not import.
    """
    return class_of("transformer_lens", "HookedTransformer", "it was removed in 4.0")


def _key_value_cache() -> Any:
    """The class was renamed in 3.0."""
    import transformer_lens

    for name in ("TransformerLensKeyValueCache", "HookedTransformerKeyValueCache"):
        if found := getattr(transformer_lens, name, None):
            return found
    from transformer_lens.past_key_value_caching import HookedTransformerKeyValueCache

    return HookedTransformerKeyValueCache


class _WeightReadback:
    """Takes the weights' fingerprints as ``load_and_process_state_dict`` receives them, to compare with the model's.

    Serves one more purpose: TransformerLens 1.3 has ``fold_value_biases`` there, on by default, but
    ``from_pretrained`` offers it only from 1.4; so it is set here.
    """

    def __init__(self, hooked_transformer: Any, dtype: torch.dtype, option: Option, reads: bool) -> None:
        self._class = hooked_transformer
        self._dtype = dtype
        self._reads = reads
        self._fold_value_biases = option.flags()["fold_value_biases"]
        self._before: weights.Fingerprints = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what is loaded within the block.

        Raises:
            CellFailed: if ``load_and_process_state_dict`` was not called: no option would reach the weights from here.
        """
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
            raise CellFailed(CHANGED_PROCESSING.format("load_and_process_state_dict, which is watched, was not called"))

    def changed_weights(self, model: Any) -> int:
        """How many tensors of the loaded model are not as they were received; 0 where they were not to be read.

        Raises:
            CellFailed: if the model has renamed every one of them.
        """
        if not self._reads:
            return 0
        after = weights.fingerprints(model.state_dict(), self._dtype)
        if self._before.keys().isdisjoint(after):
            raise CellFailed(CHANGED_PROCESSING.format("the model renames every weight, so none can be compared"))
        return weights.changed(self._before, after)


def _require_known_name(checkpoint: Checkpoint) -> None:
    from transformer_lens import loading_from_pretrained as loading

    name = checkpoint.model.hooked_name
    if not name:
        raise NotApplicable(f"HookedTransformer has no architecture for {checkpoint.model.name}")
    try:
        loading.get_official_model_name(name)
    except ValueError:
        raise NotApplicable(f"this TransformerLens does not know {name}, whose architecture is needed") from None


@contextmanager
def _loading_errors() -> Iterator[None]:
    """What HookedTransformer raises for an architecture it lacks is `n/a`; everything else is a failure."""
    try:
        yield
    except (NotApplicable, CellFailed):
        raise
    except NotImplementedError as error:
        raise NotApplicable(f"this HookedTransformer lacks the architecture: {error}") from error
    except Exception as error:
        raise CellFailed(f"HookedTransformer.from_pretrained raised {type(error).__name__}: {error}") from error


@contextmanager
def _standing_in(checkpoint: Checkpoint, hf_config: Any) -> Iterator[None]:
    """Have TransformerLens find ``hf_config`` wherever it asks the hub for a configuration.

    That ``AutoConfig`` is asked is not required: several architectures' configurations (Llama 2, Gemma) are hard-coded.
    All of them are translated by ``convert_hf_model_config``.

    Raises:
        CellFailed: if nothing was translated there: the model would have another's sizes and constants.
    """
    from transformer_lens import loading_from_pretrained as loading

    class LocalAutoConfig:
        @staticmethod
        def from_pretrained(*_: Any, **__: Any) -> Any:
            return hf_config

    translate: Callable[..., dict[str, Any]] = loading.convert_hf_model_config
    calls = 0

    def convert_hf_model_config(*args: Any, **kwargs: Any) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        return _resized(translate(*args, **kwargs), hf_config, checkpoint.model.replace)

    with (
        patch.object(loading, "AutoConfig", LocalAutoConfig),
        patch.object(loading, "convert_hf_model_config", convert_hf_model_config),
    ):
        yield
    if not calls:
        raise CellFailed(
            f"TransformerLens changed how it finds a configuration: convert_hf_model_config was not called, so that of "
            f"{checkpoint.model.name} was not used; see tlbench/lens/hooked.py"
        )


def _resized(translated: dict[str, Any], hf_config: Any, replace: Mapping[str, Any]) -> dict[str, Any]:
    """TransformerLens's translation of a configuration, with the checkpoint's sizes in place of hard-coded ones.

    Raises:
        NotApplicable: if the checkpoint has grouped-query attention and this translation has no place for it.
    """
    n_heads = hf_config.num_attention_heads
    d_head = getattr(hf_config, "head_dim", None) or hf_config.hidden_size // n_heads
    sizes: dict[str, Any] = {
        "d_model": hf_config.hidden_size,
        "n_layers": hf_config.num_hidden_layers,
        "n_heads": n_heads,
        "d_head": d_head,
        "d_vocab": hf_config.vocab_size,
        "d_mlp": _d_mlp(hf_config),
    }
    n_kv = getattr(hf_config, "num_key_value_heads", None) or n_heads
    if n_kv != n_heads and "n_key_value_heads" not in translated:
        raise NotApplicable(
            "this TransformerLens's translation of the architecture has no grouped-query attention, and the checkpoint "
            f"has {n_kv} key-value heads for {n_heads}"
        )
    if translated.get("n_key_value_heads") is not None:
        sizes["n_key_value_heads"] = n_kv
    if translated.get("rotary_dim") == translated["d_head"]:
        sizes["rotary_dim"] = d_head
    longest = getattr(hf_config, "max_position_embeddings", None) or LONGEST_MASK
    sizes["n_ctx"] = min(translated["n_ctx"], longest, LONGEST_MASK)
    if translated.get("attn_types"):
        sizes["attn_types"] = translated["attn_types"][: hf_config.num_hidden_layers]
    return {**translated, **sizes, "tokenizer_name": None, **replace}


def _d_mlp(hf_config: Any) -> int:
    for name in ("intermediate_size", "ffn_dim", "n_inner"):
        if value := getattr(hf_config, name, None):
            return int(value)
    return int(4 * hf_config.hidden_size)
