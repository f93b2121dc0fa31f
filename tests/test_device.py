"""A GPU is touched in no process that forks, one that is there and fails is a failure, and token ids go to it."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tests.test_inside import IDS, MadeUp, lens_of
from tlbench import catalogue, checkpoints, device
from tlbench.arithmetic import LANE_VARIABLE, Lane, establish
from tlbench.exceptions import CellFailed, NotApplicable
from tlbench.execution.client import Server
from tlbench.grid import Attention, Dtype
from tlbench.questions import preload
from tlbench.reference import huggingface

touched = []


class StandIn:
    """CUDA as far as forks are concerned: whoever uses it in the server spoils it for every fork."""

    def __init__(self, empty):
        self.empty = empty

    def touch(self, *_, **__):
        touched.append("a fork's CUDA")
        return False

    def make(self, *size, device="cpu", **choices):
        if str(device).startswith("cuda"):
            self.touch()
        return self.empty(*size, device="cpu", **choices)


def preload_on_a_gpu():
    """In a server: put the stand-in in CUDA's place, then preload as a measuring server does."""
    cuda = StandIn(torch.empty)
    torch.cuda.is_available = lambda: True
    torch.cuda.is_current_stream_capturing = cuda.touch
    torch.cuda._lazy_init = cuda.touch
    torch.empty = cuda.make
    preload.preload()
    establish()  # what preloading does last, where TransformerLens is installed


def touched_so_far():
    return touched


def touch_as_a_measurement_does():
    device.require("cuda")
    return touched


@pytest.mark.slow
def test_a_measuring_server_leaves_the_gpu_to_its_forks(tmp_path, monkeypatch):
    monkeypatch.setenv(LANE_VARIABLE, Lane.NATIVE)
    variables = {device.DEVICE_VARIABLE: "cuda"}
    server = Server("test", tmp_path, preload=f"{__name__}:preload_on_a_gpu", variables=variables)
    assert server.call(touched_so_far) == []
    assert server.call(touch_as_a_measurement_does) == ["a fork's CUDA"], "the stand-in notices"


def test_a_device_that_is_there_and_fails_is_a_failure_and_one_that_is_not_there_is_not_applicable(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("CUDA error: out of memory\nsecond line")

    monkeypatch.setattr(torch, "empty", refuse)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(CellFailed, match=r"'cuda' exists but fails: CUDA error: out of memory$"):
        device.require("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NotApplicable, match="cannot use the device 'cuda'"):
        device.require("cuda")


def test_the_name_of_the_device_is_read_without_touching_it(monkeypatch):
    monkeypatch.setenv(device.DEVICE_VARIABLE, "cuda")
    monkeypatch.setenv(LANE_VARIABLE, Lane.NATIVE)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: pytest.fail("touched"))
    assert device.current() == "cuda"


class OnGpu(Tensor):
    """A tensor on a stand-in for a GPU: like there, an operation with a tensor elsewhere raises."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            tensors = [word for word in (*args, *(kwargs or {}).values()) if isinstance(word, Tensor) and word.ndim]
        if not all(isinstance(tensor, OnGpu) for tensor in tensors):
            raise RuntimeError("Expected all tensors to be on the same device, but found cuda:0 and cpu")
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.fixture
def on_gpu(monkeypatch):
    """A lens of the made-up model, whose weights are on the stand-in. It has a cache that attributes to heads."""
    to = Tensor.to
    monkeypatch.setenv(device.DEVICE_VARIABLE, "cuda")
    monkeypatch.setenv(LANE_VARIABLE, Lane.NATIVE)

    def put(self, *where, **named):
        return self.as_subclass(OnGpu) if where == ("cuda",) else to(self, *where, **named)

    monkeypatch.setattr(Tensor, "to", put)

    class Cache(dict):
        def stack_head_results(self, layer, pos_slice):
            return model.unembedding[:4, :2]

        def logit_attrs(self, heads, tokens, incorrect_tokens, pos_slice, has_batch_dim):
            return heads + model.unembedding[0][tokens] - model.unembedding[0][incorrect_tokens]

    model = MadeUp()
    for name in ("embedding", "mixing", "mapping", "unembedding"):
        setattr(model, name, getattr(model, name).as_subclass(OnGpu))
    model.pattern = lambda i, x: torch.eye(x.shape[1]).as_subclass(OnGpu).expand(len(x), 1, -1, -1)
    run, forward = model.run_with_cache, model.forward
    model.run_with_cache = lambda ids, return_type: (run(ids, return_type)[0], Cache())
    model.forward = lambda ids, return_type="logits", attention_mask=None, start_at_layer=0, stop_at_layer=None: forward(
        ids if attention_mask is None else ids * attention_mask, return_type, start_at_layer, stop_at_layer
    )

    def steps(ids):
        yield model(ids)

    def greedy(ids, n):
        return torch.cat([ids, model(ids).argmax(-1)[:, :n]], -1)

    return lens_of(model, steps=steps, greedy=greedy)


@pytest.mark.parametrize(
    "use",
    [
        lambda lens: lens.logits(IDS),
        lambda lens: next(lens.steps(IDS)),
        lambda lens: lens.greedy(IDS, 2),
        lambda lens: lens.run_with_cache(IDS)[0],
        lambda lens: lens.run_with_hooks(IDS, {"blocks.1.hook_mlp_out": lambda value: None}),
        lambda lens: lens.stopped_at(IDS, 2),
        lambda lens: lens.started_at(lens.stopped_at(IDS, 2), 2),
        lambda lens: lens.masked_logits(IDS, torch.ones_like(IDS)),
        lambda lens: lens.head_attribution(IDS, IDS[:, :2]),
    ],
    ids=["logits", "steps", "greedy", "cache", "hooks", "stop", "start", "mask", "heads"],
)
def test_whatever_reads_token_ids_gets_them_on_the_device_of_the_model(on_gpu, use):
    with torch.inference_mode():
        assert isinstance(use(on_gpu), OnGpu)


@pytest.mark.parametrize(
    ("name", "free", "gpus", "place"),
    [
        ("cuda", 100, 2, {"device_map": "auto"}),
        ("cuda", 100, 1, {"device": "cuda"}),
        ("cuda", 200, 2, {"device": "cuda"}),
        ("cuda:1", 100, 2, {"device": "cuda:1"}),
        ("cpu", 0, 0, {"device": "cpu"}),
    ],
)
def test_a_model_is_split_over_gpus_only_if_one_is_too_small_and_none_was_chosen(monkeypatch, name, free, gpus, place):
    monkeypatch.setenv(device.DEVICE_VARIABLE, name)
    monkeypatch.setenv(LANE_VARIABLE, Lane.NATIVE)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 1000))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert device.placement(SimpleNamespace(parameters=50), "float16") == place


@pytest.mark.parametrize("place", [{"device_map": "auto"}, {"device": "cpu"}])
def test_a_split_model_is_loaded_by_its_map_and_moved_nowhere(monkeypatch, place):
    monkeypatch.setattr(device, "placement", lambda *_: place)
    loaded = []

    class Model(torch.nn.Module):
        def to(self, where):
            loaded.append(where)
            return self

    monkeypatch.setattr(huggingface, "language_model", lambda folder, **choices: loaded.append(choices) or Model())
    model = catalogue.load().get("zoo-gpt2")
    checkpoint = checkpoints.ensure(model, catalogue.load())
    huggingface.placed_model(checkpoint, Dtype.FLOAT32, Attention.EAGER)
    asked = {"dtype": torch.float32, "attn_implementation": "eager"}
    assert loaded == ([asked | place] if "device_map" in place else [asked, "cpu"])
