"""Configurations that every transformers under test reads alike.

transformers 5 writes a config.json that 4.57 reads without a complaint and wrongly: rotary positions stand in
``rope_parameters``, which 4.57 does not know, so it takes its own base and no scaling. Errors of that size are nats, in
HuggingFace's own logits too. All of them read the form that 4.57 writes, so that is what is handed to them.

``portable_config`` translates, and knows nothing but JSON. Where 4.57 has no words for what a configuration says, it is left
as it is, right for transformers 5; ``misread_fields`` then says what the transformers at hand makes of it.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

Config = Mapping[str, Any]
"""A config.json, or a part of one."""

ROPE_PARAMETERS = "rope_parameters"
FULL, SLIDING = "full_attention", "sliding_attention"
NOT_SCALING = {"rope_theta", "rope_type", "type", "partial_rotary_factor"}
SCALING_KEYS = {
    "default": set[str](),
    "linear": {"factor"},
    "dynamic": {"factor", "original_max_position_embeddings"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {
        *("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
        *("mscale", "mscale_all_dim", "truncate"),
    },
    "longrope": {"factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"},
}
"""The kinds of rotary scaling that 4.57 has, and what each reads."""
TWO_BASES = ("gemma3_text", "gemma3n_text")
"""Model types that 4.57 gives a second rotary base for their sliding layers, which it never scales."""
TRANSLATED = {
    *TWO_BASES,
    *("apertus", "arcee", "aria_text", "bamba", "bitnet", "blt", "cohere", "cohere2", "deepseek_v2", "deepseek_v3"),
    *("diffllama", "doge", "dots1", "emu3_text_model", "ernie4_5", "ernie4_5_moe", "exaone4", "falcon", "falcon_h1"),
    *("flex_olmo", "fuyu", "gemma", "gemma2", "glm", "glm4", "glm4_moe", "gpt_neox", "gpt_neox_japanese", "gpt_oss"),
    *("granite", "granitemoe", "granitemoeshared", "helium", "hunyuan_v1_dense", "hunyuan_v1_moe", "jetmoe", "lfm2"),
    *("llama", "llama4_text", "longcat_flash", "minimax", "ministral", "mistral", "mixtral", "mllama_text_model", "moshi"),
    *("nemotron", "olmo", "olmo2", "olmoe", "persimmon", "phi", "phi3", "phi4_multimodal", "phimoe", "qwen2", "qwen2_moe"),
    *("qwen3", "qwen3_moe", "qwen3_next", "recurrent_gemma", "seed_oss", "smollm3", "stablelm", "starcoder2", "vaultgemma"),
    *("zamba2",),
}
"""The causal language models of both versions whose translation each was seen to read as it should. Others are left as they
are: transformers 5 reads some of its new ones otherwise in the old words (Cohere 2 MoE loses its scaling)."""


@dataclass(frozen=True)
class _Names:
    """How 4.57 calls what stands in ``rope_parameters``.

    Attributes:
        theta: the rotary base.
        partial: the share of each head that is rotated.
    """

    theta: str = "rope_theta"
    partial: str = "partial_rotary_factor"


NAMES = {name: _Names("rotary_emb_base", "rotary_pct") for name in ("gpt_neox", "gpt_neox_japanese")}
CHECKED_AS_FACTOR = ("olmo", "olmo2")
"""4.57 refuses any scaling of these but exactly ``type``, linear or dynamic, and ``factor``, a float."""
CHECKED_AS_FACTORS = ("phi3", "phi4_multimodal")
"""4.57 refuses any scaling of these but exactly ``type``, longrope, ``short_factor`` and ``long_factor``."""


# Translating ---------------------------------------------------------------------------------------------------------


def portable_config(config: Config) -> dict[str, Any]:
    """A config.json that transformers 4.57 and 5 read alike, and as transformers 5 reads the given one.

    One that is portable already comes back equal.

    Args:
        config: what a config.json holds, of either version.
    """
    portable = _without_rope_parameters(config)
    if isinstance(config.get("text_config"), Mapping):
        portable["text_config"] = portable_config(config["text_config"])
    # 4.57.6 knows both names; before 4.56 there was the old one alone.
    if "dtype" in config:
        portable.setdefault("torch_dtype", config["dtype"])
    # Neither version writes it; the files of the first checkpoints have it, and TransformerLens up to 3.x reads it.
    if config.get("model_type") == "gpt2" and "n_positions" in config:
        portable.setdefault("n_ctx", config["n_positions"])
    return portable


def _without_rope_parameters(config: Config) -> dict[str, Any]:
    """The same with its rotary positions in 4.57's words, if it has them."""
    parameters = config.get(ROPE_PARAMETERS)
    if not isinstance(parameters, Mapping) or config.get("model_type") not in TRANSLATED:
        return dict(config)
    if config["model_type"] in TWO_BASES:
        words = _words_of_two_bases(config, parameters)
    else:
        words = _words(config, {**parameters, **(config.get("rope_scaling") or {})})
    if words is None:
        return dict(config)
    dropped = {ROPE_PARAMETERS, "rope_scaling"}
    return {**{key: value for key, value in config.items() if key not in dropped}, **words}


