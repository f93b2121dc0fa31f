"""The zoo: one small synthetic checkpoint for each architecture that can differ numerically.

The parameters are random but distributed like a trained model's. Norm gains are far from 1 and biases far from 0, otherwise
folding would change nothing. Two residual dimensions have massive activations, attention is peaked, and the logits have an
offset per position and a standard deviation of a few nats. A family consists of a configuration that transformers 4 and 5
read alike and a list of draws, named like the parameters of its checkpoints on the Hub.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial, wraps
from math import sqrt
from typing import Any

from tlbench.arithmetic.draws import Draw, Shape

N_LAYERS, N_CTX, D_VOCAB = 4, 256, 512
D_MODEL, D_MLP = 64, 160
N_HEADS, N_KV_HEADS, D_HEAD = 4, 2, 16

ATTENTION_SCALE = 1.6
"""Standard deviation of queries and keys. It gives scores with a standard deviation of about 2.6: a peaked pattern."""
RESIDUAL_SCALE = 0.5
"""Standard deviation of what a block writes to the residual stream; the embedding's is 1."""
LOGIT_SCALE = 3.0
"""Standard deviation of the logits at a position, in nats."""
OFFSET_SCALE = 6.0
"""Standard deviation of the offset that all logits at a position share, in nats."""
OUTLIER = 8.0

Config = dict[str, Any]
Draws = Iterator[Draw]
Build = Callable[[], "Family"]
Layer = Callable[[str], Draws]
"""Yields the parameters of a layer or block of that name."""


@dataclass(frozen=True)
class Family:
    """One architecture of the zoo: its ``config.json`` and its parameters."""

    config: Config
    draws: tuple[Draw, ...]


def families() -> dict[str, Build]:
    """A function that builds each family, by the family's name."""
    return {
        "gpt2": gpt2,
        "gpt-neo": gpt_neo,
        "bloom": bloom,
        "gpt-neox": gpt_neox,
        "gpt-j": gpt_j,
        "phi": phi,
        "phi3": phi3,
        "opt": opt,
        "stablelm": stablelm,
        "llama": llama,
        "llama-gqa": llama_gqa,
        "mistral": mistral,
        "mixtral": mixtral,
        "qwen2": qwen2,
        "qwen3": qwen3,
        "gemma": gemma,
        "gemma2": gemma2,
        "gemma3": gemma3,
        "olmo2": olmo2,
    }


# Configurations, with related keys on one line -----------------------------------------------------------------------

