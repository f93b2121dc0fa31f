"""The zoo: one small synthetic checkpoint for each architecture that can differ numerically.

The parameters are random but distributed like a trained model's. Norm gains are far from 1 and biases far from 0, otherwise
folding would change nothing. Two residual dimensions have massive activations, attention is peaked, and the logits have an
offset per position and a standard deviation of a few nats. A family consists of a configuration that transformers 4 and 5
read alike and a list of draws, named like the parameters of its checkpoints on the Hub.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Any

from tlbench.arithmetic.draws import Draw, Shape

D_MODEL = 64
N_HEADS = 4
D_HEAD = 16
N_KV_HEADS = 2
N_LAYERS = 4
D_MLP = 160
N_CTX = 256
D_VOCAB = 512

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


@dataclass(frozen=True)
class Family:
    """One architecture of the zoo: its ``config.json`` and its parameters."""

    config: Config
    draws: tuple[Draw, ...]


def families() -> dict[str, Callable[[], Family]]:
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


# Parts ---------------------------------------------------------------------------------------------------------------


def reading(name: str, d_out: int, *, scale: float = 1.0, d_in: int = D_MODEL, transposed: bool = False) -> Draw:
    """A matrix that reads the normalised residual stream. Its outputs have standard deviation ``scale``."""
    size = (d_in, d_out) if transposed else (d_out, d_in)
    return Draw(name, size, scale=scale / sqrt(d_in))


def writing(name: str, d_in: int, *, transposed: bool = False) -> Draw:
    """A matrix that writes to the residual stream, with larger entries in the outlier dimensions."""
    size = (d_in, D_MODEL) if transposed else (D_MODEL, d_in)
    axis = 1 if transposed else 0
    return Draw(name, size, scale=RESIDUAL_SCALE / sqrt(d_in), outlier_axis=axis, outlier_factor=OUTLIER)


def bias(name: str, width: int, scale: float = 0.2) -> Draw:
    return Draw(name, (width,), Shape.BIAS, scale)


def gain(name: str, width: int = D_MODEL, *, scale: float = 1.0, less_one: bool = False, damped: bool = True) -> Draw:
    """A norm's gain, damped in the outlier dimensions as in trained models."""
    shape = Shape.GAIN_LESS_ONE if less_one else Shape.GAIN
    if damped:
        return Draw(name, (width,), shape, scale, outlier_axis=0, outlier_factor=1 / OUTLIER)
    return Draw(name, (width,), shape, scale)


def layer_norm(name: str) -> Draws:
    yield gain(f"{name}.weight")
    yield bias(f"{name}.bias", D_MODEL, 0.3)


def embedding(name: str, rows: int = D_VOCAB, scale: float = 1.0) -> Draw:
    return Draw(name, (rows, D_MODEL), scale=scale, outlier_axis=1, outlier_factor=OUTLIER)


def unembedding(name: str) -> Draw:
    return Draw(name, (D_VOCAB, D_MODEL), scale=LOGIT_SCALE / sqrt(D_MODEL), common=OFFSET_SCALE / sqrt(D_MODEL))


def tied_embedding(name: str, scale: float = LOGIT_SCALE) -> Draw:
    """An embedding that is also the unembedding. The final norm's damped gain keeps the logits in range."""
    return Draw(
        name,
        (D_VOCAB, D_MODEL),
        scale=scale / sqrt(D_MODEL),
        common=2 * scale / sqrt(D_MODEL),
        outlier_axis=1,
        outlier_factor=OUTLIER / 2,
    )


def separate_attention(
    prefix: str, *, n_kv: int = N_HEADS, d_head: int = D_HEAD, qkv_bias: bool, out: str, out_bias: bool
) -> Draws:
    """Separate query, key, value and output projections."""
    widths = {"q": N_HEADS * d_head, "k": n_kv * d_head, "v": n_kv * d_head}
    for letter, width in widths.items():
        scale = 1.0 if letter == "v" else ATTENTION_SCALE
        yield reading(f"{prefix}.{letter}_proj.weight", width, scale=scale)
        if qkv_bias:
            yield bias(f"{prefix}.{letter}_proj.bias", width, 0.4)
    yield writing(f"{prefix}.{out}.weight", N_HEADS * d_head)
    if out_bias:
        yield bias(f"{prefix}.{out}.bias", D_MODEL)