def _words_of_two_bases(config: Config, parameters: Config) -> dict[str, Any] | None:
    full, sliding = parameters.get(FULL) or {}, parameters.get(SLIDING) or {}
    if set(parameters) - {FULL, SLIDING} or _kind(sliding) != "default" or set(sliding) - NOT_SCALING:
        return None
    words = _words(config, {**full, **(config.get("rope_scaling") or {})})
    if words is not None and "rope_theta" in sliding:
        words["rope_local_base_freq"] = sliding["rope_theta"]
    return words


def _words(config: Config, parameters: Config) -> dict[str, Any] | None:
    """4.57's fields for one set of rotary parameters, or None where it has none that say the same."""
    kind = _kind(parameters)
    scaling = {key: value for key, value in parameters.items() if key not in NOT_SCALING}
    if kind not in SCALING_KEYS or set(scaling) - SCALING_KEYS[kind]:
        return None
    words: dict[str, Any] = {}
    names = NAMES.get(config.get("model_type", ""), _Names())
    for name, key in ((names.theta, "rope_theta"), (names.partial, "partial_rotary_factor")):
        if parameters.get(key) is not None:
            words[name] = parameters[key]
    if kind == "longrope":
        scaling = _as_longrope(config, scaling)
        # 4.57 reads it from here alone; transformers 5 prefers it here.
        words["original_max_position_embeddings"] = scaling["original_max_position_embeddings"]
    if kind != "default":
        checked = _as_checked(config, kind, scaling)
        if checked is None:
            return None
        words["rope_scaling"] = checked
    return words


def _kind(parameters: Config) -> str:
    return str(parameters.get("rope_type") or parameters.get("type") or "default")


def _as_longrope(config: Config, scaling: dict[str, Any]) -> dict[str, Any]:
    """The same with an attention factor where 4.57 would derive another: it uses the ratio of the contexts as the factor."""
    longest = config.get("max_position_embeddings", 0)
    original = config.get("original_max_position_embeddings") or scaling.get("original_max_position_embeddings") or longest
    scaling = {**scaling, "original_max_position_embeddings": original}
    factor = scaling.get("factor")
    if factor is not None and original and scaling.get("attention_factor") is None and factor != longest / original:
        # As transformers 5 has it, in modeling_rope_utils._compute_longrope_parameters.
        scaling["attention_factor"] = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return scaling


