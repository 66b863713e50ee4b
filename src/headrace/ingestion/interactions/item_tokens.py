"""Histories -> documents of item tokens, and a tokenizer.json whose words are the items."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import orjson

from headrace.errors import ConfigError

if TYPE_CHECKING:
    from headrace.ingestion.interactions.histories import Histories
    from headrace.ingestion.interactions.options import Part

_MARK = "\u2581"
"""What SentencePiece, and `tokenizers`' Metaspace, write for the space before a word."""
_SPACED = re.compile(rf"[\s{_MARK}]")


def item_tokenizer(item_keys: Sequence[str]) -> bytes:
    """A tokenizer.json: item number i is token i, then the end of document and the token of unknown items.

    A text is names of items with a space between them. transformers reads it as well.

    Raises:
        ConfigError: an item's name has a space.
    """
    spaced = next((key for key in item_keys if _SPACED.search(key)), None)
    if spaced is not None:
        raise ConfigError(
            f"item {spaced!r}: names of items with a space cannot be tokens (rows 'tokens'). Give a column of ids"
        )
    eos = len(item_keys)
    space = {"type": "Metaspace", "replacement": _MARK, "prepend_scheme": "always", "split": True}
    end = {"id": eos, "content": "<|endoftext|>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    vocab = {f"{_MARK}{key}": number for number, key in enumerate(item_keys)}
    definition = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [end | flags],
        "normalizer": None,
        "pre_tokenizer": space,
        "post_processor": None,
        "decoder": space,
        "model": {"type": "WordLevel", "vocab": {**vocab, "<unk>": eos + 1}, "unk_token": "<unk>"},
    }
    return orjson.dumps(definition)


def item_documents(histories: Histories, part: Part) -> Iterator[tuple[str, str]]:
    """The name of each user and the names of its items of a part, in the order of time; users without any are left out.

    The text of a document ends with the last item: the end of document is added where it is tokenized.
    """
    begins, ends = histories.begin(part), histories.end(part)
    keys = np.array(histories.item_keys, dtype=object)
    for user in np.flatnonzero(ends > begins).tolist():
        items = histories.items[begins[user] : ends[user]]
        yield histories.user_keys[user], " ".join(keys[items].tolist())