def gated_mlp(prefix: str, d_mlp: int = D_MLP) -> Draws:
    yield reading(f"{prefix}.gate_proj.weight", d_mlp, scale=1.4)
    yield reading(f"{prefix}.up_proj.weight", d_mlp)
    yield writing(f"{prefix}.down_proj.weight", d_mlp)


def plain_mlp(names: tuple[str, str], d_mlp: int = 4 * D_MODEL, *, transposed: bool = False) -> Draws:
    wide, narrow = names
    yield reading(f"{wide}.weight", d_mlp, scale=1.4, transposed=transposed)
    yield bias(f"{wide}.bias", d_mlp)
    yield writing(f"{narrow}.weight", d_mlp, transposed=transposed)
    yield bias(f"{narrow}.bias", D_MODEL)


def config(architecture: str, model_type: str, **values: Any) -> Config:
    """The keys that every config.json of the zoo has. The special tokens are the byte tokenizer's."""
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": D_VOCAB,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "pad_token_id": 258,
        "initializer_range": 0.02,
        "torch_dtype": "float32",
        "use_cache": True,
        **values,
    }


def llama_like(architecture: str, model_type: str, **values: Any) -> Config:
    """The keys that Llama and its descendants share."""
    defaults: Config = {
        "hidden_size": D_MODEL,
        "intermediate_size": D_MLP,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "num_key_value_heads": N_KV_HEADS,
        "max_position_embeddings": N_CTX,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
    }
    return config(architecture, model_type, **{**defaults, **values})


# Families with LayerNorm ---------------------------------------------------------------------------------------------


def gpt2_config(architecture: str, model_type: str) -> Config:
    return config(
        architecture,
        model_type,
        n_embd=D_MODEL,
        n_head=N_HEADS,
        n_layer=N_LAYERS,
        n_positions=N_CTX,
        n_ctx=N_CTX,
        n_inner=None,
        activation_function="gelu_new",
        layer_norm_epsilon=1e-5,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        reorder_and_upcast_attn=False,
    )


def gpt2() -> Family:
    """LayerNorm with biases, learned positions, tied embeddings, fused query-key-value stored transposed."""

    def draws() -> Draws:
        yield tied_embedding("transformer.wte.weight")
        yield embedding("transformer.wpe.weight", N_CTX, 0.3)
        for i in range(N_LAYERS):
            block = f"transformer.h.{i}"
            yield from layer_norm(f"{block}.ln_1")
            yield reading(f"{block}.attn.c_attn.weight", 3 * D_MODEL, scale=1.3, transposed=True)
            yield bias(f"{block}.attn.c_attn.bias", 3 * D_MODEL, 0.4)
            yield writing(f"{block}.attn.c_proj.weight", D_MODEL, transposed=True)
            yield bias(f"{block}.attn.c_proj.bias", D_MODEL)
            yield from layer_norm(f"{block}.ln_2")
            yield from plain_mlp((f"{block}.mlp.c_fc", f"{block}.mlp.c_proj"), transposed=True)
        yield from layer_norm("transformer.ln_f")

    return Family(gpt2_config("GPT2LMHeadModel", "gpt2"), tuple(draws()))


