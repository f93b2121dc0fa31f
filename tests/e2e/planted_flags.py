"""Flags that are ignored: ``planting.py`` adds this to a copy of the release.

A fault is the JSON of values that a model's configuration has instead, whenever it is read. ``zero`` is no value of it, but
a pattern: weights whose names match are zero, as if whoever uses them were not there. The HuggingFace reference, in another
process, reads the true ones.
"""

import contextlib as _contextlib
import json as _json
import re as _re
from unittest import mock as _mock

import torch as _torch
from transformers import PretrainedConfig as _PretrainedConfig
from transformers import PreTrainedModel as _PreTrainedModel


@_contextlib.contextmanager
def _loading(fault):
    values = _json.loads(fault)
    zero = values.pop("zero", "")
    config, model = _PretrainedConfig.__dict__["from_dict"], _PreTrainedModel.__dict__["from_pretrained"]

    def from_dict(cls, *args, **kwargs):
        found = config.__func__(cls, *args, **kwargs)
        one = found[0] if isinstance(found, tuple) else found
        for name, value in values.items():
            if not hasattr(one, name):
                raise AttributeError(f"{type(one).__name__} has no {name}")
            setattr(one, name, value)
        return found

    def from_pretrained(cls, *args, **kwargs):
        found = model.__func__(cls, *args, **kwargs)
        named = [*found.named_parameters(), *found.named_buffers()] if zero else []
        matching = [weight for name, weight in named if _re.search(zero, name)]
        if zero and not matching:
            raise AttributeError(f"{cls.__name__} has no weight {zero}")
        with _torch.no_grad():
            for weight in matching:
                weight.zero_()
        return found

    with (
        _mock.patch.object(_PretrainedConfig, "from_dict", classmethod(from_dict)),
        _mock.patch.object(_PreTrainedModel, "from_pretrained", classmethod(from_pretrained)),
    ):
        yield
