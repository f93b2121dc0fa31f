"""What is noise? The figures of docs/adoption.md: ``python -m tools.docs.adoption [MODEL ...]``.

Run it with a Python that has TransformerLens 4, such as that of `tlbench verify`'s environment. For each model it prints the
largest differences of the centred logits, in nats, on the natural-text prompts:

- in float32, bfloat16 and float64: the bridge, unprocessed and with all options, against HuggingFace in the same dtype;
- and HuggingFace in that dtype against the golden: the same function of the same weights in true float64.
"""

import sys

import torch

from tlbench import catalogue
from tlbench.checkpoints import locate
from tlbench.metrics.hf_error import centred, over_common_vocabulary
from tlbench.reference.huggingface import language_model, tokens
from tlbench.testing import golden

MODELS = ("zoo-gpt2", "zoo-llama", "smollm2-135m")
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
N_TOKENS = 64


def largest(a, b):
    """The largest difference of centred logits."""
    a, b = over_common_vocabulary(a, b)
    return (centred(a.double()) - centred(b.double())).abs().max().item()


def bridged(folder, dtype, ids, options):
    """The bridge's logits."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(folder), dtype=dtype)
    if options:
        bridge.enable_compatibility_mode()
    with torch.inference_mode():
        return bridge(ids, return_type="logits")


def main():
    rows, known = [], catalogue.load()
    for model in sys.argv[1:] or MODELS:
        checkpoint = locate(known.get(model), known)
        ids = tokens(checkpoint, "natural")[:2, :N_TOKENS]
        for dtype in DTYPES:
            hf = language_model(checkpoint.folder, dtype=dtype, attn_implementation="eager")
            with torch.inference_mode():
                h = hf(ids, use_cache=False).logits
            exact, _ = golden(hf, ids)
            tl = [largest(bridged(checkpoint.folder, dtype, ids, options), h) for options in (False, True)]
            rows.append((model, str(dtype).removeprefix("torch."), *tl, largest(h, exact)))
    print("| model | dtype | bridge - HF | all options - HF | HF - golden |\n|:--|:--|--:|--:|--:|")
    for model, dtype, *figures in rows:
        print(f"| {model} | {dtype} | {' | '.join(f'{figure:.1e}' for figure in figures)} |")


if __name__ == "__main__":
    main()
