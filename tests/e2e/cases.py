"""Small random checkpoints of architectures and flags that the zoo did not have, on each of which a verdict was once wrong.

They are drawn with one seed by torch, so their numbers are this torch's; what is asked of them is a word and a size.
"""

import json

import torch
import transformers

COMMON = {"vocab_size": 512, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "max_position_embeddings": 256}
SHAPE = {**COMMON, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
LLAMA = {**SHAPE, "intermediate_size": 160}
EXPERTS = {"num_experts_per_tok": 2, "num_key_value_heads": 2, "head_dim": 16}
LINEAR = {f"linear_{name}": size for name, size in (("num_value_heads", 4), ("num_key_heads", 2))}
LINEAR |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}

CONFIGS = {
    "gptoss": ("GptOssConfig", {**LLAMA, **EXPERTS, "intermediate_size": 32, "num_local_experts": 4, "sliding_window": 8}),
    "nemotron": ("NemotronConfig", {**LLAMA, "num_key_value_heads": 2, "partial_rotary_factor": 0.5}),
    "qwen3next": (
        "Qwen3NextConfig",
        {**LLAMA, **EXPERTS, **LINEAR, "num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    ),
    "falcon-alibi": (
        "FalconConfig",
        {**SHAPE, "alibi": True, "new_decoder_architecture": False, "multi_query": True, "parallel_attn": False,
         "bias": True},
    ),
    "falcon-rotary": (
        "FalconConfig",
        {**SHAPE, "alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": False},
    ),
    "gpt2-unscaled": (
        "GPT2Config",
        {"vocab_size": 512, "n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 256, "bos_token_id": 0,
         "eos_token_id": 0, "scale_attn_weights": False},
    ),
    "llama-dropout": ("LlamaConfig", {**LLAMA, "num_key_value_heads": 4, "attention_dropout": 0.1}),
}  # fmt: skip


def make(name, folder):
    """Write the checkpoint of that name, with token ids and without a tokenizer, into a new folder; the folder.

    Norms and biases are 0.2 away from where they begin, embeddings standard normal, other matrices 1.5 times the scale that
    keeps activations of one size.
    """
    kind, values = CONFIGS[name]
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**values)).float().eval()
    generator = torch.Generator().manual_seed(1)
    for key, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            parameter.data += 0.2 * noise
        else:
            is_embedding = any(part in key for part in ("embed", "wte", "emb"))
            parameter.data = noise * (1.0 if is_embedding else 1.5 / parameter.shape[-1] ** 0.5)
    model.save_pretrained(folder / name)
    ids = torch.Generator().manual_seed(5)
    prompts = {key: torch.randint(1, 512, shape, generator=ids).tolist() for key, shape in SHAPES.items()}
    (folder / name / "prompts.json").write_text(json.dumps(prompts))
    return folder / name


SHAPES = {"natural": (2, 64), "origin": (4, 4)}
