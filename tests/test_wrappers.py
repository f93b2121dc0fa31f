"""A wrapper that is not there and one that does not import never look alike, and neither do no-op and unwatched."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import ROOT
from tlbench import catalogue
from tlbench.catalogue import Source
from tlbench.checkpoints import ensure
from tlbench.checkpoints.inputs import Inputs
from tlbench.environments import lens_environment
from tlbench.exceptions import CellFailed, NotApplicable
from tlbench.grid import Option
from tlbench.lens.bridge import load_bridge
from tlbench.lens.hooked import load_hooked_transformer, other_constants
from tlbench.lens.interface import class_of
from tlbench.reference import huggingface


@pytest.mark.parametrize(
    ("constants", "own", "sentence"),
    [
        ({"eps": 1e-5, "rotary_base": 10000}, {"rms_norm_eps": 1e-5, "rope_theta": 10000.0}, ""),
        ({"eps": 1e-5}, {"rms_norm_eps": 1e-6}, "takes eps 1e-05 from official, where this checkpoint has 1e-06"),
        ({"eps": 1e-5}, {"layer_norm_epsilon": 1e-12}, "takes eps 1e-05 from official, where this checkpoint has 1e-12"),
        (
            {"eps": 1e-5, "rotary_base": 10000},
            {"rms_norm_eps": 1e-6, "rope_parameters": {"rope_theta": 5e5}},
            "takes eps 1e-05 from official, where this checkpoint has 1e-06, and "
            "rotary_base 10000 from official, where this checkpoint has 500000",
        ),
        ({}, {"rms_norm_eps": 1e-6, "rope_theta": 1e6}, ""),
        ({"eps": 1e-5, "rotary_base": 10000}, {}, ""),
    ],
)
def test_constants_that_are_not_the_checkpoint_s_are_told(constants, own, sentence):
    found = other_constants(SimpleNamespace(**constants), SimpleNamespace(**own), "official")
    assert found == (f"HookedTransformer {sentence}" if sentence else "")


@pytest.fixture
def transformer_lens(tmp_path, monkeypatch):
    """Write a package of that name."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "transformer_lens"]:
        monkeypatch.delitem(sys.modules, name)

    def write(**modules):
        folder = tmp_path / "transformer_lens"
        folder.mkdir()
        for name, text in modules.items():
            (folder / f"{name}.py").write_text(text)

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == "transformer_lens"]:
        del sys.modules[name]


def test_a_class_that_is_there_is_found(transformer_lens):
    transformer_lens(__init__="", bridge="class Bridge: pass")
    assert class_of("transformer_lens.bridge", "Bridge", "it came").__name__ == "Bridge"


REMOVED = """
def __getattr__(name):
    raise ImportError("it was removed", name=name)
"""
"""What TransformerLens 4 does where HookedTransformer was."""


@pytest.mark.parametrize("modules", [{"__init__": ""}, {"__init__": "", "bridge": ""}, {"__init__": "", "bridge": REMOVED}])
def test_one_that_is_not_there_is_not_applicable(transformer_lens, modules):
    transformer_lens(**modules)
    with pytest.raises(NotApplicable, match=r"has no Bridge \(it came with 3.0\)"):
        class_of("transformer_lens.bridge", "Bridge", "it came with 3.0")


@pytest.mark.parametrize("line", ["import no_such_package", "from json import no_such_name", "raise ImportError('broken')"])
@pytest.mark.parametrize("module", ["{line}\nclass Bridge: pass", "def __getattr__(name):\n    {line}"])
def test_one_that_needs_what_is_not_there_has_failed(transformer_lens, line, module):
    transformer_lens(__init__="", bridge=module.format(line=line))
    with pytest.raises(CellFailed, match="importing Bridge failed"):
        class_of("transformer_lens.bridge", "Bridge", "it came with 3.0")


# What tlbench watches inside TransformerLens -------------------------------------------------------------------------

