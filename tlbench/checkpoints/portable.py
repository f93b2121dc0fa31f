"""Portable configurations, which every transformers under test reads alike.

transformers 5 writes a config.json that 4.57 silently misreads. It stores the rotary settings in ``rope_parameters``, which
4.57 ignores, so 4.57 takes its default base and no scaling. That shifts even HuggingFace's own logits by nats. Every version
reads the form that 4.57 writes, so tlbench converts configurations to that form.

``portable_config`` converts plain JSON. If 4.57 has no fields for a setting, it leaves the configuration unchanged, which is
right for transformers 5. ``misread_fields`` then reports what the installed transformers misreads.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

Config = Mapping[str, Any]
"""A config.json, or part of one."""

ROPE_PARAMETERS = "rope_parameters"
FULL, SLIDING = "full_attention", "sliding_attention"
NOT_SCALING = {"rope_theta", "rope_type", "type", "partial_rotary_factor"}
SCALING_KEYS = {
    "default": set[str](),
    "linear": {"factor"},
    "dynamic": {"factor", "original_max_position_embeddings"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {"factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"}
    | {"mscale", "mscale_all_dim", "truncate"},
    "longrope": {"factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"},
}
"""The kinds of rotary scaling that 4.57 supports, with the fields each reads."""
TWO_BASES = ("gemma3_text", "gemma3n_text")
"""Model types whose sliding-window layers have a second rotary base in 4.57. It never scales that base."""
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
"""Model types whose converted configuration both versions were seen to read correctly. All others are left unchanged,
because transformers 5 misreads some of its newer ones in the old form: Cohere 2 MoE loses its scaling."""
SAME_NAMES = {"rope_theta": "rope_theta", "partial_rotary_factor": "partial_rotary_factor"}
NEOX_NAMES = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
NAMES = {"gpt_neox": NEOX_NAMES, "gpt_neox_japanese": NEOX_NAMES}
"""4.57's names for the rotary base and the fraction of each head that is rotated, where they are not :data:`SAME_NAMES`."""
CHECKED_AS_FACTOR = ("olmo", "olmo2")
"""For these, 4.57 accepts only a scaling of exactly ``type`` (linear or dynamic) and ``factor`` (a float)."""
CHECKED_AS_FACTORS = ("phi3", "phi4_multimodal")
"""For these, 4.57 accepts only a scaling of exactly ``type`` (longrope), ``short_factor`` and ``long_factor``."""


# Conversion ----------------------------------------------------------------------------------------------------------


def portable_config(config: Config) -> dict[str, Any]:
    """Convert a configuration so that transformers 4.57 and 5 both read it as transformers 5 reads the original.

    ``config`` is the content of a config.json written by either version. A portable one is returned unchanged.
    """
    portable = _without_rope_parameters(config)
    if isinstance(config.get("text_config"), Mapping):
        portable["text_config"] = portable_config(config["text_config"])
    # 4.57.6 reads both names. Versions before 4.56 read only the old one.
    if "dtype" in config:
        portable.setdefault("torch_dtype", config["dtype"])
    # Neither version writes n_ctx, but the earliest checkpoints have it and TransformerLens up to 3.x reads it.
    if config.get("model_type") == "gpt2" and "n_positions" in config:
        portable.setdefault("n_ctx", config["n_positions"])
    return portable


def _without_rope_parameters(config: Config) -> dict[str, Any]:
    """The configuration with its rotary settings in 4.57's fields, if 4.57 can express them."""
    parameters = config.get(ROPE_PARAMETERS)
    if not isinstance(parameters, Mapping) or config.get("model_type") not in TRANSLATED:
        return dict(config)
    if config["model_type"] in TWO_BASES:
        legacy_fields = _legacy_fields_of_two_bases(config, parameters)
    else:
        legacy_fields = _legacy_fields(config, {**parameters, **(config.get("rope_scaling") or {})})
    if legacy_fields is None:
        return dict(config)
    return {key: value for key, value in config.items() if key not in (ROPE_PARAMETERS, "rope_scaling")} | legacy_fields


def _legacy_fields_of_two_bases(config: Config, parameters: Config) -> dict[str, Any] | None:
    full, sliding = parameters.get(FULL) or {}, parameters.get(SLIDING) or {}
    if set(parameters) - {FULL, SLIDING} or _kind(sliding) != "default" or set(sliding) - NOT_SCALING:
        return None
    legacy_fields = _legacy_fields(config, {**full, **(config.get("rope_scaling") or {})})
    if legacy_fields is not None and "rope_theta" in sliding:
        legacy_fields["rope_local_base_freq"] = sliding["rope_theta"]
    return legacy_fields


