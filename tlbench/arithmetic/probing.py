"""The probe: a hash of results that this process computes, which identifies its arithmetic."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from tlbench.arithmetic.draws import normal, uniform


@lru_cache(maxsize=1)
def probe() -> str:
    """A SHA-256 over HuggingFace's logits of two small models and over the results of many single operators.

    It runs on one thread, so the process can still fork afterwards. It depends neither on the transformers version nor on
    any library's random numbers, and leaves torch's state unchanged.
    """
    digest = hashlib.sha256()
    # transformers checks whether a CUDA graph is being captured. That initialises CUDA, and forks could not use it then.
    no_cuda = patch.object(torch.cuda, "is_current_stream_capturing", lambda: False)
    with _one_thread(), no_cuda, torch.random.fork_rng(devices=[]), torch.inference_mode():
        for name, values in (*_logits(), *_operators()):
            digest.update(name.encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _logits() -> Iterator[tuple[str, Tensor]]:
    """Names and logits of two models: LayerNorm with GELU, and RMSNorm with rotary positions and grouped-query attention."""
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 176, "max_position_embeddings": 32}
    configs = (
        GPT2Config(vocab_size=512, n_positions=32, n_embd=64, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
        LlamaConfig(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, **sizes),
    )
    ids = (_uniform("ids", 2 * 32) * 512).long().view(2, 32)
    for config in configs:
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        drawn = {name: _parameter(name, parameter) for name, parameter in model.named_parameters()}
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            for name, parameter in model.named_parameters():
                # Convert only the parameters: the tables that the model built for itself stay unrounded.
                parameter.data = drawn[name].to(dtype)
            yield f"{config.model_type} {dtype}", model(ids, use_cache=False).logits


def _parameter(name: str, like: Tensor) -> Tensor:
    """A float64 parameter: near 1 for norms, and scaled for matrices so that activations neither vanish nor explode."""
    values = _normal(name, like.numel()).view(like.shape)
    return values * like.shape[-1] ** -0.5 if like.dim() > 1 else 1 + 0.3 * values


def _operators() -> Iterator[tuple[str, Tensor]]:
    """Names and results of the operators that language models use, at even and odd sizes.

    Of 1,128 variants of torch's operators, tried on three processors, few differ in the shared lane: the square root, which
    tlbench replaces, and the tangent and the inverse sine, cosine and tangent, which no language model calls.
    """
    for dtype in (torch.float32, torch.float64):
        x = (3 * _normal("x", 4099)).to(dtype)
        positive = (0.01 + 30 * _uniform("positive", 4099)).to(dtype)
        rows, square = x[:4096].view(64, 64), positive[:4096].view(64, 64) - 15
        left, right = _normal("left", 7 * 33).view(7, 33).to(dtype), _normal("right", 33 * 19).view(33, 19).to(dtype)
        heads = _normal("heads", 8 * 32 * 16).view(8, 32, 16).to(dtype)
        results = {
            "sqrt": positive.sqrt(),
            "sqrt, strided": positive[:4096].view(64, 64).t().sqrt(),
            "rsqrt": positive.rsqrt(),
            "power of a half": positive**0.5,
            "square": x.pow(2),
            "cube": x.pow(3),
            "powers": torch.pow(positive, x / 3),
            "powers of a scalar": torch.pow(10000.0, x / 3),
            "reciprocal": positive.reciprocal(),
            "quotient": x / positive,
            "exp": x.exp(),
            "log": positive.log(),
            "erf": x.erf(),
            "tanh": x.tanh(),
            "sigmoid": x.sigmoid(),
            "sin": x.sin(),
            "cos": (100 * x).cos(),
            "silu": functional.silu(x),
            "gelu": functional.gelu(x),
            "gelu by tanh": functional.gelu(x, approximate="tanh"),
            "softplus": functional.softplus(x),
            "softmax": rows.softmax(-1),
            "softmax, strided": rows.t().softmax(-1),
            "log_softmax": rows.log_softmax(-1),
            "logsumexp": rows.logsumexp(-1),
            "layer_norm": functional.layer_norm(rows, [64], square[0], square[1]),
            "rms_norm": functional.rms_norm(rows, [64], square[0]),
            "sum": x.sum(),
            "sum of rows": rows.sum(-1),
            "mean": rows.mean(-1),
            "mean of columns": rows.mean(0),
            "var": rows.var(-1),
            "std": rows.std(-1),
            "norm": torch.linalg.vector_norm(rows, dim=-1),
            "cumsum": rows.cumsum(-1),
            "topk": rows.topk(5).values,
            "matmul": rows @ square,
            "matmul, odd": left @ right,
            "matmul, transposed": rows @ square.t(),
            "vector by matrix": rows[:1] @ square,
            "addmm": torch.addmm(x[:19], left, right),
            "bmm": heads @ heads.transpose(1, 2),
            "baddbmm": torch.baddbmm(x[:32].expand(8, 32, 32), heads, heads.transpose(1, 2), beta=0.5, alpha=0.25),
            "einsum": torch.einsum("hqd,hkd->hqk", heads, heads),
            "attention": functional.scaled_dot_product_attention(heads[None], heads[None], heads[None], is_causal=True),
        }
        yield from ((f"{name} {dtype}", result) for name, result in results.items())


def _normal(key: str, count: int) -> Tensor:
    return torch.from_numpy(normal(f"probe/{key}", count))


def _uniform(key: str, count: int) -> Tensor:
    return torch.from_numpy(uniform(f"probe/{key}", count))
