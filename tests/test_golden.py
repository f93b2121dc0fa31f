"""The golden is golden: float64 all the way, equal to independent computations, and refused where it is not."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import softmax

from tests import independent
from tests.test_context import counted
from tlbench import arithmetic, catalogue
from tlbench.catalogue import Source
from tlbench.checkpoints import ensure
from tlbench.checkpoints.prompts import Prompts
from tlbench.exceptions import BadInput, CellFailed, NoGolden, NotGolden
from tlbench.grid import Dtype
from tlbench.reference import blocked, elsewhere, float64, golden, huggingface
from tlbench.reference import tensor_store as store
from tlbench.reference.float64 import assert_true_float64, true_float64
from tlbench.reference.golden import Precision, Weights
from tlbench.reference.lengths import long_ids
from tlbench.reference.streamed import reader

ZOO = [model.name for model in catalogue.load().models if model.source is Source.ZOO]
INDEPENDENT = {"zoo-gpt2": independent.gpt2_logits, "zoo-llama-gqa": independent.llama_logits}


def checkpoint(name):
    models = catalogue.load()
    return ensure(models.get(name), models)


def relative(one, other):
    return (one - other).abs().max().item() / other.abs().max().item()


def to_float16(weight):
    return weight.astype(np.float16)


# Proof ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INDEPENDENT)
@pytest.mark.parametrize("weights", [Weights.ORIGINAL, Weights.FLOAT16])
def test_the_golden_is_what_numpy_computes_from_the_papers_formulas(name, weights):
    found = golden.evaluate(checkpoint(name), weights)
    rounding = {"round_weights": to_float16} if weights is Weights.FLOAT16 else {}
    computed = INDEPENDENT[name](checkpoint(name).folder, checkpoint(name).prompts.natural, **rounding)
    assert relative(found.logits, torch.from_numpy(computed)) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_every_architecture_is_evaluated_in_true_float64(name):
    found = golden.evaluate(checkpoint(name), Weights.BFLOAT16)  # raises NotGolden where it is not
    reference = huggingface.load_model(checkpoint(name).folder, Dtype.FLOAT32)
    with torch.inference_mode():
        float32 = reference(huggingface.tokens(checkpoint(name), "natural")).logits.double()
    exact = golden.evaluate(checkpoint(name), Weights.ORIGINAL)
    assert found.logits.dtype is exact.logits.dtype is torch.float64
    assert 1e-9 < relative(float32, exact.logits) < 1e-5
    assert 1e-4 < relative(found.logits, exact.logits) < 0.5


@pytest.mark.parametrize("name", ["zoo-llama", "zoo-gemma2", "zoo-bloom"])
def test_a_float32_upcast_left_in_is_refused(name, monkeypatch):
    """The planted fault: the upcasts by ``to`` and ``softmax`` are no longer intercepted."""
    monkeypatch.setattr(float64, "REINTERPRETING", (*float64.REINTERPRETING, Tensor.to, softmax))
    with pytest.raises(NotGolden, match="not float64 all the way"):
        golden.evaluate(checkpoint(name), Weights.ORIGINAL)


@pytest.mark.parametrize("name", ["zoo-gpt2", "zoo-llama"])
def test_a_rounding_that_torch_cannot_see_is_refused(name):
    """The planted fault: one block's output goes through float32 in numpy."""
    model = golden.load_exact(checkpoint(name).folder, Weights.ORIGINAL)
    ids = huggingface.tokens(checkpoint(name), "natural")
    assert_true_float64(model, ids)
    layers = model.transformer.h if name == "zoo-gpt2" else model.model.layers

    def through_numpy(module, inputs, output):
        return torch.from_numpy(output.numpy().astype(np.float32).astype(np.float64))

    layers[1].mlp.register_forward_hook(through_numpy)
    with pytest.raises(NotGolden, match="third difference"):
        assert_true_float64(model, ids)


def test_a_double_model_alone_is_not_float64():
    """Why any of this is needed: the error of ``model.double()`` is of float32's size."""
    point = checkpoint("zoo-llama")
    ids = huggingface.tokens(point, "natural")
    doubled = huggingface.load_model(point.folder, Dtype.FLOAT32).double()
    with torch.inference_mode():
        found = doubled(ids).logits
    assert relative(found, golden.evaluate(point, Weights.ORIGINAL).logits) > 1e-8
    with pytest.raises(NotGolden, match="inv_freq was rounded to float32"):
        assert_true_float64(doubled, ids)