def _legacy_fields(config: Config, parameters: Config) -> dict[str, Any] | None:
    """4.57's fields for one set of rotary parameters, or None if it cannot express them."""
    kind = _kind(parameters)
    scaling = {key: value for key, value in parameters.items() if key not in NOT_SCALING}
    if kind not in SCALING_KEYS or set(scaling) - SCALING_KEYS[kind]:
        return None
    names = NAMES.get(config.get("model_type", ""), SAME_NAMES)
    legacy_fields = {name: parameters[key] for key, name in names.items() if parameters.get(key) is not None}
    if kind == "longrope":
        scaling = _as_longrope(config, scaling)
        # 4.57 reads it only from the top level, and transformers 5 prefers it there.
        legacy_fields["original_max_position_embeddings"] = scaling["original_max_position_embeddings"]
    if kind != "default":
        checked = _as_checked(config, kind, scaling)
        if checked is None:
            return None
        legacy_fields["rope_scaling"] = checked
    return legacy_fields


def _kind(parameters: Config) -> str:
    return str(parameters.get("rope_type") or parameters.get("type") or "default")


def _as_longrope(config: Config, scaling: dict[str, Any]) -> dict[str, Any]:
    """The scaling with an explicit attention factor, if 4.57 would derive another from the ratio of the contexts."""
    longest = config.get("max_position_embeddings", 0)
    original = config.get("original_max_position_embeddings") or scaling.get("original_max_position_embeddings") or longest
    scaling = {**scaling, "original_max_position_embeddings": original}
    factor = scaling.get("factor")
    if factor is not None and original and scaling.get("attention_factor") is None and factor != longest / original:
        # Formula from transformers 5, modeling_rope_utils._compute_longrope_parameters.
        scaling["attention_factor"] = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return scaling


def _as_checked(config: Config, kind: str, scaling: dict[str, Any]) -> dict[str, Any] | None:
    """``rope_scaling`` in the form that 4.57 accepts for this model type, or None if it accepts none."""
    if config.get("model_type") in CHECKED_AS_FACTOR:
        is_accepted = kind in ("linear", "dynamic") and set(scaling) == {"factor"} and scaling["factor"] > 1
        return {"type": kind, "factor": float(scaling["factor"])} if is_accepted else None
    if config.get("model_type") in CHECKED_AS_FACTORS:
        if kind != "longrope" or scaling.get("attention_factor") is not None:
            return None
        return {"type": kind, **{key: scaling.get(key) for key in ("short_factor", "long_factor")}}
    return {"rope_type": kind, **scaling}


# What the installed transformers misreads ----------------------------------------------------------------------------

METADATA = {
    *("architectures", "model_type", "transformers_version", "dtype", "torch_dtype", "use_cache", "_name_or_path"),
    *("id2label", "label2id", "auto_map", "quantization_config", "_attn_implementation", "text_config", "vision_config"),
}
ROTARY = {ROPE_PARAMETERS, "rope_scaling", "rope_local_base_freq", *SAME_NAMES, *NEOX_NAMES.values()}
"""Fields compared by meaning, because each version stores the same values elsewhere."""
NUMERICAL = {
    *("alibi", "attention_multiplier", "attn_logit_softcapping", "clip_qkv", "embedding_multiplier", "layer_types"),
    *("final_logit_softcapping", "logit_scale", "logits_scaling", "mlp_layer_types", "no_rope_layers", "norm_topk_prob"),
    *("parallel_attn", "qk_layernorm", "query_pre_attn_scalar", "residual_multiplier", "rotary_dim", "sliding_window"),
    *("routed_scaling_factor", "use_bidirectional_attention", "use_parallel_residual", "use_qk_norm", "use_qkv_bias"),
}
"""Fields that change the logits. Ignoring one of them is a misreading."""
ABSENT = object()


def misread_fields(folder: Path) -> list[str]:
    """The fields of the config.json in ``folder`` that the installed transformers misreads, each described by a phrase.

    Only fields that the file sets are compared, not those that it leaves to a default.
    """
    from transformers import AutoConfig

    config = json.loads((folder / "config.json").read_text())
    loaded = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    config = config.get("text_config", config)
    return [*_misread_rotary(config, loaded), *_misread_others(config, loaded)]


def misreading(folder: Path) -> str:
    """The misread fields as one sentence without a full stop; "" if there are none."""
    phrases = misread_fields(folder)
    return f"transformers {version('transformers')} misreads this config.json: it {'; it '.join(phrases)}" if phrases else ""


