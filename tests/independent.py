"""GPT-2 and Llama in float64, from the papers' formulas alone: a second opinion on the reference logits.

Plain numpy, a function for each formula, no code shared with transformers, TransformerLens or ``tlbench``. Activations
are ``[batch, pos, d_model]``, or ``[batch, head, pos, d_head]`` within attention.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

Weights = dict[str, np.ndarray]
Rounding = Callable[[np.ndarray], np.ndarray]
Ids = Sequence[Sequence[int]]


def gpt2_logits(folder: Path, ids: Ids, round_weights: Rounding = lambda w: w) -> np.ndarray:
    """Logits ``[batch, pos, d_vocab]`` of GPT-2 (Radford et al. 2019) on ``ids``, rows of one length.

    Each block adds ``attention(norm(x))``, then ``mlp(norm(x))``; the unembedding is the embedding, transposed.
    """
    config, weights = read_checkpoint(folder, round_weights)
    n_heads, epsilon = config["n_head"], config["layer_norm_epsilon"]
    tokens = np.asarray(ids)

    def affine(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], epsilon)

    x = weights["transformer.wte.weight"][tokens] + weights["transformer.wpe.weight"][: tokens.shape[1]]
    for i in range(config["n_layer"]):
        block = f"transformer.h.{i}"
        qkv = affine(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn")
        q, k, v = (split_heads(part, n_heads) for part in np.split(qkv, 3, axis=-1))
        x = x + affine(merge_heads(attention(q, k, v)), f"{block}.attn.c_proj")
        x = x + affine(gelu_tanh(affine(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")), f"{block}.mlp.c_proj")
    return norm(x, "transformer.ln_f") @ weights["transformer.wte.weight"].T


def llama_logits(folder: Path, ids: Ids, round_weights: Rounding = lambda w: w) -> np.ndarray:
    """Logits ``[batch, pos, d_vocab]`` of Llama (Touvron et al. 2023) on ``ids``, rows of one length.

    Each block adds ``attention(norm(x))``, then ``mlp(norm(x))``. With fewer key-value heads than query heads, each
    serves as many consecutive query heads (Ainslie et al. 2023). Without ``lm_head`` in the file, the embedding unembeds.
    """
    config, weights = read_checkpoint(folder, round_weights)
    n_heads, n_kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    base, epsilon = config["rope_theta"], config["rms_norm_eps"]
    embedding = weights["model.embed_tokens.weight"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return rms_norm(x, weights[f"{name}.weight"], epsilon)

    x = embedding[np.asarray(ids)]
    for i in range(config["num_hidden_layers"]):
        attn, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        read = norm(x, f"model.layers.{i}.input_layernorm")
        q = rotary(split_heads(linear(read, f"{attn}.q_proj"), n_heads), base)
        k = rotary(split_heads(linear(read, f"{attn}.k_proj"), n_kv_heads), base)
        v = split_heads(linear(read, f"{attn}.v_proj"), n_kv_heads)
        k, v = (np.repeat(part, n_heads // n_kv_heads, axis=1) for part in (k, v))
        x = x + linear(merge_heads(attention(q, k, v)), f"{attn}.o_proj")
        read = norm(x, f"model.layers.{i}.post_attention_layernorm")
        gated = silu(linear(read, f"{mlp}.gate_proj")) * linear(read, f"{mlp}.up_proj")
        x = x + linear(gated, f"{mlp}.down_proj")
    return norm(x, "model.norm") @ weights.get("lm_head.weight", embedding).T


def read_checkpoint(folder: Path, round_weights: Rounding) -> tuple[dict[str, Any], Weights]:
    """The configuration and each weight, rounded by ``round_weights``, then widened to float64."""
    config = json.loads((folder / "config.json").read_text())
    stored = load_file(folder / "model.safetensors")
    return config, {name: round_weights(weight).astype(np.float64) for name, weight in stored.items()}


def layer_norm(x: np.ndarray, gain: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    """Ba et al. 2016, over the last axis: ``gain * (x - mean) / sqrt(variance + epsilon) + bias``, variance biased."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(centred**2, axis=-1, keepdims=True)
    return gain * centred / np.sqrt(variance + epsilon) + bias


def rms_norm(x: np.ndarray, gain: np.ndarray, epsilon: float) -> np.ndarray:
    """Zhang & Sennrich 2019, over the last axis: ``gain * x / sqrt(mean(x**2) + epsilon)``."""
    return gain * x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + epsilon)


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """Hendrycks & Gimpel 2016, the approximation with tanh; elementwise."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def silu(x: np.ndarray) -> np.ndarray:
    """``x * sigmoid(x)``, the gate of SwiGLU (Shazeer 2020); elementwise."""
    return x / (1 + np.exp(-x))


def rotary(x: np.ndarray, base: float) -> np.ndarray:
    """Su et al. 2021 on ``[batch, head, pos, d_head]``: rotates pair ``i`` by ``pos * base**(-2i / d_head)``.

    As the checkpoints have it, the pair is dimensions ``i`` and ``i + d_head / 2``, not the paper's neighbours.
    """
    n_pos, d_head = x.shape[-2:]
    angles = np.arange(n_pos)[:, None] * base ** (-np.arange(0, d_head, 2) / d_head)
    first, second = np.split(x, 2, axis=-1)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Vaswani et al. 2017, causal: ``softmax(q k^T / sqrt(d_head)) v``, all ``[batch, head, pos, d_head]``."""
    n_pos, d_head = q.shape[-2:]
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(d_head)
    causal = np.tril(np.ones((n_pos, n_pos), dtype=bool))
    return softmax(np.where(causal, scores, -np.inf)) @ v


def softmax(x: np.ndarray) -> np.ndarray:
    """``exp(x) / sum(exp(x))`` over the last axis, shifted by the maximum against overflow."""
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def split_heads(x: np.ndarray, n_heads: int) -> np.ndarray:
    """``[batch, pos, n_heads * d_head]`` to ``[batch, head, pos, d_head]``."""
    n_batch, n_pos, width = x.shape
    return x.reshape(n_batch, n_pos, n_heads, width // n_heads).swapaxes(1, 2)


def merge_heads(x: np.ndarray) -> np.ndarray:
    """``[batch, head, pos, d_head]`` to ``[batch, pos, n_heads * d_head]``."""
    n_batch, n_heads, n_pos, d_head = x.shape
    return x.swapaxes(1, 2).reshape(n_batch, n_pos, n_heads * d_head)