def test_outside_the_block_torch_makes_float32_again():
    with true_float64():
        assert torch.zeros(1).dtype is torch.float64
        assert torch.zeros(1).float().dtype is torch.float64
    assert torch.zeros(1).dtype is torch.float32
    assert torch.zeros(1).double().float().dtype is torch.float32


def test_rotary_rounding_is_reported_where_there_are_rotary_tables_and_nowhere_else():
    llama, gpt2 = (golden.evaluate(checkpoint(name), Weights.ORIGINAL).rotary for name in ("zoo-llama", "zoo-gpt2"))
    assert llama[0] == 0  # the first position attends to itself alone, so no angle matters there
    assert 0 < llama[-1] < 1e-4
    assert not gpt2.any()


@pytest.mark.parametrize("name", ["zoo-gpt2", "zoo-llama", "zoo-mistral", "zoo-gemma2", "zoo-mixtral", "zoo-bloom"])
def test_the_committed_prompts_are_one_block_of_attention_and_their_logits_the_same_bits(name):
    point = checkpoint(name)
    model, ids = golden.load_exact(point.folder, Weights.FLOAT16), huggingface.tokens(point, "natural")
    with torch.inference_mode(), true_float64():
        whole = model(ids, use_cache=False).logits
    with counted(model) as queries:
        found = golden.run(model, ids, Precision.FLOAT64)
    assert torch.equal(found, whole)
    assert set(queries) <= {ids.shape[1]}


def test_a_long_prompt_is_run_in_blocks_and_proved_on_its_beginning(monkeypatch):
    point = checkpoint("zoo-llama")
    ids = long_ids(point, golden.CHECKED_TOKENS + 10)
    point = replace(point, prompts=Prompts(tuple(map(tuple, ids.tolist())), point.prompts.origin))
    proved, queries, attention = [], [], blocked._in_blocks

    def in_blocks(whole, at_once):
        queries.append(at_once)
        return attention(whole, at_once)

    monkeypatch.setattr(blocked, "_in_blocks", in_blocks)
    monkeypatch.setattr(golden, "assert_true_float64", lambda model, ids: proved.append(tuple(ids.shape)))
    found = golden.evaluate(point, Weights.ORIGINAL)
    assert proved == [(1, golden.CHECKED_TOKENS)]
    assert queries == [blocked.QUERIES] * 2  # once more with rounded rotary tables
    assert found.logits.shape[1] == found.rotary.shape[0] == golden.CHECKED_TOKENS + 10
    computed = independent.llama_logits(point.folder, ids.tolist())
    assert relative(found.logits, torch.from_numpy(computed)) < 1e-12


# Keeping -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(own_cache, monkeypatch):
    """A checkpoint in a cache of this test's own, whose goldens are computed in this process."""
    point = checkpoint("zoo-gpt2")
    calls = []

    def compute_elsewhere(python, function, precision, name, doing):
        calls.append((name, precision))
        golden.compute(point, Precision(precision))

    monkeypatch.setattr(elsewhere, "compute_elsewhere", compute_elsewhere)
    return point, calls


def test_a_golden_is_computed_once_and_read_back_bit_for_bit(kept):
    point, calls = kept
    first = golden.golden(point, Weights.FLOAT16)
    again = golden.golden(point, Weights.FLOAT16)
    golden.golden(point, Weights.ORIGINAL)
    assert calls == [("zoo-gpt2", "float64")]
    assert torch.equal(first.logits, again.logits)
    assert torch.equal(first.logits, golden.evaluate(point, Weights.FLOAT16).logits)


