"""Ranks of tokens -> a fast engine for vocabularies that hold words which no merge of two tokens makes.

tiktoken takes a whole word from its ranks before it merges anything, so such vocabularies (Llama 3's) work there;
gigatoken's own reader of ranks refuses them. It reads the same vocabulary as a tokenizer.json with "ignore_merges",
whose merges are all the ways to put a token together from two others, as transformers converts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from headrace.tokens.bytelevel import char_of_byte

MERGES = "merges"
"""In place of gigatoken's name of a pattern: build it this way."""


def merges_of_ranks(rank_of: Mapping[str, int]) -> list[tuple[str, str]]:
    """All pairs of tokens that make another one, in the order of the one they make.

    >>> merges_of_ranks({"a": 0, "b": 1, "ab": 2, "aba": 3})
    [('a', 'b'), ('ab', 'a')]
    """
    merges: list[tuple[str, str]] = []
    for token in sorted(rank_of, key=rank_of.__getitem__):
        pairs = [
            (rank_of[token[:i]], rank_of[token[i:]], i)
            for i in range(1, len(token))
            if token[:i] in rank_of and token[i:] in rank_of
        ]
        merges += [(token[:i], token[i:]) for _, _, i in sorted(pairs)]
    return merges


def build_with_merges(ranks: Mapping[bytes, int], pattern: str) -> Any:
    """A backend for `Gigatoken`.

    Args:
        ranks: of tokens.
        pattern: the regular expression that splits text.
    """
    from gigatoken.gigatoken_rs import load_hf_json

    chars = char_of_byte()
    vocab = {token.decode("latin-1").translate(chars): rank for token, rank in ranks.items()}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    definition = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "ignore_merges": True,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": merges_of_ranks(vocab),
        },
    }
    return load_hf_json(orjson.dumps(definition))