GPT2: Config = {
    **{"n_embd": D_MODEL, "n_head": N_HEADS, "n_layer": N_LAYERS, "n_positions": N_CTX, "n_inner": None},
    **{"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "scale_attn_weights": True},
    **dict.fromkeys(("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"), False),
    **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
}
"""The keys that GPT-2 and GPT-J share."""
SIZES: Config = {
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "max_position_embeddings": N_CTX,
    "attention_dropout": 0.0,
}
"""The keys that most families after GPT-2 share."""
LLAMA: Config = {
    **SIZES,
    **{"num_key_value_heads": N_KV_HEADS, "attention_bias": False, "rope_theta": 10000.0, "tie_word_embeddings": False},
    **{"intermediate_size": D_MLP, "hidden_act": "silu", "rms_norm_eps": 1e-5},
}
"""The keys that Llama and its descendants share."""
QWEN: Config = {
    **{"rms_norm_eps": 1e-6, "rope_theta": 1000000.0},
    **{"use_sliding_window": False, "sliding_window": None, "max_window_layers": N_LAYERS},
}
GEMMA: Config = {
    **{"head_dim": 256, "rms_norm_eps": 1e-6, "tie_word_embeddings": True},
    **dict.fromkeys(("hidden_act", "hidden_activation"), "gelu_pytorch_tanh"),
}
"""Heads are 256 wide as in Gemma, because TransformerLens scales attention by sqrt(d_head)."""


def config(architecture: str, model_type: str, *groups: Config, **values: Any) -> Config:
    """The config.json with these values, the last of equal keys. The special tokens are the byte tokenizer's."""
    merged: Config = {
        **{"architectures": [architecture], "model_type": model_type, "vocab_size": D_VOCAB},
        **{"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258},
        **{"initializer_range": 0.02, "torch_dtype": "float32", "use_cache": True},
    }
    for group in (*groups, values):
        merged |= group
    return merged


def llama_like(architecture: str, model_type: str, *groups: Config, **values: Any) -> Config:
    """Llama's configuration with other values."""
    return config(architecture, model_type, LLAMA, *groups, **values)


def configured(architecture: str, model_type: str, *groups: Config, **values: Any) -> Callable[[Callable[[], Draws]], Build]:
    """Turn a function that yields a family's parameters into one that builds the family, with this :func:`config`."""

    def decorate(draws: Callable[[], Draws]) -> Build:
        return wraps(draws)(lambda: Family(config(architecture, model_type, *groups, **values), tuple(draws())))

    return decorate


# Layers --------------------------------------------------------------------------------------------------------------


def blocks(prefix: str, n_layers: int = N_LAYERS) -> list[str]:
    """The names of the blocks."""
    return [f"{prefix}.{i}" for i in range(n_layers)]


def bias(name: str, width: int, scale: float = 0.2) -> Draw:
    return Draw(f"{name}.bias", (width,), Shape.BIAS, scale)


def reading(name: str, d_out: int, scale: float = 1.0, *, bias_scale: float = 0.0, transposed: bool = False) -> Draws:
    """A layer that reads the normalised residual stream. Without the bias, its outputs have standard deviation ``scale``."""
    yield Draw(f"{name}.weight", (D_MODEL, d_out) if transposed else (d_out, D_MODEL), scale=scale / sqrt(D_MODEL))
    if bias_scale:
        yield bias(name, d_out, bias_scale)


def writing(name: str, d_in: int, *, biased: bool = False, transposed: bool = False) -> Draws:
    """A layer that writes to the residual stream, with larger entries in the outlier dimensions."""
    size, axis = ((d_in, D_MODEL), 1) if transposed else ((D_MODEL, d_in), 0)
    yield Draw(f"{name}.weight", size, scale=RESIDUAL_SCALE / sqrt(d_in), outlier_axis=axis, outlier_factor=OUTLIER)
    if biased:
        yield bias(name, D_MODEL)


def rms_norm(name: str, scale: float = 1.0, shape: Shape = Shape.GAIN) -> Draws:
    """A norm's gain, damped in the outlier dimensions as in trained models."""
    yield Draw(f"{name}.weight", (D_MODEL,), shape, scale, outlier_axis=0, outlier_factor=1 / OUTLIER)


def layer_norm(name: str) -> Draws:
    yield from rms_norm(name)
    yield bias(name, D_MODEL, 0.3)


def query_key_norms(prefix: str, width: int, shape: Shape = Shape.GAIN) -> Draws:
    """The gains of two norms off the residual stream, so without outlier dimensions."""
    for letter in "qk":
        yield Draw(f"{prefix}.{letter}_norm.weight", (width,), shape, ATTENTION_SCALE)


def embedding(name: str, rows: int = D_VOCAB, scale: float = 1.0) -> Draw:
    return Draw(f"{name}.weight", (rows, D_MODEL), scale=scale, outlier_axis=1, outlier_factor=OUTLIER)


def unembedding(name: str) -> Draw:
    root = sqrt(D_MODEL)
    return Draw(f"{name}.weight", (D_VOCAB, D_MODEL), scale=LOGIT_SCALE / root, common=OFFSET_SCALE / root)


def tied_embedding(name: str) -> Draw:
    """An embedding that is also the unembedding. The final norm's damped gain keeps the logits in range."""
    return replace(unembedding(name), outlier_axis=1, outlier_factor=OUTLIER / 2)


def separate_attention(
    prefix: str, out: str, *, n_kv: int = N_HEADS, d_head: int = D_HEAD, qkv_bias: bool = False, out_bias: bool = False
) -> Draws:
    """Separate query, key, value and output projections."""
    bias_scale = 0.4 if qkv_bias else 0.0
    yield from reading(f"{prefix}.q_proj", N_HEADS * d_head, ATTENTION_SCALE, bias_scale=bias_scale)
    yield from reading(f"{prefix}.k_proj", n_kv * d_head, ATTENTION_SCALE, bias_scale=bias_scale)
    yield from reading(f"{prefix}.v_proj", n_kv * d_head, bias_scale=bias_scale)
    yield from writing(f"{prefix}.{out}", N_HEADS * d_head, biased=out_bias)


def fused_attention(qkv: str, out: str, *, transposed: bool = False) -> Draws:
    """Query, key and value in one matrix."""
    yield from reading(qkv, 3 * D_MODEL, 1.3, bias_scale=0.4, transposed=transposed)
    yield from writing(out, D_MODEL, biased=True, transposed=transposed)


def plain_mlp(wide: str, narrow: str, *, transposed: bool = False) -> Draws:
    yield from reading(wide, 4 * D_MODEL, 1.4, bias_scale=0.2, transposed=transposed)
    yield from writing(narrow, 4 * D_MODEL, biased=True, transposed=transposed)


def gated_mlp(block: str, gate: str = "mlp.gate_proj", up: str = "mlp.up_proj", down: str = "mlp.down_proj") -> Draws:
    yield from reading(f"{block}.{gate}", D_MLP, 1.4)
    yield from reading(f"{block}.{up}", D_MLP)
    yield from writing(f"{block}.{down}", D_MLP)


# Families with LayerNorm ---------------------------------------------------------------------------------------------


@configured("GPT2LMHeadModel", "gpt2", GPT2, n_ctx=N_CTX)
def gpt2() -> Draws:
    """LayerNorm with biases, learned positions, tied embeddings, fused query-key-value stored transposed."""
    yield tied_embedding("transformer.wte")
    yield embedding("transformer.wpe", N_CTX, 0.3)
    for block in blocks("transformer.h"):
        yield from layer_norm(f"{block}.ln_1")
        yield from fused_attention(f"{block}.attn.c_attn", f"{block}.attn.c_proj", transposed=True)
        yield from layer_norm(f"{block}.ln_2")
        yield from plain_mlp(f"{block}.mlp.c_fc", f"{block}.mlp.c_proj", transposed=True)
    yield from layer_norm("transformer.ln_f")


@configured(
    "GPTNeoForCausalLM",
    "gpt_neo",
    {"hidden_size": D_MODEL, "num_layers": N_LAYERS, "num_heads": N_HEADS, "max_position_embeddings": N_CTX},
    {"intermediate_size": None, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "window_size": 32},
    {"attention_types": [[["global", "local"], N_LAYERS // 2]], "attention_layers": ["global", "local"] * (N_LAYERS // 2)},
    dict.fromkeys(("attention_dropout", "embed_dropout", "resid_dropout"), 0.0),
)
def gpt_neo() -> Draws:
    """GPT-Neo: attention without the 1/sqrt(d_head) scale, alternating global and local layers."""
    yield tied_embedding("transformer.wte")
    yield embedding("transformer.wpe", N_CTX, 0.3)
    for block in blocks("transformer.h"):
        yield from layer_norm(f"{block}.ln_1")
        for letter, scale in (("q", 0.8), ("k", 0.8), ("v", 1.0)):
            yield from reading(f"{block}.attn.attention.{letter}_proj", D_MODEL, scale)
        yield from writing(f"{block}.attn.attention.out_proj", D_MODEL, biased=True)
        yield from layer_norm(f"{block}.ln_2")
        yield from plain_mlp(f"{block}.mlp.c_fc", f"{block}.mlp.c_proj")
    yield from layer_norm("transformer.ln_f")


@configured(
    "BloomForCausalLM",
    "bloom",
    {"hidden_size": D_MODEL, "n_layer": N_LAYERS, "n_head": N_HEADS, "layer_norm_epsilon": 1e-5},
    {"apply_residual_connection_post_layernorm": False, "slow_but_exact": False, "pretraining_tp": 1},
    dict.fromkeys(("attention_dropout", "hidden_dropout"), 0.0),
)
def bloom() -> Draws:
    """BLOOM: ALiBi, a LayerNorm after the embedding, query-key-value interleaved by head."""
    yield tied_embedding("transformer.word_embeddings")
    yield from layer_norm("transformer.word_embeddings_layernorm")
    for block in blocks("transformer.h"):
        yield from layer_norm(f"{block}.input_layernorm")
        yield from fused_attention(f"{block}.self_attention.query_key_value", f"{block}.self_attention.dense")
        yield from layer_norm(f"{block}.post_attention_layernorm")
        yield from plain_mlp(f"{block}.mlp.dense_h_to_4h", f"{block}.mlp.dense_4h_to_h")
    yield from layer_norm("transformer.ln_f")


@configured(
    "GPTNeoXForCausalLM",
    "gpt_neox",
    SIZES,
    {"intermediate_size": 4 * D_MODEL, "hidden_act": "gelu", "layer_norm_eps": 1e-5, "tie_word_embeddings": False},
    {"rotary_pct": 0.25, "rotary_emb_base": 10000, "use_parallel_residual": True, "attention_bias": True},
    hidden_dropout=0.0,
)
def gpt_neox() -> Draws:
    """GPT-NeoX (Pythia): attention and MLP in parallel, rotary positions on a quarter of each head."""
    yield embedding("gpt_neox.embed_in")
    for block in blocks("gpt_neox.layers"):
        yield from layer_norm(f"{block}.input_layernorm")
        yield from layer_norm(f"{block}.post_attention_layernorm")
        yield from fused_attention(f"{block}.attention.query_key_value", f"{block}.attention.dense")
        yield from plain_mlp(f"{block}.mlp.dense_h_to_4h", f"{block}.mlp.dense_4h_to_h")
    yield from layer_norm("gpt_neox.final_layer_norm")
    yield unembedding("embed_out")


@configured("GPTJForCausalLM", "gptj", GPT2, rotary_dim=8, tie_word_embeddings=False)
def gpt_j() -> Draws:
    """GPT-J: parallel blocks with one norm, rotary positions on adjacent pairs, an unembedding bias."""
    yield embedding("transformer.wte")
    for block in blocks("transformer.h"):
        yield from layer_norm(f"{block}.ln_1")
        yield from separate_attention(f"{block}.attn", "out_proj")
        yield from plain_mlp(f"{block}.mlp.fc_in", f"{block}.mlp.fc_out")
    yield from layer_norm("transformer.ln_f")
    yield unembedding("lm_head")
    yield bias("lm_head", D_VOCAB)


@configured(
    "PhiForCausalLM",
    "phi",
    SIZES,
    {"intermediate_size": 4 * D_MODEL, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "tie_word_embeddings": False},
    {"num_key_value_heads": N_HEADS, "partial_rotary_factor": 0.5, "rope_theta": 10000.0, "qk_layernorm": False},
    dict.fromkeys(("embd_pdrop", "resid_pdrop"), 0.0),
)
def phi() -> Draws:
    """Phi: parallel blocks, biases everywhere, rotary positions on half of each head."""
    yield embedding("model.embed_tokens")
    for block in blocks("model.layers"):
        yield from layer_norm(f"{block}.input_layernorm")
        yield from separate_attention(f"{block}.self_attn", "dense", qkv_bias=True, out_bias=True)
        yield from plain_mlp(f"{block}.mlp.fc1", f"{block}.mlp.fc2")
    yield from layer_norm("model.final_layernorm")
    yield unembedding("lm_head")
    yield bias("lm_head", D_VOCAB)


@configured(
    "OPTForCausalLM",
    "opt",
    SIZES,
    {"word_embed_proj_dim": D_MODEL, "ffn_dim": 4 * D_MODEL, "activation_function": "relu"},
    dict.fromkeys(("do_layer_norm_before", "enable_bias", "layer_norm_elementwise_affine"), True),
    dict.fromkeys(("dropout", "layerdrop"), 0.0),
)
def opt() -> Draws:
    """OPT: learned positions with an offset of two, ReLU, tied embeddings."""
    yield tied_embedding("model.decoder.embed_tokens")
    yield embedding("model.decoder.embed_positions", N_CTX + 2, 0.3)
    for block in blocks("model.decoder.layers"):
        yield from separate_attention(f"{block}.self_attn", "out_proj", qkv_bias=True, out_bias=True)
        yield from layer_norm(f"{block}.self_attn_layer_norm")
        yield from plain_mlp(f"{block}.fc1", f"{block}.fc2")
        yield from layer_norm(f"{block}.final_layer_norm")
    yield from layer_norm("model.decoder.final_layer_norm")


def stablelm() -> Family:
    """StableLM 2: LayerNorm with a gated MLP, query-key-value biases, rotary positions on a quarter of each head."""
    values = llama_like(
        "StableLmForCausalLM",
        "stablelm",
        {"num_key_value_heads": N_HEADS, "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25, "use_qkv_bias": True},
        {"qk_layernorm": False, "use_parallel_residual": False, "hidden_dropout": 0.0},
    )
    del values["rms_norm_eps"], values["attention_bias"]
    return Family(values, tuple(llama_draws(n_kv=N_HEADS, qkv_bias=True, norm=layer_norm)))


# Families with RMSNorm -----------------------------------------------------------------------------------------------


def llama_draws(
    *, n_kv: int = N_KV_HEADS, qkv_bias: bool = False, qk_norm: bool = False, norm: Layer = rms_norm, mlp: Layer = gated_mlp
) -> Draws:
    """Llama's parameters, with the variations of its descendants."""
    yield embedding("model.embed_tokens")
    for block in blocks("model.layers"):
        yield from norm(f"{block}.input_layernorm")
        yield from separate_attention(f"{block}.self_attn", "o_proj", n_kv=n_kv, qkv_bias=qkv_bias)
        if qk_norm:
            yield from query_key_norms(f"{block}.self_attn", D_HEAD)
        yield from norm(f"{block}.post_attention_layernorm")
        yield from mlp(block)
    yield from norm("model.norm")
    yield unembedding("lm_head")


def llama() -> Family:
    """Llama 2: RMSNorm, rotary positions, a gated MLP, and no grouped-query attention."""
    values = llama_like("LlamaForCausalLM", "llama", mlp_bias=False, num_key_value_heads=N_HEADS)
    return Family(values, tuple(llama_draws(n_kv=N_HEADS)))


def llama_gqa() -> Family:
    """Llama with grouped-query attention."""
    return Family(llama_like("LlamaForCausalLM", "llama", mlp_bias=False), tuple(llama_draws()))


def mistral() -> Family:
    """Mistral: Llama with a sliding window. It has 32 positions here, so the prompts extend past its edge."""
    values = llama_like("MistralForCausalLM", "mistral", sliding_window=32, head_dim=D_HEAD)
    return Family(values, tuple(llama_draws()))


def mixtral() -> Family:
    """Mixtral: Mistral with four experts, two of them active per token."""
    n_experts = 4

    def experts(block: str) -> Draws:
        yield from reading(f"{block}.block_sparse_moe.gate", n_experts, 1.5)
        for expert in range(n_experts):
            yield from gated_mlp(f"{block}.block_sparse_moe.experts.{expert}", gate="w1", up="w3", down="w2")

    values = llama_like(
        "MixtralForCausalLM",
        "mixtral",
        {"num_local_experts": n_experts, "num_experts_per_tok": 2, "sliding_window": None, "rope_theta": 1000000.0},
        {"output_router_logits": False, "router_aux_loss_coef": 0.0},
    )
    return Family(values, tuple(llama_draws(mlp=experts)))


def qwen2() -> Family:
    """Qwen 2, like Qwen1.5-0.5B: Llama with query, key and value biases, and no grouped-query attention."""
    values = llama_like("Qwen2ForCausalLM", "qwen2", QWEN, num_key_value_heads=N_HEADS)
    del values["attention_bias"]
    return Family(values, tuple(llama_draws(n_kv=N_HEADS, qkv_bias=True)))


def qwen3() -> Family:
    """Qwen 3: Llama with a norm on every head's queries and keys."""
    return Family(llama_like("Qwen3ForCausalLM", "qwen3", QWEN, head_dim=D_HEAD), tuple(llama_draws(qk_norm=True)))


@configured(
    "Phi3ForCausalLM",
    "phi3",
    LLAMA,
    {"num_key_value_heads": N_HEADS, "original_max_position_embeddings": N_CTX},
    {"sliding_window": None, "partial_rotary_factor": 1.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
)
def phi3() -> Draws:
    """Phi 3: Llama with fused query-key-value and gate-up projections."""
    yield embedding("model.embed_tokens")
    for block in blocks("model.layers"):
        yield from rms_norm(f"{block}.input_layernorm")
        yield from reading(f"{block}.self_attn.qkv_proj", 3 * D_MODEL, 1.3)
        yield from writing(f"{block}.self_attn.o_proj", D_MODEL)
        yield from rms_norm(f"{block}.post_attention_layernorm")
        yield from reading(f"{block}.mlp.gate_up_proj", 2 * D_MLP, 1.2)
        yield from writing(f"{block}.mlp.down_proj", D_MLP)
    yield from rms_norm("model.norm")
    yield unembedding("lm_head")


def gemma_draws(n_layers: int, *, n_kv: int, post_norms: bool = False, qk_norm: bool = False) -> Draws:
    """Gemma's parameters, with (1+w) norms. The model scales its embedding by sqrt(d_model), so it is drawn smaller."""
    norm = partial(rms_norm, shape=Shape.GAIN_LESS_ONE)
    yield tied_embedding("model.embed_tokens")
    for block in blocks("model.layers", n_layers):
        yield from norm(f"{block}.input_layernorm")
        yield from separate_attention(f"{block}.self_attn", "o_proj", n_kv=n_kv, d_head=256)
        if qk_norm:
            yield from query_key_norms(f"{block}.self_attn", 256, Shape.GAIN_LESS_ONE)
        yield from norm(f"{block}.post_attention_layernorm")
        if post_norms:
            yield from norm(f"{block}.pre_feedforward_layernorm")
            yield from norm(f"{block}.post_feedforward_layernorm")
        yield from gated_mlp(block)
    yield from norm("model.norm")


def gemma() -> Family:
    """Gemma: (1+w) norms, an embedding scaled by sqrt(d_model), one key-value head."""
    values = llama_like("GemmaForCausalLM", "gemma", GEMMA, num_key_value_heads=1)
    return Family(values, tuple(gemma_draws(N_LAYERS, n_kv=1)))


def gemma2() -> Family:
    """Gemma 2: soft caps on attention scores and logits, norms before and after attention and MLP."""
    values = llama_like(
        "Gemma2ForCausalLM",
        "gemma2",
        GEMMA,
        {"query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        {"sliding_window": 4096, "layer_types": ["sliding_attention", "full_attention"] * (N_LAYERS // 2)},
    )
    return Family(values, tuple(gemma_draws(N_LAYERS, n_kv=N_KV_HEADS, post_norms=True)))


def gemma3() -> Family:
    """Gemma 3: query and key norms, five local layers per global one, and a separate rotary base for each kind."""
    n_layers = 6
    values = llama_like(
        "Gemma3ForCausalLM",
        "gemma3_text",
        GEMMA,
        {"num_hidden_layers": n_layers, "num_key_value_heads": 1, "query_pre_attn_scalar": 256},
        {"attn_logit_softcapping": None, "final_logit_softcapping": None},
        {"sliding_window": 512, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]},
        {"rope_theta": 1000000.0, "rope_local_base_freq": 10000.0},
    )
    return Family(values, tuple(gemma_draws(n_layers, n_kv=1, post_norms=True, qk_norm=True)))


@configured("Olmo2ForCausalLM", "olmo2", LLAMA, num_key_value_heads=N_HEADS, rms_norm_eps=1e-6, rope_theta=500000.0)
def olmo2() -> Draws:
    """OLMo 2: norms only after attention and MLP, and query and key norms over all heads at once."""
    yield embedding("model.embed_tokens")
    for block in blocks("model.layers"):
        yield from separate_attention(f"{block}.self_attn", "o_proj")
        yield from query_key_norms(f"{block}.self_attn", D_MODEL)
        yield from rms_norm(f"{block}.post_attention_layernorm", RESIDUAL_SCALE)
        yield from gated_mlp(block)
        yield from rms_norm(f"{block}.post_feedforward_layernorm", RESIDUAL_SCALE)
    yield from rms_norm("model.norm")
    yield unembedding("lm_head")