def test_a_rounding_that_changes_no_weight_has_the_original_s_golden_and_its_file(kept, monkeypatch):
    point, _ = kept
    evaluated, evaluate = [], golden.evaluate

    def noted(wanted, weights, *args, **kwargs):
        evaluated.append((weights, kwargs["check"]))
        return evaluate(wanted, weights, *args, **kwargs)

    monkeypatch.setattr(golden, "evaluate", noted)
    found = {weights: golden.golden(point, weights) for weights in Weights}
    # The zoo's files are float32.
    assert evaluated == [(Weights.FLOAT32, True), (Weights.FLOAT16, False), (Weights.BFLOAT16, False)]
    assert os.path.samefile(*(golden.store_path(point, weights) for weights in (Weights.FLOAT32, Weights.ORIGINAL)))
    assert found[Weights.FLOAT32].is_same_file(found[Weights.ORIGINAL])
    assert not found[Weights.FLOAT16].is_same_file(found[Weights.ORIGINAL])
    assert torch.equal(evaluate(point, Weights.ORIGINAL).logits, found[Weights.FLOAT32].logits)
    note = json.loads(golden.store_path(point, Weights.ORIGINAL).with_suffix(".json").read_text())
    assert note["weights"] == "original"


@pytest.mark.parametrize(
    ("stored", "unchanged"),
    [(torch.float32, {"float32"}), (torch.float16, {"float32", "float16"}), (torch.bfloat16, {"float32", "bfloat16"})],
)
def test_a_dtype_that_holds_the_file_s_numbers_changes_no_weight(tmp_path, stored, unchanged):
    weights = load_file(checkpoint("zoo-gpt2").folder / "model.safetensors")
    rounded = {name: weight.to(stored) for name, weight in weights.items()}
    save_file(rounded, tmp_path / "model.safetensors")
    assert {dtype for dtype in Dtype if golden.changes_no_weight(tmp_path, dtype)} == unchanged
    for dtype in unchanged:
        assert all(torch.equal(weight, weight.to(getattr(torch, dtype)).to(stored)) for weight in rounded.values())


def test_one_tensor_of_more_bits_is_enough_to_be_changed(tmp_path):
    save_file({"a": torch.ones(2).bfloat16(), "b": torch.ones(2)}, tmp_path / "model.safetensors")
    assert golden.changes_no_weight(tmp_path, Dtype.FLOAT32)
    assert not golden.changes_no_weight(tmp_path, Dtype.BFLOAT16)


def test_only_the_wanted_goldens_are_computed(kept):
    point, _ = kept
    golden.compute(point, wanted=(Weights.FLOAT32, Weights.ORIGINAL))
    stored = {weights for weights in Weights if golden.store_path(point, weights).exists()}
    assert stored == {Weights.FLOAT32, Weights.ORIGINAL}


def test_a_corrupted_golden_is_computed_again_and_told(kept, capsys):
    point, calls = kept
    first = golden.golden(point, Weights.FLOAT32)
    path = golden.store_path(point, Weights.FLOAT32)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert torch.equal(golden.golden(point, Weights.FLOAT32).logits, first.logits)
    assert len(calls) == 2
    assert "damaged" in capsys.readouterr().err


def test_the_provenance_says_what_made_it(kept):
    point, _ = kept
    golden.golden(point, Weights.FLOAT32)
    note = json.loads(golden.store_path(point, Weights.FLOAT32).with_suffix(".json").read_text())
    assert note["checkpoint"] == point.sha256
    assert note["torch"] == torch.__version__
    assert note["precision"] == "float64"
    assert (note["lane"], note["probe"]) == ("shared", arithmetic.SHARED_PROBES[torch.__version__.split("+")[0]])
    assert len(note["sha256"]) == 64


@pytest.mark.parametrize("name", ["zoo-gpt2", "zoo-mixtral"])
@pytest.mark.parametrize("weights", [Weights.BFLOAT16, Weights.ORIGINAL])
def test_a_golden_computed_layer_by_layer_has_the_same_bits(name, weights, monkeypatch):
    whole = golden.evaluate(checkpoint(name), weights, check=False)
    monkeypatch.setenv(golden.MEMORY_VARIABLE, str(9 * checkpoint(name).parameters))
    streamed = golden.evaluate(checkpoint(name), weights)  # with the self-check
    assert torch.equal(streamed.logits, whole.logits)
    assert torch.equal(streamed.rotary, whole.rotary)
    assert torch.equal(streamed.margins, whole.margins)


