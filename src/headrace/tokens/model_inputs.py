"""A tokenizer -> the ids that models expect around a text, and in padding, as transformers' tokenizers give them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from headrace.tokens.huggingface import NAMED_TOKEN_FILES, HFTokenizer

if TYPE_CHECKING:
    from headrace.tokens.protocol import Tokenizer


def ids_around(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that stand before and after one text: those of tokenizer.json's post-processor, else the end of document.

    T5 ends a text with </s>; BART puts it between <s> and </s>.
    """
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    if isinstance(tokenizer, HFTokenizer):
        before, after = tokenizer.ids_around()
    return before, after or (tokenizer.eos_id,)


def pad_id_of(tokenizer: Tokenizer) -> int:
    """The id of the tokenizer's pad token, else of its end of document."""
    special = tokenizer.special_tokens()
    files = tokenizer.files()
    for file in NAMED_TOKEN_FILES:
        named: Any = orjson.loads(files[file]).get("pad_token") if file in files else None
        content = named.get("content") if isinstance(named, dict) else named
        if content in special:
            return special[content]
    return next((special[name] for name in ("<pad>", "[PAD]") if name in special), tokenizer.eos_id)
