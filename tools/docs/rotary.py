"""What do rotary tables in float32 change? ``.venv/bin/python -m tools.docs.rotary [MODEL] [LENGTH]``.

Prints, by position, the rms over the vocabulary of what is changed in the exact function's centred logits by rounding the
rotary frequencies alone, and by the cosines and sines that HuggingFace makes in float32 (of angles position times frequency,
which are rounded too), beside the whole error of HuggingFace in float32. Token ids are the natural-text prompts, repeated.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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


@contextmanager
def tables_of(model: Any) -> Iterator[list[Tensor]]:
    """Within the block, the cosines and sines that a model's rotary module makes are appended."""
    seen: list[Tensor] = []
    handle = model.model.rotary_emb.register_forward_hook(lambda _, inputs, output: seen.extend(output))
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def replaced(model: Any, tables: list[Tensor]) -> Iterator[None]:
    """Within the block, a float64 model rotates by these tables."""
    handle = model.model.rotary_emb.register_forward_hook(lambda *_: tuple(table.double() for table in tables))
    try:
        yield
    finally:
        handle.remove()


@torch.inference_mode()
def main(name: str = "smollm2-135m", length: str = "2048") -> None:
    """Compute and print."""
    models = catalogue.load()
    checkpoint = locate(models.get(name), models)
    torch.set_num_threads(checkpoint.model.threads)
    prompts = huggingface.tokens(checkpoint, "natural").flatten()
    ids = prompts.repeat(-(-int(length) // len(prompts)))[None, : int(length)]
    float32 = huggingface.load_model(checkpoint.folder, Dtype.FLOAT32)
    if not hasattr(getattr(float32, "model", None), "rotary_emb"):
        raise SystemExit(f"{name} has no rotary module that all its blocks share")
    with tables_of(float32) as tables:
        whole = float32(ids, use_cache=False).logits.double()
    del float32
    model = golden.load_exact(checkpoint.folder, Weights.ORIGINAL)
    exact = golden.run(model, ids, Precision.FLOAT64)
    whole = by_position(whole.sub_(exact))
    with replaced(model, tables):
        angles = by_position(golden.run(model, ids, Precision.FLOAT64).sub_(exact))
    golden.round_rotary_tables(model)
    rotary = by_position(golden.run(model, ids, Precision.FLOAT64).sub_(exact))
    rows = []
    edge = 1
    while edge < int(length):
        at = slice(edge, min(2 * edge, int(length)))
        rows.append(
            [
                f"{at.start} to {at.stop - 1}",
                *(f"{error[at].square().mean().sqrt():.2e}" for error in (rotary, angles, whole)),
            ]
        )
        edge *= 2
    header = ["positions", "frequencies in float32, nats", "tables in float32, nats", "all of HuggingFace in float32, nats"]
    print(tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
