"""The zoo's tokenizer, with one token per byte. It is written by hand so that every transformers reads it alike."""

from __future__ import annotations

import json
from itertools import count

SPECIALS = ("<bos>", "<eos>", "<pad>")
N_BYTES = 256


def encode(text: str) -> list[int]:
    """The UTF-8 bytes of ``text``."""
    return list(text.encode())


def files() -> dict[str, str]:
    """The text of ``tokenizer.json`` and ``tokenizer_config.json``, by file name."""
    vocabulary = {token: index for index, token in enumerate([*_byte_level_alphabet(), *SPECIALS])}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": vocabulary[token], "content": token, **flags, "special": True} for token in SPECIALS]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer: dict[str, object] = {
        "version": "1.0",
        **dict.fromkeys(("truncation", "padding")),
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            **dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")),
            **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False),
            "vocab": vocabulary,
            "merges": [],
        },
    }
    return {"tokenizer.json": json.dumps(tokenizer), "tokenizer_config.json": fast_tokenizer_config(*SPECIALS)}


def fast_tokenizer_config(bos: str, eos: str, pad: str) -> str:
    """A ``tokenizer_config.json`` that transformers 4 and 5 read alike. Version 4 cannot load what version 5 saves."""
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{"bos_token": bos, "eos_token": eos, "pad_token": pad},
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000,
    }
    return json.dumps(settings)


def _byte_level_alphabet() -> list[str]:
    """The printable character that GPT-2's byte-level BPE uses for each byte."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = count(N_BYTES)
    return [chr(byte if byte in printable else next(spare)) for byte in range(N_BYTES)]