def _as_checked(config: Config, kind: str, scaling: dict[str, Any]) -> dict[str, Any] | None:
    """``rope_scaling`` in the form that 4.57's configuration of this model type accepts; None where it accepts none."""
    if config.get("model_type") in CHECKED_AS_FACTOR:
        is_accepted = kind in ("linear", "dynamic") and set(scaling) == {"factor"} and scaling["factor"] > 1
        return {"type": kind, "factor": float(scaling["factor"])} if is_accepted else None
    if config.get("model_type") in CHECKED_AS_FACTORS:
        if kind != "longrope" or scaling.get("attention_factor") is not None:
            return None
        return {"type": kind, **{key: scaling.get(key) for key in ("short_factor", "long_factor")}}
    return {"rope_type": kind, **scaling}


# What the transformers at hand makes of a configuration --------------------------------------------------------------

METADATA = {
    *("architectures", "model_type", "transformers_version", "dtype", "torch_dtype", "use_cache", "_name_or_path"),
    *("id2label", "label2id", "auto_map", "quantization_config", "_attn_implementation", "text_config", "vision_config"),
}
ROTARY = {
    *(ROPE_PARAMETERS, "rope_scaling", "rope_theta", "partial_rotary_factor", "rope_local_base_freq"),
    *("rotary_emb_base", "rotary_pct"),
}
"""Compared by their meaning, since the same values stand elsewhere in the other version."""
NUMERICAL = {
    *("alibi", "attention_multiplier", "attn_logit_softcapping", "clip_qkv", "embedding_multiplier"),
    *("final_logit_softcapping", "layer_types", "logit_scale", "logits_scaling", "mlp_layer_types"),
    *("no_rope_layers", "norm_topk_prob", "parallel_attn", "qk_layernorm", "query_pre_attn_scalar"),
    *("residual_multiplier", "rotary_dim", "routed_scaling_factor", "sliding_window", "use_bidirectional_attention"),
    *("use_parallel_residual", "use_qk_norm", "use_qkv_bias"),
}
"""Fields that change the logits wherever they are known: not to know one is to misread it."""
ABSENT = object()


def misread_fields(folder: Path) -> list[str]:
    """What the installed transformers does not take from a config.json as it stands there, a phrase for each field.

    Empty where nothing is found. Only what the file says is compared, not what it leaves to a default.

    Args:
        folder: with a config.json that this transformers loads.
    """
    from transformers import AutoConfig

    config = json.loads((folder / "config.json").read_text())
    loaded = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    config = config.get("text_config", config)
    return [*_misread_rotary(config, loaded), *_misread_others(config, loaded)]


def misreading(folder: Path) -> str:
    """The same as one sentence without its full stop; empty where nothing is found."""
    phrases = misread_fields(folder)
    return f"transformers {version('transformers')} misreads this config.json: it {'; it '.join(phrases)}" if phrases else ""


def _misread_rotary(config: Config, loaded: Any) -> Iterator[str]:
    taken = _flat(loaded.rope_parameters or {}) if _is_of_5() and hasattr(loaded, ROPE_PARAMETERS) else _rotary_of_4(loaded)
    said = _rotary_of(config)
    kinds = {name.removesuffix("rope_type") for name in said if name.endswith("rope_type") and taken.get(name) != said[name]}
    for name, value in said.items():
        layers, _, key = name.rpartition(".")
        # The parameters of a kind of scaling that is not taken need not be told one by one.
        is_told = key in NOT_SCALING or (f"{layers}." if layers else "") not in kinds
        if is_told and value is not None and taken.get(name, ABSENT) != value:
            yield _phrase(name, taken.get(name, ABSENT), value)


def _misread_others(config: Config, loaded: Any) -> Iterator[str]:
    known = _known_fields(type(loaded))
    for name, value in config.items():
        if name in METADATA | ROTARY or name.startswith("_") or value is None or isinstance(value, Mapping):
            continue
        if name not in known:
            if name in NUMERICAL and value is not False and set(_as_list(value)) != {FULL}:
                yield _phrase(name, ABSENT, value)
        elif hasattr(loaded, name) and _plain(getattr(loaded, name)) != value and not _is_derived(name, config):
            yield _phrase(name, getattr(loaded, name), value)


