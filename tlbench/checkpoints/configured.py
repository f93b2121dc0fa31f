"""Small synthetic checkpoints of an entry and no code: a transformers configuration class and its values.

transformers builds the model, :mod:`tlbench.checkpoints.roles` recognises every parameter's role, and every parameter is
drawn for its role as in :mod:`tlbench.checkpoints.zoo`, so that nothing is neutral. The checkpoint has the names that such
models have on the Hub.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tlbench.arithmetic.draws import draw, uniform
from tlbench.catalogue import Model
from tlbench.checkpoints.inputs import automatic_class
from tlbench.checkpoints.portable import portable_config
from tlbench.checkpoints.roles import Parameter, Role, Sizes, draw_of, parameters_of, role_of
from tlbench.checkpoints.zoo import D_VOCAB
from tlbench.exceptions import BadInput, choices

SIZES: Mapping[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"), 160),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 256),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 6),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 48),
    **dict.fromkeys(("num_experts_per_tok", "moe_k"), 2),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), D_VOCAB),
    **{"num_key_value_heads": 2, "head_dim": 24, "rotary_dim": 8},
    **{"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258},
    # Encoders and decoders
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 3),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "d_ff"), 160),
    **dict.fromkeys(("max_encoder_position_embeddings", "max_decoder_position_embeddings"), 256),
    **{"d_kv": 24, "num_decoder_layers": 3},
    # Latent attention
    **{"kv_lora_rank": 16, "q_lora_rank": 28, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 20},
    # State spaces and linear attention
    **{"state_size": 8, "time_step_rank": 6, "mamba_d_state": 8, "mamba_dt_rank": 6, "mamba_chunk_size": 16},
    **{"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_ssm": 128, "chunk_size": 16},
    **{"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 12, "linear_value_head_dim": 20},
    # What training has, and evaluation must ignore
    **dict.fromkeys(("attention_dropout", "hidden_dropout", "embedding_dropout", "mlp_dropout", "activation_dropout"), 0.1),
    **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop", "emb_pdrop", "dropout"), 0.1),
}
"""The sizes that all these models share, by the names that configurations have for them: each takes those that it knows.
No two that meet in a parameter are equal, so that its shape says what it is. A window and a chunk are shorter than the
prompts, which have 64 tokens."""
WINDOW = 16
TEXT_PARTS = ("text_config", "encoder", "decoder")
"""The parts of a configuration that are about text, and so share these sizes."""
NONE = "none"
"""How an entry writes None, for which TOML has no word."""
NOT_IN_CONFIG = {"transformers_version", "_name_or_path", "id2label", "label2id", "return_dict", "output_hidden_states"}
"""Fields of every configuration that say nothing of the model."""
MOST_BYTES = 4 * 2**20


def build(model: Model) -> Any:
    """transformers' model of an entry, as transformers initialises it.

    Raises:
        BadInput: if transformers has no such configuration class or cannot build it.
    """
    try:
        torch.manual_seed(0)
        built = automatic_class(model.task).from_config(configuration(model)).float().eval()
        if model.config.get("tie_word_embeddings") is False:
            _untie(built)
        return built
    except BadInput:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or "no reason given"
        raise BadInput(
            f"{model.name}: transformers {version('transformers')} cannot build a {model.model_type} of this config "
            f"({type(error).__name__}: {reason}): correct the entry's config"
        ) from error


def _untie(built: Any) -> None:
    """Give a model an unembedding of its own. T5's classes tie it whatever the configuration, but load one that is there."""
    unembedding = built.get_output_embeddings()
    if unembedding.weight is built.get_input_embeddings().weight:
        unembedding.weight = torch.nn.Parameter(unembedding.weight.detach().clone())


