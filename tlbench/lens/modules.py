"""TransformerLens's modules that the fork server imports before it forks. Not every version has all of them."""

MODULES = (
    "transformer_lens",
    "transformer_lens.loading_from_pretrained",
    "transformer_lens.model_bridge",
    "transformer_lens.model_bridge.sources.transformers_driver",
    "transformer_lens.utilities.bridge_components",
    "transformer_lens.weight_processing",
)

LIBRARIES = (
    *("accelerate", "beartype", "better_abc", "datasets", "einops", "fancy_einsum", "huggingface_hub", "jaxtyping"),
    *("numpy", "pandas", "rich", "sentencepiece", "tqdm", "typeguard", "typing_extensions", "wandb", "yaml"),
)
"""What versions of TransformerLens import, beside torch and transformers. An environment may lack some."""