def test_layer_by_layer_only_the_running_module_has_weights(monkeypatch):
    model = golden.load_exact(checkpoint("zoo-llama").folder, Weights.ORIGINAL, stream=True)
    held = []

    def count(module, *_):
        held.append(sum(not parameter.is_meta for parameter in model.parameters()))

    for module in model.modules():
        if module._parameters:
            module.register_forward_hook(count, prepend=True)
    golden.run(model, huggingface.tokens(checkpoint("zoo-llama"), "natural"), Precision.FLOAT64)
    assert held
    assert set(held) == {1}
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_are_converted_exactly_without_torch(dtype):
    tensor = (torch.randn(7, 5) * 1e3).to(dtype)
    tensor[0, :3] = torch.tensor([0.0, -0.0, torch.finfo(dtype).tiny / 2])
    assert torch.equal(torch.from_numpy(reader(tensor)()), tensor.double())


def test_memory_for_a_few_layers_is_enough_for_a_large_model(monkeypatch):
    point = checkpoint("zoo-gpt2")
    large = type("Large", (), {"model": point.model, "folder": point.folder, "parameters": 7 * 10**9})
    monkeypatch.setenv(golden.MEMORY_VARIABLE, str(24 * 2**30))
    golden.require_memory(large, Precision.FLOAT64)
    monkeypatch.setenv(golden.MEMORY_VARIABLE, str(14 * 2**30))  # a copy in 16 bits takes 13 GiB, and the spare is 2
    with pytest.raises(NoGolden, match="too large for a float64 golden"):
        golden.require_memory(large, Precision.FLOAT64)


def with_memory(monkeypatch, bytes_per_parameter, point):
    monkeypatch.setenv(golden.MEMORY_VARIABLE, str(bytes_per_parameter * point.parameters))


def test_a_model_too_large_for_float64_gets_a_float32_golden_in_16_bits_that_is_marked(kept, monkeypatch):
    point, _ = kept
    with_memory(monkeypatch, 7, point)
    found = golden.golden(point, Weights.FLOAT16)
    assert found.precision is Precision.FLOAT32
    assert relative(found.logits, golden.evaluate(point, Weights.FLOAT16).logits) < 1e-5
    with pytest.raises(NoGolden, match="too large for a float64 golden"):
        golden.golden(point, Weights.FLOAT32)
    with pytest.raises(NoGolden, match="float64"):
        golden.golden(point, Weights.FLOAT16, makeshift=False)


def test_what_was_computed_or_refused_when_memory_was_short_is_not_used_once_there_is_enough(kept, monkeypatch):
    point, calls = kept
    with_memory(monkeypatch, 7, point)
    assert golden.golden(point, Weights.FLOAT16).precision is Precision.FLOAT32
    with_memory(monkeypatch, 1, point)
    with pytest.raises(NoGolden):
        golden.golden(point, Weights.ORIGINAL, makeshift=False)
    with_memory(monkeypatch, 10, point)
    assert golden.golden(point, Weights.FLOAT16).precision is Precision.FLOAT64
    assert golden.golden(point, Weights.FLOAT32).precision is Precision.FLOAT64
    with_memory(monkeypatch, 1, point)
    assert golden.golden(point, Weights.FLOAT16).precision is Precision.FLOAT64  # what is there needs no memory
    assert calls == [("zoo-gpt2", "float32"), ("zoo-gpt2", "float64")]


def test_a_model_too_large_even_for_that_is_refused_with_the_sizes(kept, monkeypatch):
    point, calls = kept
    with_memory(monkeypatch, 1, point)
    for weights in Weights:
        with pytest.raises(NoGolden, match="GiB are free; use a machine with more memory"):
            golden.golden(point, weights)
    assert calls == []


@pytest.mark.parametrize("value", ["much", "-1", "1e9"])
def test_a_limit_of_memory_that_is_no_number_is_bad_input(kept, monkeypatch, value):
    monkeypatch.setenv(golden.MEMORY_VARIABLE, value)
    with pytest.raises(BadInput, match="expected a number of bytes"):
        golden.golden(kept[0], Weights.FLOAT16)


