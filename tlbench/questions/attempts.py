"""Independent attempts at one model: a failure leaves its reason and the rest go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from tlbench.catalogue import Task
from tlbench.exceptions import NoGolden, NotApplicable

T = TypeVar("T")
NOT_APPLICABLE = "n/a"
"""The prefix of a reason that means not applicable."""
NO_CACHE = "TransformerLens generates with an encoder-decoder without a key-value cache"
NO_PROMPT = "its decoder starts from a start token and not from a prompt"
MASK = "the attention mask is its encoder's, and nothing is padded there"
LABELS = "its loss needs labels of its own"
STREAM = "its blocks add to two residual streams"
HEAD = "a prediction head, or a scale, stands between its residual stream and its logits"
POST_NORM = "its blocks normalise the residual stream itself, so nothing adds up along it"
NOT_CAUSAL = "a masked encoder attends to later tokens"
NO_GENERATION = "a masked encoder does not generate"
NO_NEXT_TOKEN = "a masked encoder predicts no next token"
MEANINGLESS: Mapping[Task, Mapping[str, str]] = {
    Task.CAUSAL: {},
    Task.ENCODER_DECODER: {
        **{"steps": NO_CACHE, "greedy": NO_PROMPT, "generated": NO_PROMPT, "final": HEAD},
        **dict.fromkeys(("left", "right", "left_padding"), MASK),
        **dict.fromkeys(("loss", "mean", "per_token", "incl_bwd"), LABELS),
        **dict.fromkeys(("sums", "accumulated", "logit_lens", "decomposed", "attributed", "head_attribution"), STREAM),
    },
    Task.MASKED: {
        **{"last_token": NOT_CAUSAL, "given_last_token": NOT_CAUSAL, "final": HEAD},
        **dict.fromkeys(("steps", "greedy", "generated"), NO_GENERATION),
        **dict.fromkeys(("loss", "mean", "per_token", "incl_bwd"), NO_NEXT_TOKEN),
        **dict.fromkeys(("sums", "accumulated", "decomposed"), POST_NORM),
        **dict.fromkeys(("logit_lens", "attributed"), HEAD),
    },
}
"""The attempts that make no sense for a task, with the reason."""


@dataclass
class Attempts:
    """Collects the reasons why figures are missing, by attempt.

    Attributes:
        task: the model's. What makes no sense for it is not attempted.
    """

    task: Task = Task.CAUSAL
    reasons: dict[str, str] = field(default_factory=dict)

    def attempt(self, name: str, find: Callable[[], T]) -> T | None:
        """The result of ``find``, or None after recording why it raised."""
        try:
            if meaningless := MEANINGLESS[self.task].get(name):
                raise NotApplicable(meaningless)
            return find()
        except (NotApplicable, NoGolden, NotImplementedError) as reason:
            self.reasons[name] = f"{NOT_APPLICABLE}: {reason}"
        except Exception as error:
            self.reasons[name] = f"{type(error).__name__}: {error}"
        return None