OPTIONS = [option for option in Option if option is not Option.UNPROCESSED]
WEIGHT_PROCESSING = """
class ProcessWeights:
    @staticmethod
    def process_weights(state, fold_ln, center_writing_weights, center_unembed, fold_value_biases):
        return {name: (2 if fold_ln else 1) * value for name, value in state.items()}
"""
BRIDGE = """
import torch

class TransformerBridge(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.original_model = torch.nn.Linear(2, 2)
        self.seen = []

    @classmethod
    def boot_transformers(cls, name, device, dtype):
        return cls()

    def enable_compatibility_mode(self, disable_warnings, **flags):
        from transformer_lens.weight_processing import ProcessWeights

        ProcessWeights.process_weights(self.state_dict(), **flags)

    def forward(self, tokens, return_type, use_cache=False, past_key_values=None):
        self.seen.append(past_key_values)
        if use_cache and self._capture_hf_cache:
            self._last_hf_cache = len(self.seen)
        return tokens[..., None].float()
"""
CALL = "ProcessWeights.process_weights(self.state_dict(), **flags)"
LEAVES = "self._last_hf_cache = len(self.seen)"
IDS = torch.tensor([[1, 2, 3, 4]])


@pytest.fixture
def bridge(transformer_lens, tmp_path):
    """Load a made-up TransformerBridge, from these modules."""
    checkpoint = SimpleNamespace(
        model=SimpleNamespace(source=Source.LOCAL, name="made up"), folder=tmp_path, inputs=Inputs()
    )

    def load(option, model_bridge=BRIDGE, weight_processing=WEIGHT_PROCESSING, readback=True):
        transformer_lens(__init__="", model_bridge=model_bridge, weight_processing=weight_processing)
        return load_bridge(checkpoint, "float32", option, readback)

    return load


@pytest.mark.parametrize("option", Option)
def test_what_process_weights_changes_is_counted_and_an_option_that_changes_nothing_is_a_no_op(bridge, option):
    assert bridge(option).changed_weights == (2 if option in (Option.FOLD_LN, Option.ALL_OPTIONS) else 0)


def test_what_an_adapter_folds_before_process_weights_is_counted_too(bridge):
    """As Phi-3's does with its norms, TransformerLens 3.0 on: by what that function is given, the option is a no-op."""
    folded = CALL.replace("self.state_dict()", "{name: 3 * value for name, value in self.state_dict().items()}")
    assert bridge(Option.CENTER_UNEMBED, BRIDGE.replace(CALL, folded)).changed_weights == 2


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(
    ("modules", "found"),
    [
        ({"model_bridge": BRIDGE.replace(CALL, "pass")}, "it never called ProcessWeights.process_weights"),
        ({"weight_processing": ""}, "importing ProcessWeights failed"),
        ({"weight_processing": "class ProcessWeights: pass"}, "ProcessWeights has no process_weights"),
        ({"weight_processing": WEIGHT_PROCESSING.replace("{name:", "{'new.' + name:")}, "renames every weight"),
    ],
)
def test_where_a_bridge_processes_weights_otherwise_every_option_fails_and_none_is_a_no_op(bridge, option, modules, found):
    with pytest.raises(CellFailed) as failed:
        bridge(option, **modules)
    assert str(failed.value).startswith("TransformerLens changed how it processes weights: ")
    assert found in str(failed.value)
    assert str(failed.value).endswith("; see tlbench/lens/bridge.py")


def test_of_an_unprocessed_model_no_processing_is_expected(bridge):
    assert bridge(Option.UNPROCESSED, BRIDGE.replace(CALL, "pass")).changed_weights == 0


def test_where_loading_is_timed_nothing_is_watched(bridge):
    assert bridge(Option.FOLD_LN, BRIDGE.replace(CALL, "pass"), readback=False).changed_weights == 0


def test_each_step_is_given_the_cache_of_the_one_before_it(bridge):
    lens = bridge(Option.UNPROCESSED)
    assert [step.item() for step in lens.steps(IDS)] == [1, 2, 3, 4]
    assert lens.model.seen == [None, 1, 2, 3]


STALE = "self._last_hf_cache = 1 if len(self.seen) == 1 else getattr(self, '_last_hf_cache', None)"
"""Left by the first step, and never again."""


@pytest.mark.parametrize("does", ["pass", "self._last_hf_cache = None", STALE])
def test_a_step_without_the_cache_of_the_one_before_it_fails_and_is_no_error_of_the_cache(bridge, does):
    lens = bridge(Option.UNPROCESSED, BRIDGE.replace(LEAVES, does))
    with pytest.raises(CellFailed, match=r"changed how it returns the key-value cache: .*; see tlbench/lens/bridge.py"):
        list(lens.steps(IDS))


EMPTY = "self._last_hf_cache = type('Cache', (), {'get_seq_length': lambda self: 0})()"
"""What TransformerLens 4.3.0 leaves with transformers 5.24: a step runs without context, and raises nothing."""