def test_an_architecture_that_is_not_float64_has_no_golden_in_float32_and_a_marked_one_in_16_bits(kept, monkeypatch):
    point, calls = kept

    def refused(model, ids):
        raise NotGolden("not float64 all the way")

    monkeypatch.setattr(golden, "assert_true_float64", refused)
    for _ in range(2):
        with pytest.raises(NoGolden, match="not float64 all the way"):
            golden.golden(point, Weights.FLOAT32)
        for weights in (Weights.FLOAT16, Weights.BFLOAT16, Weights.ORIGINAL):
            assert golden.golden(point, weights).precision is Precision.FLOAT32
    assert calls == [("zoo-gpt2", "float64"), ("zoo-gpt2", "float32")]  # each is tried once


def test_a_golden_is_never_made_beside_the_code_under_test(kept, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformer_lens", object())
    with pytest.raises(CellFailed, match="TransformerLens imported"):
        golden.compute(kept[0])


@pytest.mark.slow
def test_a_class_that_this_transformers_lacks_is_told(own_cache, write_catalogue, tmp_path):
    source = checkpoint("zoo-gpt2").folder
    folder = tmp_path / "strange"
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "strange"}))
    models = write_catalogue(f'[[model]]\nname = "strange"\nsource = "local"\npath = "{folder}"\n')
    with pytest.raises((CellFailed, BadInput), match="strange"):
        golden.golden(ensure(models.get("strange"), models), Weights.FLOAT32)


def test_the_store_refuses_what_it_did_not_write(tmp_path):
    path = tmp_path / "x.safetensors"
    assert store.read(path) is None
    store.write(path, {"a": torch.ones(3)}, {"by": "test"})
    assert torch.equal(store.read(path).tensors["a"], torch.ones(3))
    path.with_suffix(".json").write_text("{")
    assert store.read(path) is None


def test_what_is_read_is_mapped_and_not_loaded(tmp_path):
    path = tmp_path / "x.safetensors"
    store.write(path, {"a": torch.ones(1000)}, {})
    found = store.read(path)
    mapped = Path("/proc/self/maps").read_text()
    assert str(path) in mapped
    start, end = next(line.split()[0].split("-") for line in mapped.splitlines() if str(path) in line)
    assert int(start, 16) <= found.tensors["a"].data_ptr() < int(end, 16)


def test_a_second_name_shares_the_file_where_the_disk_can_and_is_a_copy_where_it_cannot(tmp_path, monkeypatch):
    first, second, third = (tmp_path / f"{name}.safetensors" for name in ("first", "second", "third"))
    store.write(first, {"a": torch.ones(3)}, {"by": "first"})
    store.write_again(second, first, {"by": "second"})

    def refused(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refused)
    store.write_again(third, first, {"by": "third"})
    assert os.path.samefile(first, second)
    assert not os.path.samefile(first, third)
    for path in (first, second, third):
        assert store.read(path).tensors["a"].tolist() == [1, 1, 1]
        assert store.read(path).provenance["by"] == path.stem
    # Writing one again leaves the other as it is.
    store.write(first, {"a": torch.zeros(3)}, {})
    assert store.read(second).tensors["a"].tolist() == [1, 1, 1]


def test_a_model_that_is_no_causal_language_model_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}))
    with pytest.raises(CellFailed, match=r"transformers .* has no causal language model for model type 't5'"):
        huggingface.load_model(tmp_path, Dtype.FLOAT32)
    with pytest.raises(CellFailed, match="has no causal language model"):
        golden.load_exact(tmp_path, Weights.ORIGINAL)


def test_a_kept_file_is_made_once_and_a_damaged_one_again_which_is_told(tmp_path, capsys):
    path, made = tmp_path / "kept.safetensors", []

    def make():
        made.append(path)
        store.write(path, {"x": torch.ones(2)}, {})

    for _ in range(2):
        assert store.read_or_make(path, "test.lock", make).tensors["x"].tolist() == [1, 1]
    assert len(made) == 1
    assert capsys.readouterr().err == ""
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert store.read_or_make(path, "test.lock", make).tensors["x"].tolist() == [1, 1]
    assert len(made) == 2
    assert "is damaged: computing it again" in capsys.readouterr().err
    assert store.read_or_make(tmp_path / "never.safetensors", "test.lock", lambda: None) is None
