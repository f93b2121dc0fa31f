"""Run in an environment with a TransformerLens: how far each option is from an identity when all is float64.

``python -m tests.e2e.identity WRAPPER VARIANT:MODEL[:OPTION,...]...`` prints one JSON line a model and option (default:
every one): how far its logits are from the golden ones, and from those of the unprocessed model. The variants:
``intercepted``, in which TransformerLens's own requests for float32 are answered with float64 too; ``planted``, the same
with one processed weight scaled by 1 + 1e-9; and ``plain``, in which they are not.
"""

import json
import sys
from contextlib import nullcontext

import torch

from tlbench import Option, Wrapper, catalogue
from tlbench.checkpoints import locate
from tlbench.exceptions import NotApplicable
from tlbench.lens.bridge import load_bridge
from tlbench.lens.hooked import load_hooked_transformer
from tlbench.reference import golden, huggingface
from tlbench.reference.float64 import true_float64
from tlbench.reference.golden import Weights

LOADERS = {Wrapper.HOOKED_TRANSFORMER: load_hooked_transformer, Wrapper.TRANSFORMER_BRIDGE: load_bridge}


def main(wrapper, *cases):
    models = catalogue.load()
    torch.set_num_threads(1)
    for variant, name, *chosen in (case.split(":") for case in cases):
        checkpoint = locate(models.get(name), models)
        exact = golden.golden(checkpoint, Weights.ORIGINAL).logits
        unprocessed = exact
        for option in map(Option, chosen[0].split(",") if chosen else Option):
            with nullcontext() if variant == "plain" else true_float64():
                try:
                    lens = LOADERS[Wrapper(wrapper)](checkpoint, "float64", option)
                except NotApplicable:
                    continue
                if variant == "planted" and option is not Option.UNPROCESSED:
                    with torch.no_grad():
                        largest(lens.model).mul_(1 + 1e-9)
                lens.widen()
                with torch.inference_mode():
                    found = lens.logits(huggingface.tokens(checkpoint, "natural")).double()
            if option is Option.UNPROCESSED:
                unprocessed = found
            line = {
                "variant": variant,
                "model": name,
                "option": option,
                "from_golden": relative(found, exact),
                "from_unprocessed": relative(found, unprocessed),
                "changed_weights": lens.changed_weights,
            }
            print("result", json.dumps(line), flush=True)


def relative(found, other):
    """The largest difference, less the shift common to all logits of a position, which is what center_unembed removes."""
    difference, size = (z - z.mean(-1, keepdim=True) for z in (found - other, other))
    return difference.abs().max().item() / size.abs().max().item()


def largest(model):
    return max((p for p in model.parameters() if p.dtype is torch.float64), key=lambda p: p.numel())


if __name__ == "__main__":
    main(*sys.argv[1:])
