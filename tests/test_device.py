"""A GPU is touched in no process that forks, and one that is there and fails is a failure."""

import pytest
import torch

from tlbench import device
from tlbench.arithmetic import LANE_VARIABLE, Lane, establish
from tlbench.exceptions import CellFailed, NotApplicable
from tlbench.execution.client import Server
from tlbench.questions import preload

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