def _phrase(name: str, taken: Any, value: Any) -> str:
    if taken is ABSENT:
        return f"ignores {name}, which the file says is {_brief(value)}"
    return f"takes {name} {_brief(taken)} where the file says {_brief(value)}"


def _brief(value: Any, most: int = 40) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= most else f"{text[:most]}..."


def _plain(value: Any) -> Any:
    """A value as JSON would have it."""
    return list(value) if isinstance(value, tuple) else value


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_of_5() -> bool:
    return int(version("transformers").split(".")[0]) >= 5


def _known_fields(kind: type) -> set[str]:
    """The fields that a configuration's class declares, under every name it has for them.

    Anything else in a file becomes an attribute too, which nothing reads.
    """
    known = set(getattr(kind, "attribute_map", {}))
    for base in kind.__mro__[:-1]:
        known |= set(inspect.signature(base).parameters) | set(getattr(base, "__annotations__", {}))
    return known - {"kwargs"}


def _is_derived(name: str, config: Config) -> bool:
    """Whether every version puts another value in place of the file's, by the file's own other fields."""
    switch = {"use_sliding_window": False, "use_bidirectional_attention": True}
    return name == "sliding_window" and any(config.get(key) is value for key, value in switch.items())


def _rotary_of(config: Config) -> dict[str, Any]:
    """What a config.json says of rotary positions, in either form: values by ``rope_parameters``' names for them."""
    names = NAMES.get(config.get("model_type", ""), _Names())
    legacy = {"rope_theta": names.theta, "partial_rotary_factor": names.partial}
    said = {key: config[name] for key, name in legacy.items() if name in config}
    if isinstance(config.get(ROPE_PARAMETERS), Mapping):
        return _by_layer_type({**said, **_flat(config[ROPE_PARAMETERS])}, config)
    scaling = dict(config.get("rope_scaling") or {})
    if kind := scaling.pop("type", None):
        scaling.setdefault("rope_type", kind)
    said |= scaling
    if "rope_local_base_freq" in config:
        said[f"{SLIDING}.rope_theta"] = config["rope_local_base_freq"]
    return _by_layer_type(said, config)


def _by_layer_type(said: dict[str, Any], config: Config) -> dict[str, Any]:
    """Names with a layer type before them, where the model type has a rotary base for each."""
    if config.get("model_type") not in TWO_BASES:
        return said
    return {name if "." in name else f"{FULL}.{name}": value for name, value in said.items()}


def _flat(parameters: Config) -> dict[str, Any]:
    """``rope_parameters`` by name, or by layer type and name where each layer type has its own."""
    flat: dict[str, Any] = {}
    for key, value in parameters.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": inner for name, inner in _flat(value).items()}
        elif value is not None or key not in (FULL, SLIDING):
            flat[key] = value
    if "type" in flat:
        flat.setdefault("rope_type", flat.pop("type"))
    return flat


def _rotary_of_4(loaded: Any) -> dict[str, Any]:
    """What transformers 4.57 has taken of rotary positions, by ``rope_parameters``' names."""
    # Its rotary tables read what stands in these, whether the configuration's class declares them (Llama) or not (Mistral).
    scaling = dict(getattr(loaded, "rope_scaling", None) or {})
    kind = scaling.pop("type", "default")
    scaling.setdefault("rope_type", kind)
    if scaling["rope_type"] == "longrope":
        longest = getattr(loaded, "max_position_embeddings", None)
        scaling["original_max_position_embeddings"] = getattr(loaded, "original_max_position_embeddings", longest)
    taken = scaling | {name: getattr(loaded, name, ABSENT) for name in ("rope_theta", "partial_rotary_factor")}
    if loaded.model_type not in TWO_BASES:
        return taken
    local = {f"{SLIDING}.rope_theta": loaded.rope_local_base_freq, f"{SLIDING}.rope_type": "default"}
    return {f"{FULL}.{name}": value for name, value in taken.items()} | local