def configuration(model: Model) -> Any:
    """The configuration of an entry. Raises ``BadInput`` if a field or the class is unknown to transformers."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model.model_type not in CONFIG_MAPPING:
        known = choices(model.model_type, list(CONFIG_MAPPING.keys()))
        raise BadInput(
            f"{model.name}: transformers {version('transformers')} has no model type {model.model_type!r}: {known}"
        )
    kind = CONFIG_MAPPING[model.model_type]
    return kind(**_values(model.name, kind, model.config))


def _values(name: str, kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """An entry's values with the shared sizes that the configuration class has, in its parts too."""
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    known = {*defaults, *getattr(kind, "attribute_map", {}), *_read_by_name(kind)}
    if unknown := given.keys() - known:
        raise BadInput(
            f"{name}: {kind.__name__} has no field {', '.join(sorted(unknown))}: {choices(min(unknown), sorted(known))}"
        )
    values = {key: value for key, value in SIZES.items() if key in defaults}
    if isinstance(defaults.get("sliding_window"), int):
        values["sliding_window"] = WINDOW
    values |= {key: None if value == NONE else value for key, value in given.items()}
    for part, its_kind in getattr(kind, "sub_configs", {}).items():
        if part in TEXT_PARTS and dataclasses.is_dataclass(its_kind):
            values[part] = _values(name, its_kind, given.get(part, {}))
    return values


def _read_by_name(kind: Any) -> set[str]:
    """The further fields that a configuration class takes from its keyword arguments."""
    return set(re.findall(r"""kwargs\.(?:pop|get)\(\s*["'](\w+)""", inspect.getsource(kind)))


def sizes_of(built: Any) -> Sizes:
    """The sizes by which a model's parameters are told apart."""
    embedding = built.get_input_embeddings().weight
    config = built.config.get_text_config()
    names = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    found = [getattr(config, name, None) for name in names]
    return Sizes(
        d_model=int(getattr(config, "hidden_size", embedding.shape[1])),
        d_vocab=embedding.shape[0],
        n_experts=next((n for n in found if isinstance(n, int)), 0),
    )


def roles(model: Model, built: Any) -> list[tuple[Parameter, Role]]:
    """Each parameter with its role. Raises ``BadInput`` that names every parameter without one."""
    sizes = sizes_of(built)
    found = [(parameter, role_of(parameter, sizes)) for parameter in parameters_of(built)]
    unknown = [parameter for parameter, role in found if role is None]
    if unknown:
        which = "; ".join(f"{one.name} {list(one.shape)} of {type(one.module).__name__}" for one in unknown[:6])
        more = f" and {len(unknown) - 6} more" if len(unknown) > 6 else ""
        raise BadInput(
            f"{model.name}: the role of {len(unknown)} parameters is not recognised, so they cannot be drawn: {which}{more}"
            "; add a rule to tlbench/checkpoints/roles.py"
        )
    return [(parameter, role) for parameter, role in found if role is not None]


def drawn(model: Model, built: Any, seed: str) -> Iterator[tuple[Parameter, Role, np.ndarray[Any, Any]]]:
    """Each parameter with its role and its values, the same on every machine. Constants are left out."""
    sizes = sizes_of(built)
    for parameter, role in roles(model, built):
        if role is Role.EXPERT_TABLE:
            yield parameter, role, _experts(parameter, sizes, seed)
        elif role is not Role.CONSTANT:
            yield parameter, role, draw(draw_of(parameter, role, sizes), seed)


def _experts(parameter: Parameter, sizes: Sizes, seed: str) -> np.ndarray[Any, Any]:
    """Different experts for each token."""
    rows, k = parameter.shape
    keys = uniform(f"{seed}/{parameter.name}", rows * sizes.n_experts).reshape(rows, sizes.n_experts)
    return np.argsort(keys, axis=1, kind="stable")[:, :k]


def write(model: Model, folder: Path, seed: str) -> None:
    """Write an entry's weights and config.json.

    Raises:
        BadInput: if transformers cannot build the model, or the role of a parameter is not recognised.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    built = build(model)
    tensors = built.state_dict()
    for parameter, _, values in drawn(model, built, seed):
        tensors[parameter.name].copy_(torch.from_numpy(values))
    built.save_pretrained(folder)  # under the names that such models have on the Hub
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = portable_config(_full_config(built.config))
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def _full_config(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON, defaults included, so that no other version's defaults take their place."""
    written: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in written.items() if key not in NOT_IN_CONFIG and not _is_infinite(value)}


def _is_infinite(value: Any) -> bool:
    """Whether a value holds an infinity, which JSON lacks: the classes have these by default."""
    if isinstance(value, list):
        return any(map(_is_infinite, value))
    return (isinstance(value, dict) and "__float__" in value) or (isinstance(value, float) and math.isinf(value))
