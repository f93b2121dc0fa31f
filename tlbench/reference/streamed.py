"""A float64 model of which only the running module's weights are in memory.

HuggingFace's model is loaded as its files are, which maps them and copies nothing. Beside it stands its float64 skeleton:
the same modules and tables without parameters. A module gets its parameters, converted to float64, when it begins to run,
and loses them when it ends. The operations and their numbers are those of the whole model, so the logits have the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tlbench.exceptions import NotGolden
from tlbench.reference.float64 import true_float64

Read = Callable[[], NDArray[np.float64]]


def streamed(source: Any, experts_implementation: str = "eager") -> Any:
    """The float64 skeleton of a HuggingFace model, which reads its parameters from that model while it runs.

    Args:
        source: the model, with weights that are rounded already.
    """
    with true_float64(), _without_parameters():
        config = type(source.config).from_dict({**source.config.to_dict(), "dtype": "float64", "torch_dtype": "float64"})
        config._experts_implementation = experts_implementation
        config._attn_implementation = "eager"
        model = type(source)(config).eval()
    for name, module in model.named_modules():
        original = source.get_submodule(name)
        if {*module._parameters} != {*original._parameters} or {*module._buffers} != {*original._buffers}:
            raise NotGolden(
                f"{type(source).__name__} has other parameters in {name or 'itself'} once it is loaded: not streamed"
            )
        for buffer in module._buffers.keys() - module._non_persistent_buffers_set:
            if (stored := original._buffers[buffer]) is not None and stored.is_floating_point():
                module._buffers[buffer] = torch.from_numpy(reader(stored)())
        readers = {key: reader(value) for key, value in original._parameters.items() if value is not None}
        if readers:
            module.register_forward_pre_hook(partial(_fill, readers), prepend=True)
            module.register_forward_hook(partial(_empty, dict(module._parameters)), always_call=True)
    return model


@contextmanager
def _without_parameters() -> Iterator[None]:
    """Within the block, modules are made with parameters that have a shape and no numbers."""
    register = nn.Module.register_parameter

    def register_empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        empty = None if parameter is None else nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, empty)

    with patch.object(nn.Module, "register_parameter", register_empty):
        yield


def _fill(readers: dict[str, Read], module: nn.Module, _: Any) -> None:
    for name, read in readers.items():
        module._parameters[name] = nn.Parameter(torch.from_numpy(read()), requires_grad=False)


def _empty(placeholders: dict[str, nn.Parameter | None], module: nn.Module, *_: Any) -> None:
    module._parameters.update(placeholders)


def reader(tensor: Tensor) -> Read:
    """A function that returns a tensor's numbers in float64, and computes nothing in torch.

    torch's self-check counts every operation on a shorter type, and this conversion is none that the model makes.
    """
    detached = tensor.detach().contiguous()
    if tensor.dtype is torch.bfloat16:  # the upper half of a float32; numpy has no such type
        bits = detached.view(torch.int16).numpy().view(np.uint16)
        return lambda: (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    values = detached.numpy()
    return lambda: values.astype(np.float64)
