"""What is covered is counted, and what is not has its reason."""

from dataclasses import replace

import pytest

from tlbench.catalogue import Model, Source, Task
from tlbench.checkpoints.architectures import Kind, architecture_of, kind_of
from tlbench.grid import Cell
from tlbench.metrics.verdict import Verdict
from tlbench.report import coverage
from tlbench.report.verify import Judgement

SUPPORTED = {"LlamaForCausalLM": 60, "FalconForCausalLM": 20, "T5ForConditionalGeneration": 15, "MysteryForCausalLM": 5}
MODELS = (Model("zoo-llama", Source.ZOO, family="llama"), Model("mine", Source.CONFIG, model_type="falcon"))


def judged(model, verdict):
    cell = Cell(model, "float32", "unprocessed", "TransformerBridge")
    return Judgement(cell, Verdict(verdict), None, None, "")


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("LlamaForCausalLM", Kind.DECODER),
        ("T5ForConditionalGeneration", Kind.ENCODER_DECODER),
        ("BertForMaskedLM", Kind.MASKED),
        ("LlavaForConditionalGeneration", Kind.VISION_LANGUAGE),
        ("ViTForImageClassification", Kind.NO_TEXT),
        ("Qwen2AudioForConditionalGeneration", Kind.NO_TEXT),
        ("BloomModel", Kind.NO_HEAD),
        ("BaichuanForCausalLM", Kind.REMOTE),
    ],
)
def test_each_kind_of_architecture_is_told(architecture, kind):
    assert kind_of(architecture) is kind


def test_an_entry_s_architecture_is_that_of_its_class():
    assert [architecture_of(model) for model in MODELS] == ["LlamaForCausalLM", "FalconForCausalLM"]
    bart = Model("mine", Source.CONFIG, model_type="bart")
    of_task = {task: architecture_of(replace(bart, task=task)) for task in (Task.CAUSAL, Task.ENCODER_DECODER)}
    assert of_task == {Task.CAUSAL: "BartForCausalLM", Task.ENCODER_DECODER: "BartForConditionalGeneration"}
    assert architecture_of(Model("gpt2", Source.HUB, repo="gpt2")) is None


def test_without_measuring_a_model_is_not_called_measured():
    found = coverage.lines(SUPPORTED, MODELS, [])
    assert [line.architecture for line in found] == list(SUPPORTED)
    assert not any(line.is_measured for line in found)
    said = " ".join(coverage.conclusion("4.3.0", found, is_measured=False))
    assert "2 have a model: 80 of the 100 models in its registry (80.0%)" in said
    assert "Of 3 architectures whose models read text alone, 2 have a model: 80 of 95 models (84.2%)." in said
    assert "measured" not in said


def test_the_share_counts_what_was_measured_and_a_failure_is_a_result():
    judgements = [judged("zoo-llama", "failed"), judged("mine", "n/a")]
    found = coverage.lines(SUPPORTED, MODELS, judgements)
    assert [line.is_measured for line in found] == [True, False, False, False]
    said = coverage.conclusion("4.3.0", found, is_measured=True)
    assert "1 measured: 60 of the 100 models in its registry (60.0%)" in said[0]
    assert any(line.startswith("Not covered: 1 of kind decoder (20 models, 20.0%)") for line in said)


def test_what_has_no_model_has_a_reason():
    reasons = {line.architecture: line.reason for line in coverage.lines(SUPPORTED, MODELS, [])}
    assert reasons["LlamaForCausalLM"] == ""
    assert reasons["T5ForConditionalGeneration"] == "encoder-decoder: no model yet"
    assert "remote code" in reasons["MysteryForCausalLM"]
