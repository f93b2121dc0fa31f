"""The zoo's tokenizer, with one token per byte. It is written by hand so that every transformers reads it alike."""

from __future__ import annotations

import json
from typing import Any

SPECIALS = ("<bos>", "<eos>", "<pad>")
N_BYTES = 256


def encode(text: str) -> list[int]:
    """The UTF-8 bytes of ``text``."""
    return list(text.encode())


def files() -> dict[str, str]:
    """The text of ``tokenizer.json`` and ``tokenizer_config.json``, by file name."""
    vocabulary = {character: byte for byte, character in enumerate(_byte_level_alphabet())}
    for index, token in enumerate(SPECIALS):
        vocabulary[token] = N_BYTES + index
    added = [
        {
            "id": N_BYTES + index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for index, token in enumerate(SPECIALS)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }
    return {"tokenizer.json": json.dumps(tokenizer), "tokenizer_config.json": fast_tokenizer_config(*SPECIALS)}


def fast_tokenizer_config(bos: str, eos: str, pad: str) -> str:
    """A ``tokenizer_config.json`` that transformers 4 and 5 read alike. Version 4 cannot load what version 5 saves."""
    return json.dumps(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": bos,
            "eos_token": eos,
            "pad_token": pad,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1_000_000,
        }
    )


def _byte_level_alphabet() -> list[str]:
    """The printable character that GPT-2's byte-level BPE uses for each byte."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    alphabet, spare = [], N_BYTES
    for byte in range(N_BYTES):
        if byte in printable:
            alphabet.append(chr(byte))
        else:
            alphabet.append(chr(spare))
            spare += 1
    return alphabet
