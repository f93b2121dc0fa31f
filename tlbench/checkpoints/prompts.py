"""The prompt sets: the same token ids for every commit, stored beside each checkpoint.

``natural`` is public-domain prose: two sequences of 64 tokens. ``origin`` is the four prompts of four tokens from
TransformerLens issue 496. Ids are computed with the checkpoint, so later tokenizer changes cannot affect them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
    """Token ids ``[batch][pos]``. All sequences of a set have the same length, so no figure involves padding."""

    natural: Ids
    origin: Ids


def tokenize(encode: Callable[[str], list[int]]) -> Prompts:
    """Tokenize both sets with ``encode``: text to ids, without special tokens. Raises ``BadInput`` if a text has too few."""
    return Prompts(_cut(NATURAL_TEXTS, encode, NATURAL_LENGTH), _cut(ORIGIN_TEXTS, encode, ORIGIN_LENGTH))


def _cut(texts: tuple[str, ...], encode: Callable[[str], list[int]], length: int) -> Ids:
    rows = []
    for text in texts:
        ids = encode(text)
        if len(ids) < length:
            raise BadInput(
                f"the tokenizer splits {text[:40]!r} into {len(ids)} tokens, but {length} are needed: put a {FILE_NAME} "
                "with the ids to use into the checkpoint's folder"
            )
        rows.append(tuple(ids[:length]))
    return tuple(rows)


def load(path: Path) -> Prompts:
    """Read a prompt file. Raises ``BadInput`` if it is missing, not JSON, or does not hold two rectangular lists of ids."""
    try:
        data = json.loads(path.read_text())
        sets = [tuple(tuple(int(i) for i in row) for row in data[key]) for key in ("natural", "origin")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"cannot read the prompt file {path} ({error}): create it again with `tlbench checkpoints`"
        ) from error
    for rows in sets:
        if not rows or len({len(row) for row in rows}) != 1 or not rows[0]:
            raise BadInput(f"{path}: all sequences of a set must have the same length, at least 1")
    return Prompts(*sets)


def to_json(prompts: Prompts) -> str:
    """The text of a prompt file. The same ids give the same bytes."""
    return json.dumps({"natural": prompts.natural, "origin": prompts.origin}, separators=(",", ":")) + "\n"
