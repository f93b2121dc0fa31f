"""What a model reads is made in one place: the same for HuggingFace, the golden and TransformerLens."""

import json

import pytest
import torch
from torch import nn

from tlbench.catalogue import Task
from tlbench.checkpoints.inputs import SOURCE_TOKENS, Inputs, task_of

IDS = torch.tensor([[3, 4, 5], [7, 4, 9]])
PROMPTS = [list(range(100, 164)), list(range(200, 264))]
SEQ2SEQ = Inputs(Task.ENCODER_DECODER, tuple(PROMPTS[-1][:SOURCE_TOKENS]))


class Recorder(nn.Module):
    def forward(self, *args, **kwargs):
        return args, kwargs


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, Task.CAUSAL),
        ({"architectures": ["BertLMHeadModel"], "is_encoder_decoder": False}, Task.CAUSAL),
        ({"architectures": ["MarianMTModel"], "is_encoder_decoder": True}, Task.ENCODER_DECODER),
        ({"architectures": ["RobertaForMaskedLM"]}, Task.MASKED),
        ({}, Task.CAUSAL),
    ],
)
def test_a_checkpoint_s_configuration_says_its_task(tmp_path, config, task):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert task_of(tmp_path) is task
    assert Inputs.of(tmp_path, PROMPTS) == Inputs(task, tuple(range(200, 240)))


@pytest.mark.parametrize("task", [Task.CAUSAL, Task.MASKED])
def test_other_models_read_the_token_ids_and_nothing_else(task):
    named = Inputs(task, SEQ2SEQ.source).named(IDS)
    assert named.keys() == {"input_ids"}
    assert named["input_ids"] is IDS


def test_an_encoder_reads_the_text_turned_by_the_first_id_of_its_own_sequence():
    named = SEQ2SEQ.named(IDS)
    assert named["decoder_input_ids"] is IDS
    text = list(SEQ2SEQ.source)
    assert named["input_ids"].tolist() == [text[3:] + text[:3], text[7:] + text[:7]]


def test_neither_a_later_token_nor_another_sequence_changes_what_an_encoder_reads():
    whole = SEQ2SEQ.named(IDS)["input_ids"]
    assert torch.equal(SEQ2SEQ.named(IDS[:, :1])["input_ids"], whole)
    assert torch.equal(SEQ2SEQ.named(IDS[1:])["input_ids"], whole[1:])


def test_a_model_called_with_token_ids_reads_both_texts_and_called_by_name_what_it_is_given():
    model = SEQ2SEQ.attached(Recorder())
    args, kwargs = model(IDS, use_cache=False)
    assert not args
    assert {name: value.shape for name, value in kwargs.items() if name != "use_cache"} == {
        "input_ids": (2, SOURCE_TOKENS),
        "decoder_input_ids": (2, 3),
    }
    assert kwargs["use_cache"] is False
    assert model(encoder_outputs=1) == ((), {"encoder_outputs": 1})


def test_a_causal_model_stays_as_it_is():
    assert Inputs().attached(model := Recorder()) is model
    assert model(IDS) == ((IDS,), {})