def test_an_empty_cache_is_said_to_be_one(bridge):
    lens = bridge(Option.UNPROCESSED, BRIDGE.replace(LEAVES, EMPTY))
    with pytest.raises(CellFailed, match=r"key-value cache is empty .* transformers 5\.24"):
        list(lens.steps(IDS))


HOOKED = """
import torch
from transformer_lens import loading_from_pretrained as loading

class HookedTransformer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
        self.cfg = object()

    @classmethod
    def from_pretrained(cls, name, hf_model, tokenizer, device, dtype, fold_ln=True, center_writing_weights=True,
                        center_unembed=True, fold_value_biases=True):
        model = cls()
        loading.convert_hf_model_config(name)
        model.load_and_process_state_dict({"weight": torch.ones(2), "bias": torch.ones(2)}, fold_ln=fold_ln)
        return model

    def load_and_process_state_dict(self, state, fold_ln, fold_value_biases):
        self.load_state_dict({**state, "weight": (2 if fold_ln else 1) * state["weight"]})
"""
LOADING = """
class AutoConfig:
    pass

def get_official_model_name(name):
    return name

def convert_hf_model_config(name):
    return {"d_head": 2, "n_ctx": 8}
"""
STATE = """model.load_and_process_state_dict({"weight": torch.ones(2), "bias": torch.ones(2)}, fold_ln=fold_ln)"""
PROCESSING = "TransformerLens changed how it processes weights: "


@pytest.fixture
def hooked(transformer_lens, tmp_path, monkeypatch):
    """Load a made-up HookedTransformer, from this module."""
    config = SimpleNamespace(num_attention_heads=2, hidden_size=4, num_hidden_layers=1, vocab_size=5, intermediate_size=8)
    monkeypatch.setattr(huggingface, "load_model", lambda folder, dtype: SimpleNamespace(config=config))
    model = SimpleNamespace(source=Source.LOCAL, name="made up", hooked_name="gpt2", replace={})

    def load(option, package=HOOKED):
        transformer_lens(__init__=package, loading_from_pretrained=LOADING)
        return load_hooked_transformer(SimpleNamespace(model=model, folder=tmp_path), "float32", option)

    return load


@pytest.mark.parametrize("option", Option)
def test_what_a_hooked_transformers_loading_changes_is_counted(hooked, option):
    assert hooked(option).changed_weights == (1 if option in (Option.FOLD_LN, Option.ALL_OPTIONS) else 0)


@pytest.mark.parametrize("option", Option)
@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        (STATE, "pass", f"{PROCESSING}it never called load_and_process_state_dict"),
        ('"weight": torch.ones(2), "bias": torch.ones(2)', '"old": torch.ones(2)', f"{PROCESSING}the model renames"),
        ("loading.convert_hf_model_config(name)", "pass", "TransformerLens changed how it finds a configuration: "),
    ],
)
def test_where_a_hooked_transformer_loads_otherwise_every_cell_fails(hooked, option, line, instead, said):
    package = HOOKED.replace("{**state, ", '{"bias": torch.ones(2), ').replace(
        'state["weight"]', "next(iter(state.values()))"
    )
    assert line in package
    with pytest.raises(CellFailed) as failed:
        hooked(option, package.replace(line, instead))
    assert str(failed.value).startswith(said)
    assert str(failed.value).endswith("; see tlbench/lens/hooked.py")


CANARY = """
import json, sys
import torch
from tlbench import Cell, catalogue
from tlbench.checkpoints import locate
from tlbench.lens import load
from tlbench.reference import huggingface

point = locate(catalogue.load().get("zoo-gpt2"), catalogue.load())
lens = load(Cell("zoo-gpt2", "float32", "all_options", sys.argv[1]), point)
ids = huggingface.tokens(point, "natural")[:, :4]
with torch.inference_mode():
    steps, full = torch.stack(list(lens.steps(ids)), 1), lens.logits(ids)
print("result", json.dumps([lens.changed_weights, (steps - full).abs().max().item()]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("release", "wrapper"), [("4.3.0", "TransformerBridge"), ("2.18.0", "HookedTransformer")])
def test_canary_the_real_transformer_lens_still_goes_through_what_is_watched(release, wrapper):
    ensure(catalogue.load().get("zoo-gpt2"), catalogue.load())
    done = subprocess.run(
        [lens_environment(release).python, "-c", CANARY, wrapper],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("result ")]
    changed_weights, cache_error = json.loads(line.removeprefix("result "))
    assert changed_weights > 0
    assert cache_error < 1e-3
