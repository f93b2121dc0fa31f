"""Does it matter that rotary frequencies are rounded to float32? ``.venv/bin/python docs/rotary.py [MODEL] [LENGTH]``.

Prints, by position, the rms over the vocabulary of what that rounding alone changes in the exact function's centred
logits, beside the whole error of HuggingFace in float32. Token ids are the model's natural-text prompts, repeated.
"""

from __future__ import annotations

import sys

import torch
from tabulate import tabulate
from torch import Tensor

from tlbench import Dtype, catalogue
from tlbench.checkpoints import locate
from tlbench.reference import golden, huggingface
from tlbench.reference.golden import Precision, Weights


def by_position(difference: Tensor) -> Tensor:
    """The rms over the vocabulary of a difference of logits ``[1, pos, d_vocab]``, less its mean. ``[pos]``."""
    return torch.stack([(z - z.mean()).square().mean().sqrt() for z in difference[0]])


@torch.inference_mode()
def main(name: str = "smollm2-135m", length: str = "2048") -> None:
    """Compute and print."""
    models = catalogue.load()
    checkpoint = locate(models.get(name), models)
    torch.set_num_threads(checkpoint.model.threads)
    prompts = huggingface.tokens(checkpoint, "natural").flatten()
    ids = prompts.repeat(-(-int(length) // len(prompts)))[None, : int(length)]
    model = golden.load_exact(checkpoint.folder, Weights.ORIGINAL)
    exact = golden.run(model, ids, Precision.FLOAT64)
    if not golden.round_rotary_tables(model):
        raise SystemExit(f"{name} has no rotary tables")
    rotary = by_position(golden.run(model, ids, Precision.FLOAT64).sub_(exact))
    del model
    float32 = huggingface.load_model(checkpoint.folder, Dtype.FLOAT32)(ids, use_cache=False).logits.double()
    whole = by_position(float32.sub_(exact))
    rows = []
    edge = 1
    while edge < int(length):
        at = slice(edge, min(2 * edge, int(length)))
        rows.append(
            [f"{at.start} to {at.stop - 1}", *(f"{error[at].square().mean().sqrt():.2e}" for error in (rotary, whole))]
        )
        edge *= 2
    header = ["positions", "rotary frequencies in float32, nats", "all of HuggingFace in float32, nats"]
    print(tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