def gpt_neo() -> Family:
    """GPT-Neo: attention without the 1/sqrt(d_head) scale, alternating global and local layers."""

    def draws() -> Draws:
        yield tied_embedding("transformer.wte.weight")
        yield embedding("transformer.wpe.weight", N_CTX, 0.3)
        for i in range(N_LAYERS):
            block = f"transformer.h.{i}"
            yield from layer_norm(f"{block}.ln_1")
            for letter, scale in (("q", 0.8), ("k", 0.8), ("v", 1.0)):
                yield reading(f"{block}.attn.attention.{letter}_proj.weight", D_MODEL, scale=scale)
            yield writing(f"{block}.attn.attention.out_proj.weight", D_MODEL)
            yield bias(f"{block}.attn.attention.out_proj.bias", D_MODEL)
            yield from layer_norm(f"{block}.ln_2")
            yield from plain_mlp((f"{block}.mlp.c_fc", f"{block}.mlp.c_proj"))
        yield from layer_norm("transformer.ln_f")

    values = config(
        "GPTNeoForCausalLM",
        "gpt_neo",
        hidden_size=D_MODEL,
        num_heads=N_HEADS,
        num_layers=N_LAYERS,
        intermediate_size=None,
        max_position_embeddings=N_CTX,
        attention_types=[[["global", "local"], N_LAYERS // 2]],
        attention_layers=["global", "local"] * (N_LAYERS // 2),
        window_size=32,
        activation_function="gelu_new",
        layer_norm_epsilon=1e-5,
        attention_dropout=0.0,
        embed_dropout=0.0,
        resid_dropout=0.0,
    )
    return Family(values, tuple(draws()))


def bloom() -> Family:
    """BLOOM: ALiBi, a LayerNorm after the embedding, query-key-value interleaved by head."""

    def draws() -> Draws:
        yield tied_embedding("transformer.word_embeddings.weight")
        yield from layer_norm("transformer.word_embeddings_layernorm")
        for i in range(N_LAYERS):
            block = f"transformer.h.{i}"
            yield from layer_norm(f"{block}.input_layernorm")
            yield reading(f"{block}.self_attention.query_key_value.weight", 3 * D_MODEL, scale=1.3)
            yield bias(f"{block}.self_attention.query_key_value.bias", 3 * D_MODEL, 0.4)
            yield writing(f"{block}.self_attention.dense.weight", D_MODEL)
            yield bias(f"{block}.self_attention.dense.bias", D_MODEL)
            yield from layer_norm(f"{block}.post_attention_layernorm")
            yield from plain_mlp((f"{block}.mlp.dense_h_to_4h", f"{block}.mlp.dense_4h_to_h"))
        yield from layer_norm("transformer.ln_f")

    values = config(
        "BloomForCausalLM",
        "bloom",
        hidden_size=D_MODEL,
        n_head=N_HEADS,
        n_layer=N_LAYERS,
        layer_norm_epsilon=1e-5,
        apply_residual_connection_post_layernorm=False,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        pretraining_tp=1,
        slow_but_exact=False,
    )
    return Family(values, tuple(draws()))


def gpt_neox() -> Family:
    """GPT-NeoX (Pythia): attention and MLP in parallel, rotary positions on a quarter of each head."""

    def draws() -> Draws:
        yield embedding("gpt_neox.embed_in.weight")
        for i in range(N_LAYERS):
            block = f"gpt_neox.layers.{i}"
            yield from layer_norm(f"{block}.input_layernorm")
            yield from layer_norm(f"{block}.post_attention_layernorm")
            yield reading(f"{block}.attention.query_key_value.weight", 3 * D_MODEL, scale=1.3)
            yield bias(f"{block}.attention.query_key_value.bias", 3 * D_MODEL, 0.4)
            yield writing(f"{block}.attention.dense.weight", D_MODEL)
            yield bias(f"{block}.attention.dense.bias", D_MODEL)
            yield from plain_mlp((f"{block}.mlp.dense_h_to_4h", f"{block}.mlp.dense_4h_to_h"))
        yield from layer_norm("gpt_neox.final_layer_norm")
        yield unembedding("embed_out.weight")

    values = config(
        "GPTNeoXForCausalLM",
        "gpt_neox",
        hidden_size=D_MODEL,
        intermediate_size=4 * D_MODEL,
        num_attention_heads=N_HEADS,
        num_hidden_layers=N_LAYERS,
        max_position_embeddings=N_CTX,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
        rotary_pct=0.25,
        rotary_emb_base=10000,
        use_parallel_residual=True,
        attention_bias=True,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        tie_word_embeddings=False,
    )
    return Family(values, tuple(draws()))


def gpt_j() -> Family:
    """GPT-J: parallel blocks with one norm, rotary positions on adjacent pairs, an unembedding bias."""

    def draws() -> Draws:
        yield embedding("transformer.wte.weight")
        for i in range(N_LAYERS):
            block = f"transformer.h.{i}"
            yield from layer_norm(f"{block}.ln_1")
            yield from separate_attention(f"{block}.attn", qkv_bias=False, out="out_proj", out_bias=False)
            yield from plain_mlp((f"{block}.mlp.fc_in", f"{block}.mlp.fc_out"))
        yield from layer_norm("transformer.ln_f")
        yield unembedding("lm_head.weight")
        yield bias("lm_head.bias", D_VOCAB)

    values = gpt2_config("GPTJForCausalLM", "gptj")
    del values["n_ctx"]
    return Family({**values, "rotary_dim": 8, "tie_word_embeddings": False}, tuple(draws()))


def phi() -> Family:
    """Phi: parallel blocks, biases everywhere, rotary positions on half of each head."""

    def draws() -> Draws:
        yield embedding("model.embed_tokens.weight")
        for i in range(N_LAYERS):
            block = f"model.layers.{i}"
            yield from layer_norm(f"{block}.input_layernorm")
            yield from separate_attention(f"{block}.self_attn", qkv_bias=True, out="dense", out_bias=True)
            yield from plain_mlp((f"{block}.mlp.fc1", f"{block}.mlp.fc2"))
        yield from layer_norm("model.final_layernorm")
        yield unembedding("lm_head.weight")
        yield bias("lm_head.bias", D_VOCAB)

    values = config(
        "PhiForCausalLM",
        "phi",
        hidden_size=D_MODEL,
        intermediate_size=4 * D_MODEL,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_HEADS,
        num_hidden_layers=N_LAYERS,
        max_position_embeddings=N_CTX,
        hidden_act="gelu_new",
        layer_norm_eps=1e-5,
        partial_rotary_factor=0.5,
        rope_theta=10000.0,
        qk_layernorm=False,
        attention_dropout=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        tie_word_embeddings=False,
    )
    return Family(values, tuple(draws()))


def opt() -> Family:
    """OPT: learned positions with an offset of two, ReLU, tied embeddings."""

    def draws() -> Draws:
        yield tied_embedding("model.decoder.embed_tokens.weight")
        yield embedding("model.decoder.embed_positions.weight", N_CTX + 2, 0.3)
        for i in range(N_LAYERS):
            block = f"model.decoder.layers.{i}"
            yield from separate_attention(f"{block}.self_attn", qkv_bias=True, out="out_proj", out_bias=True)
            yield from layer_norm(f"{block}.self_attn_layer_norm")
            yield from plain_mlp((f"{block}.fc1", f"{block}.fc2"))
            yield from layer_norm(f"{block}.final_layer_norm")
        yield from layer_norm("model.decoder.final_layer_norm")

    values = config(
        "OPTForCausalLM",
        "opt",
        hidden_size=D_MODEL,
        word_embed_proj_dim=D_MODEL,
        ffn_dim=4 * D_MODEL,
        num_attention_heads=N_HEADS,
        num_hidden_layers=N_LAYERS,
        max_position_embeddings=N_CTX,
        activation_function="relu",
        do_layer_norm_before=True,
        attention_dropout=0.0,
        dropout=0.0,
        layerdrop=0.0,
        enable_bias=True,
        layer_norm_elementwise_affine=True,
    )
    return Family(values, tuple(draws()))


def stablelm() -> Family:
    """StableLM 2: LayerNorm with a gated MLP, query-key-value biases, rotary positions on a quarter of each head."""

    def draws() -> Draws:
        yield embedding("model.embed_tokens.weight")
        for i in range(N_LAYERS):
            block = f"model.layers.{i}"
            yield from layer_norm(f"{block}.input_layernorm")
            yield from separate_attention(f"{block}.self_attn", qkv_bias=True, out="o_proj", out_bias=False)
            yield from layer_norm(f"{block}.post_attention_layernorm")
            yield from gated_mlp(f"{block}.mlp")
        yield from layer_norm("model.norm")
        yield unembedding("lm_head.weight")

    values = llama_like(
        "StableLmForCausalLM",
        "stablelm",
        num_key_value_heads=N_HEADS,
        layer_norm_eps=1e-5,
        partial_rotary_factor=0.25,
        use_qkv_bias=True,
        qk_layernorm=False,
        use_parallel_residual=False,
        hidden_dropout=0.0,
    )
    del values["rms_norm_eps"], values["attention_bias"]
    return Family(values, tuple(draws()))


# Families with RMSNorm -----------------------------------------------------------------------------------------------


def llama_draws(
    *,
    n_kv: int = N_KV_HEADS,
    qkv_bias: bool = False,
    qk_norm: bool = False,
    mlp: Callable[[str], Draws] = lambda block: gated_mlp(f"{block}.mlp"),
) -> Draws:
    """Llama's parameters, with the variations of its descendants."""
    yield embedding("model.embed_tokens.weight")
    for i in range(N_LAYERS):
        block = f"model.layers.{i}"
        yield gain(f"{block}.input_layernorm.weight")
        yield from separate_attention(f"{block}.self_attn", n_kv=n_kv, qkv_bias=qkv_bias, out="o_proj", out_bias=False)
        if qk_norm:
            yield gain(f"{block}.self_attn.q_norm.weight", D_HEAD, scale=ATTENTION_SCALE, damped=False)
            yield gain(f"{block}.self_attn.k_norm.weight", D_HEAD, scale=ATTENTION_SCALE, damped=False)
        yield gain(f"{block}.post_attention_layernorm.weight")
        yield from mlp(block)
    yield gain("model.norm.weight")
    yield unembedding("lm_head.weight")


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
        yield reading(f"{block}.block_sparse_moe.gate.weight", n_experts, scale=1.5)
        for expert in range(n_experts):
            prefix = f"{block}.block_sparse_moe.experts.{expert}"
            yield reading(f"{prefix}.w1.weight", D_MLP, scale=1.4)
            yield reading(f"{prefix}.w3.weight", D_MLP)
            yield writing(f"{prefix}.w2.weight", D_MLP)

    values = llama_like(
        "MixtralForCausalLM",
        "mixtral",
        sliding_window=None,
        num_local_experts=n_experts,
        num_experts_per_tok=2,
        output_router_logits=False,
        router_aux_loss_coef=0.0,
        rope_theta=1000000.0,
    )
    return Family(values, tuple(llama_draws(mlp=experts)))


def qwen2() -> Family:
    """Qwen 2, like Qwen1.5-0.5B: Llama with query, key and value biases, and no grouped-query attention."""
    values = llama_like(
        "Qwen2ForCausalLM",
        "qwen2",
        num_key_value_heads=N_HEADS,
        rms_norm_eps=1e-6,
        rope_theta=1000000.0,
        use_sliding_window=False,
        sliding_window=None,
        max_window_layers=N_LAYERS,
    )
    del values["attention_bias"]
    return Family(values, tuple(llama_draws(n_kv=N_HEADS, qkv_bias=True)))


def qwen3() -> Family:
    """Qwen 3: Llama with a norm on every head's queries and keys."""
    values = llama_like(
        "Qwen3ForCausalLM",
        "qwen3",
        head_dim=D_HEAD,
        rms_norm_eps=1e-6,
        rope_theta=1000000.0,
        use_sliding_window=False,
        sliding_window=None,
        max_window_layers=N_LAYERS,
    )
    return Family(values, tuple(llama_draws(qk_norm=True)))


def phi3() -> Family:
    """Phi 3: Llama with fused query-key-value and gate-up projections."""

    def draws() -> Draws:
        yield embedding("model.embed_tokens.weight")
        for i in range(N_LAYERS):
            block = f"model.layers.{i}"
            yield gain(f"{block}.input_layernorm.weight")
            yield reading(f"{block}.self_attn.qkv_proj.weight", 3 * D_MODEL, scale=1.3)
            yield writing(f"{block}.self_attn.o_proj.weight", D_MODEL)
            yield gain(f"{block}.post_attention_layernorm.weight")
            yield reading(f"{block}.mlp.gate_up_proj.weight", 2 * D_MLP, scale=1.2)
            yield writing(f"{block}.mlp.down_proj.weight", D_MLP)
        yield gain("model.norm.weight")
        yield unembedding("lm_head.weight")

    values = llama_like(
        "Phi3ForCausalLM",
        "phi3",
        num_key_value_heads=N_HEADS,
        original_max_position_embeddings=N_CTX,
        sliding_window=None,
        partial_rotary_factor=1.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
    )
    return Family(values, tuple(draws()))


def gemma_like(architecture: str, model_type: str, **values: Any) -> Config:
    """Gemma's configuration. Heads are 256 wide as in Gemma, because TransformerLens scales attention by sqrt(d_head)."""
    return llama_like(
        architecture,
        model_type,
        head_dim=256,
        hidden_act="gelu_pytorch_tanh",
        hidden_activation="gelu_pytorch_tanh",
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        **values,
    )


def gemma_draws(n_layers: int, *, n_kv: int, post_norms: bool, qk_norm: bool) -> Draws:
    """Gemma's parameters, with (1+w) norms. The model scales its embedding by sqrt(d_model), so it is drawn smaller."""
    yield tied_embedding("model.embed_tokens.weight")
    for i in range(n_layers):
        block = f"model.layers.{i}"
        yield gain(f"{block}.input_layernorm.weight", less_one=True)
        yield from separate_attention(
            f"{block}.self_attn", n_kv=n_kv, d_head=256, qkv_bias=False, out="o_proj", out_bias=False
        )
        if qk_norm:
            yield gain(f"{block}.self_attn.q_norm.weight", 256, scale=ATTENTION_SCALE, less_one=True, damped=False)
            yield gain(f"{block}.self_attn.k_norm.weight", 256, scale=ATTENTION_SCALE, less_one=True, damped=False)
        yield gain(f"{block}.post_attention_layernorm.weight", less_one=True)
        if post_norms:
            yield gain(f"{block}.pre_feedforward_layernorm.weight", less_one=True)
            yield gain(f"{block}.post_feedforward_layernorm.weight", less_one=True)
        yield from gated_mlp(f"{block}.mlp")
    yield gain("model.norm.weight", less_one=True)


def gemma() -> Family:
    """Gemma: (1+w) norms, an embedding scaled by sqrt(d_model), one key-value head."""
    values = gemma_like("GemmaForCausalLM", "gemma", num_key_value_heads=1)
    return Family(values, tuple(gemma_draws(N_LAYERS, n_kv=1, post_norms=False, qk_norm=False)))


def gemma2() -> Family:
    """Gemma 2: soft caps on attention scores and logits, norms before and after attention and MLP."""
    values = gemma_like(
        "Gemma2ForCausalLM",
        "gemma2",
        query_pre_attn_scalar=256,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        sliding_window=4096,
        layer_types=["sliding_attention", "full_attention"] * (N_LAYERS // 2),
    )
    return Family(values, tuple(gemma_draws(N_LAYERS, n_kv=N_KV_HEADS, post_norms=True, qk_norm=False)))


def gemma3() -> Family:
    """Gemma 3: query and key norms, five local layers per global one, and a separate rotary base for each kind."""
    n_layers = 6
    values = gemma_like(
        "Gemma3ForCausalLM",
        "gemma3_text",
        num_hidden_layers=n_layers,
        num_key_value_heads=1,
        query_pre_attn_scalar=256,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        sliding_window=512,
        layer_types=["sliding_attention"] * 5 + ["full_attention"],
    )
    values["rope_theta"] = 1000000.0
    values["rope_local_base_freq"] = 10000.0
    return Family(values, tuple(gemma_draws(n_layers, n_kv=1, post_norms=True, qk_norm=True)))


def olmo2() -> Family:
    """OLMo 2: norms only after attention and MLP, and query and key norms over all heads at once."""

    def draws() -> Draws:
        yield embedding("model.embed_tokens.weight")
        for i in range(N_LAYERS):
            block = f"model.layers.{i}"
            yield from separate_attention(f"{block}.self_attn", n_kv=N_HEADS, qkv_bias=False, out="o_proj", out_bias=False)
            yield gain(f"{block}.self_attn.q_norm.weight", D_MODEL, scale=ATTENTION_SCALE, damped=False)
            yield gain(f"{block}.self_attn.k_norm.weight", D_MODEL, scale=ATTENTION_SCALE, damped=False)
            yield gain(f"{block}.post_attention_layernorm.weight", scale=RESIDUAL_SCALE)
            yield from gated_mlp(f"{block}.mlp")
            yield gain(f"{block}.post_feedforward_layernorm.weight", scale=RESIDUAL_SCALE)
        yield gain("model.norm.weight")
        yield unembedding("lm_head.weight")

    values = llama_like("Olmo2ForCausalLM", "olmo2", num_key_value_heads=N_HEADS, rms_norm_eps=1e-6, rope_theta=500000.0)
    return Family(values, tuple(draws()))
