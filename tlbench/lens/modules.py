"""TransformerLens's modules that the fork server imports before it forks. Not every version has all of them."""

MODULES = (
    "transformer_lens",
    "transformer_lens.loading_from_pretrained",
    "transformer_lens.model_bridge",
    "transformer_lens.model_bridge.sources.transformers_driver",
    "transformer_lens.utilities.bridge_components",
    "transformer_lens.weight_processing",
)
