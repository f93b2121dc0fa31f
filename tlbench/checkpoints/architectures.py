"""Architectures, by the names of transformers' classes: what kind each is, and which one a catalogue entry has."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache

from tlbench.catalogue import Model, Source, Task
from tlbench.checkpoints import zoo


class Kind(StrEnum):
    """What kind of model an architecture is, by the list of transformers' automatic classes that has it."""

    DECODER = "decoder"
    ENCODER_DECODER = "encoder-decoder"
    MASKED = "masked encoder"
    VISION_LANGUAGE = "vision-language"
    NO_TEXT = "vision or audio"
    NO_HEAD = "no language-modelling head"
    REMOTE = "no class in transformers, so it needs remote code"


LISTS = {
    Kind.DECODER: ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",),
    Kind.ENCODER_DECODER: ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",),
    Kind.MASKED: ("MODEL_FOR_MASKED_LM_MAPPING_NAMES",),
    Kind.VISION_LANGUAGE: ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",),
    Kind.NO_TEXT: (
        "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
        "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
        "MODEL_FOR_CTC_MAPPING_NAMES",
        "MODEL_FOR_IMAGE_MAPPING_NAMES",
        "MODEL_FOR_PRETRAINING_MAPPING_NAMES",
    ),
    Kind.NO_HEAD: ("MODEL_MAPPING_NAMES",),
}
"""The lists of each kind. An architecture is of the first kind that has it, because some are in several lists."""
KINDS = {Task.CAUSAL: Kind.DECODER, Task.ENCODER_DECODER: Kind.ENCODER_DECODER, Task.MASKED: Kind.MASKED}
"""The kind of the models that do a task."""

AUDIO = "its encoder reads audio"
NOT_MADE = {
    "Gemma3nForConditionalGeneration": "its vision tower needs the package timm",
    "T5WithLMHeadModel": "the former name of T5ForConditionalGeneration, which zoo-t5 measures",
    **dict.fromkeys(
        (f"{name}ForConditionalGeneration" for name in ("Qwen2Audio", "AudioFlamingo3", "MusicFlamingo", "GlmAsr")), AUDIO
    ),
}
"""Architectures that the catalogue has no model of, with the reason, where their kind does not say it."""


def kind_of(architecture: str) -> Kind:
    """The kind of an architecture, such as ``LlamaForCausalLM``."""
    if NOT_MADE.get(architecture) == AUDIO:  # transformers lists these among the encoder-decoders
        return Kind.NO_TEXT
    return next((kind for kind, names in _names().items() if architecture in names), Kind.REMOTE)


@lru_cache
def _names() -> dict[Kind, frozenset[str]]:
    from transformers.models.auto import modeling_auto

    found = {}
    for kind, lists in LISTS.items():
        classes = [name for each in lists for name in getattr(modeling_auto, each).values()]
        # A few types have several classes.
        found[kind] = frozenset(name for one in classes for name in ([one] if isinstance(one, str) else one))
    return found


def architecture_of(model: Model) -> str | None:
    """The architecture of a zoo model. None if only its files know."""
    if model.source is Source.ZOO:
        return str(zoo.families()[model.family]().config["architectures"][0])
    if model.source is Source.CONFIG:
        from transformers.models.auto import modeling_auto

        found = getattr(modeling_auto, LISTS[KINDS[model.task]][0]).get(model.model_type)
        return str(found) if found else None
    return None
