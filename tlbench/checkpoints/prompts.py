"""The prompt sets: the same token ids for every commit, stored beside each checkpoint.

``natural`` is public-domain prose: two sequences of 64 tokens. ``origin`` is the four prompts of four tokens from
TransformerLens issue 496. Ids are computed with the checkpoint, so later tokenizer changes cannot affect them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tlbench.exceptions import BadInput

NATURAL_LENGTH = 64
ORIGIN_LENGTH = 4
FILE_NAME = "prompts.json"

NATURAL_TEXTS = (
    # Charles Darwin, "On the Origin of Species", 1859, the opening.
    "When on board H.M.S. Beagle, as naturalist, I was much struck with certain facts in the distribution of the "
    "inhabitants of South America, and in the geological relations of the present to the past inhabitants of that "
    "continent. These facts seemed to me to throw some light on the origin of species, that mystery of mysteries, as "
    "it has been called by one of our greatest philosophers.",
    # Herman Melville, "Moby-Dick", 1851, the opening.
    "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse, and "
    "nothing particular to interest me on shore, I thought I would sail about a little and see the watery part of the "
    "world. It is a way I have of driving off the spleen, and regulating the circulation. Whenever I find myself "
    "growing grim about the mouth, I account it high time to get to sea as soon as I can.",
)
ORIGIN_TEXTS = ("Hello, world!", "This is a test.", "What is it about?", "I don't know.")

Ids = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Prompts:
    """Token ids ``[batch][pos]``. All sequences of a set have the same length, so no figure involves padding.

    Attributes:
        drawn: why they are random ids and no text; "" if they are text.
    """

    natural: Ids
    origin: Ids
    drawn: str = ""


def tokenize(encode: Callable[[str], list[int]]) -> Prompts:
    """Tokenize both sets with ``encode``, from text to ids. Raises ``BadInput`` if a text has too few."""
    return Prompts(_cut(NATURAL_TEXTS, encode, NATURAL_LENGTH), _cut(ORIGIN_TEXTS, encode, ORIGIN_LENGTH))


def _cut(texts: tuple[str, ...], encode: Callable[[str], list[int]], length: int) -> Ids:
    rows = []
    for text in texts:
        ids = encode(text)
        if len(ids) < length:
            raise BadInput(f"its tokenizer splits {text[:24]!r}... into {len(ids)} tokens, but {length} are needed")
        rows.append(tuple(ids[:length]))
    return tuple(rows)


def drawn(ids: Sequence[int], reason: str) -> Prompts:
    """Sets of the same size, drawn from ``ids``: the same on every machine."""
    draw = Random("tlbench prompts 1")
    natural, origin = (
        tuple(tuple(draw.choices(ids, k=length)) for _ in texts)
        for texts, length in ((NATURAL_TEXTS, NATURAL_LENGTH), (ORIGIN_TEXTS, ORIGIN_LENGTH))
    )
    return Prompts(natural, origin, reason)


def load(path: Path) -> Prompts:
    """Read a prompt file. Raises ``BadInput`` if it is missing, not JSON, or does not hold two rectangular lists of ids."""
    try:
        data = json.loads(path.read_text())
        natural, origin = (tuple(tuple(int(i) for i in row) for row in data[key]) for key in ("natural", "origin"))
        reason = str(data.get("drawn", ""))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"cannot read the prompt file {path} ({error}): create it again with `tlbench checkpoints`"
        ) from error
    for rows in (natural, origin):
        if not rows or len({len(row) for row in rows}) != 1 or not rows[0]:
            raise BadInput(f"{path}: all sequences of a set must have the same length, at least 1")
    return Prompts(natural, origin, reason)


def to_json(prompts: Prompts) -> str:
    """The text of a prompt file. The same ids give the same bytes."""
    sets = {"natural": prompts.natural, "origin": prompts.origin} | ({"drawn": prompts.drawn} if prompts.drawn else {})
    return json.dumps(sets, separators=(",", ":")) + "\n"