def _misread_rotary(config: Config, loaded: Any) -> Iterator[str]:
    if int(version("transformers").split(".")[0]) >= 5 and hasattr(loaded, ROPE_PARAMETERS):
        loaded_values = _flat(loaded.rope_parameters or {})
    else:
        loaded_values = _loaded_by_4(loaded)
    file_values = _rotary_of(config)
    rope_types = {name: kind for name, kind in file_values.items() if name.endswith("rope_type")}
    misread_kinds = {name for name, kind in rope_types.items() if loaded_values.get(name) != kind}
    for name, value in file_values.items():
        layers, dot, key = name.rpartition(".")
        # If the kind of scaling itself is misread, do not list its parameters as well.
        is_listed = key in NOT_SCALING or f"{layers}{dot}rope_type" not in misread_kinds
        if is_listed and value is not None and loaded_values.get(name, ABSENT) != value:
            yield _phrase(name, loaded_values.get(name, ABSENT), value)


def _misread_others(config: Config, loaded: Any) -> Iterator[str]:
    known = _known_fields(type(loaded))
    for name, value in config.items():
        if name in METADATA | ROTARY or name.startswith("_") or value is None or isinstance(value, Mapping):
            continue
        if name not in known:
            if name in NUMERICAL and value is not False and set(value if isinstance(value, list) else [value]) != {FULL}:
                yield _phrase(name, ABSENT, value)
            continue
        loaded_value = getattr(loaded, name, ABSENT)
        if isinstance(loaded_value, tuple):
            loaded_value = list(loaded_value)  # as in JSON
        if loaded_value not in (ABSENT, value) and not _is_derived(name, config):
            yield _phrase(name, loaded_value, value)


def _phrase(name: str, loaded_value: Any, value: Any) -> str:
    if loaded_value is ABSENT:
        return f"ignores {name}, which the file says is {_brief(value)}"
    return f"takes {name} {_brief(loaded_value)} where the file says {_brief(value)}"


def _brief(value: Any, most: int = 40) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= most else f"{text[:most]}..."


def _known_fields(kind: type) -> set[str]:
    """The fields that a configuration class declares. Any other becomes an attribute too, but nothing reads it."""
    known = set(getattr(kind, "attribute_map", {}))
    for base in kind.__mro__[:-1]:
        known |= set(inspect.signature(base).parameters) | set(getattr(base, "__annotations__", {}))
    return known - {"kwargs"}


def _is_derived(name: str, config: Config) -> bool:
    """Whether every version overrides this field because of other fields in the same file."""
    overrides = config.get("use_sliding_window") is False or config.get("use_bidirectional_attention") is True
    return name == "sliding_window" and overrides


def _rotary_of(config: Config) -> dict[str, Any]:
    """The rotary settings of a config.json in either form, by their names in ``rope_parameters``."""
    names = NAMES.get(config.get("model_type", ""), SAME_NAMES)
    values = {key: config[name] for key, name in names.items() if name in config}
    if isinstance(config.get(ROPE_PARAMETERS), Mapping):
        values |= _flat(config[ROPE_PARAMETERS])
    else:
        values |= _flat(config.get("rope_scaling") or {})
        if "rope_local_base_freq" in config:
            values[f"{SLIDING}.rope_theta"] = config["rope_local_base_freq"]
    if config.get("model_type") not in TWO_BASES:
        return values
    return {name if "." in name else f"{FULL}.{name}": value for name, value in values.items()}


def _flat(parameters: Config) -> dict[str, Any]:
    """Flatten ``rope_parameters`` to values by name, or by layer type and name if each layer type has its own."""
    flat: dict[str, Any] = {}
    for key, value in parameters.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": inner for name, inner in _flat(value).items()}
        elif value is not None or key not in (FULL, SLIDING):
            flat[key] = value
    if "type" in flat:
        flat.setdefault("rope_type", flat.pop("type"))
    return flat


def _loaded_by_4(loaded: Any) -> dict[str, Any]:
    """The rotary settings that transformers 4.57 has loaded, by their names in ``rope_parameters``."""
    # Its rotary tables read these attributes whether the configuration class declares them (Llama) or not (Mistral).
    scaling = dict(getattr(loaded, "rope_scaling", None) or {})
    scaling.setdefault("rope_type", scaling.pop("type", "default"))
    if scaling["rope_type"] == "longrope":
        longest = getattr(loaded, "max_position_embeddings", None)
        scaling["original_max_position_embeddings"] = getattr(loaded, "original_max_position_embeddings", longest)
    values = scaling | {name: getattr(loaded, name, ABSENT) for name in ("rope_theta", "partial_rotary_factor")}
    if loaded.model_type not in TWO_BASES:
        return values
    local = {f"{SLIDING}.rope_theta": loaded.rope_local_base_freq, f"{SLIDING}.rope_type": "default"}
    return {f"{FULL}.{name}": value for name, value in values.items()} | local
