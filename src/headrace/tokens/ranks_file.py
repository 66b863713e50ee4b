"""A file of tokens and ranks (.tiktoken, Llama's tokenizer.model) or Mistral's tekken.json -> a tokenizer.

A file of ranks has no pattern and no special tokens. Known files are recognised by their SHA-256; for others both
must be written beside it, see docs/ingest.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from headrace.errors import TokenizerError
from headrace.tokens.encodings import ENCODING_OF_SHA256, RANKS, EncodingTokenizer, encoding_from_ranks
from headrace.tokens.merges import MERGES
from headrace.tokens.protocol import DESCRIPTION

TEKKEN = "tekken.json"

_RANK_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]+\r?\n")
_O200K_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _llama3_specials() -> list[str]:
    named = [
        *("begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1"),
        *("finetune_right_pad_id", "step_id", "start_header_id", "end_header_id", "eom_id", "eot_id"),
        *("python_tag", "image"),
    ]
    reserved = [f"reserved_special_token_{i + 2}" for i in range(256 - len(named))]
    return [f"<|{name}|>" for name in [*named, *reserved]]


def _llama4_specials() -> list[str]:
    named = [
        *("begin_of_text", "end_of_text", "fim_prefix", "fim_middle", "fim_suffix"),
        *("header_start", "header_end", "eom", "eot", "step"),
        *(f"text_post_train_reserved_special_token_{i}" for i in range(6)),
        *("python_start", "python_end", "finetune_right_pad"),
        *(f"text_post_train_reserved_special_token_{i}" for i in range(8, 69)),
        *("image_start", "image_end", "vision_reserved_special_token_0", "vision_reserved_special_token_1"),
        *("tile_x_separator", "tile_y_separator"),
        *(f"vision_reserved_special_token_{i}" for i in range(2, 6)),
        *("image", "vision_reserved_special_token_6", "patch"),
        *(f"vision_reserved_special_token_{i}" for i in range(7, 1048)),
        *(f"reasoning_reserved_special_token_{i}" for i in range(8)),
        *("reasoning_thinking_start", "reasoning_thinking_end"),
    ]
    reserved = [f"reserved_special_token_{i}" for i in range(2048 - len(named))]
    return [f"<|{name}|>" for name in [*named, *reserved]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Definition:
    """What a published file of ranks does not say."""

    name: str
    pattern: str
    specials: Callable[[], list[str]]
    """Their ids follow the ranks."""
    eos_token: str
    scheme: str
    """See `EncodingTokenizer`."""


_DEFINITION_OF_SHA256 = {
    "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55": _Definition(
        name="llama3",
        pattern=(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        specials=_llama3_specials,
        eos_token="<|end_of_text|>",  # noqa: S106 - no password
        scheme=MERGES,
    ),
    "d0bdbaf59b0762c8c807617e2d8ea51420eb1b1de266df2495be755c8e0ed6ed": _Definition(
        name="llama4",
        pattern=_O200K_PATTERN,
        specials=_llama4_specials,
        eos_token="<|end_of_text|>",  # noqa: S106 - no password
        scheme="o200k",
    ),
}

# Tokenizers of Mistral up to version 7 do not list their special tokens.
_TEKKEN_SPECIALS = (
    *(
        "<unk>",
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_RESULTS]",
    ),
    *(
        "[/TOOL_RESULTS]",
        "[TOOL_CALLS]",
        "[IMG]",
        "<pad>",
        "[IMG_BREAK]",
        "[IMG_END]",
        "[PREFIX]",
        "[MIDDLE]",
    ),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)


def is_ranks_file(data: bytes) -> bool:
    """Does a file begin with a token in base 64 and its rank?"""
    return _RANK_LINE.match(data) is not None


def tokenizer_of_ranks(
    path: Path, data: bytes, *, engine: Literal["auto", "fast", "tiktoken"] = "auto"
) -> EncodingTokenizer:
    """The tokenizer of a published file of ranks.

    Args:
        path: of the file, for messages.
        data: its bytes.
        engine: which library computes the ids.

    Raises:
        TokenizerError: it is none of the known files.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 in ENCODING_OF_SHA256:
        return encoding_from_ranks(ENCODING_OF_SHA256[sha256], data, engine=engine)
    known = _DEFINITION_OF_SHA256.get(sha256)
    if known is None:
        names = ", ".join([*ENCODING_OF_SHA256.values(), *(d.name for d in _DEFINITION_OF_SHA256.values())])
        raise TokenizerError(
            f"{path}: a file of tokens and ranks (sha256 {sha256}) that is none of {names}: the pattern that splits "
            f"text, and the special tokens, are not in it. Damaged? Or use the tokenizer.json of this tokenizer, or a "
            f"directory with the file as {RANKS} and a {DESCRIPTION} that has both, see docs/ingest.md"
        )
    num_ranks = int(data.rsplit(maxsplit=1)[1]) + 1
    specials = {token: num_ranks + i for i, token in enumerate(known.specials())}
    return EncodingTokenizer(
        name=known.name,
        pattern=known.pattern,
        ranks_file=data,
        specials=specials,
        eos_id=specials[known.eos_token],
        scheme=known.scheme,
        engine=engine,
    )


def is_tekken(parsed: Any) -> bool:
    """Is this JSON a tekken.json?"""
    return (
        isinstance(parsed, dict)
        and isinstance(parsed.get("config"), dict)
        and isinstance(parsed.get("vocab"), list)
        and "pattern" in parsed["config"]
    )


def tokenizer_of_tekken(
    name: str, parsed: Mapping[str, Any], *, engine: Literal["auto", "fast", "tiktoken"] = "auto"
) -> EncodingTokenizer:
    """The tokenizer of a tekken.json: special tokens have the first ids, the vocabulary those behind them.

    Args:
        name: of the tokenizer.
        parsed: the file's content.
        engine: which library computes the ids.

    Raises:
        TokenizerError: the file is damaged, or has no end of document.
    """
    try:
        config = parsed["config"]
        num_specials, vocab_size = config["default_num_special_tokens"], config["default_vocab_size"]
        pattern = config["pattern"]
        named = parsed.get("special_tokens")
        specials = (
            {token["token_str"]: token["rank"] for token in named}
            if named is not None
            else {token: i for i, token in enumerate(_TEKKEN_SPECIALS)}
        )
        taken = set(specials.values())
        specials |= {f"<SPECIAL_{i}>": i for i in range(num_specials) if i not in taken}
        lines = []
        for place, token in enumerate(parsed["vocab"][: vocab_size - num_specials]):
            if token["rank"] != place:
                raise TokenizerError(f"{name}: token {place} of its vocabulary has rank {token['rank']}")
            base64.b64decode(token["token_bytes"], validate=True)
            lines.append(f"{token['token_bytes']} {place + num_specials}\n")
        if len(lines) != vocab_size - num_specials or not isinstance(pattern, str):
            raise TokenizerError(
                f"{name}: {len(lines)} tokens, its config says {vocab_size} with {num_specials} special ones"
            )
        eos_id = specials["</s>"]
    except (KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise TokenizerError(f"{name}: not a {TEKKEN}: {error!r}") from error
    return EncodingTokenizer(
        name=name,
        pattern=pattern,
        ranks_file="".join(lines).encode(),
        specials=specials,
        eos_id=eos_id,
        scheme="nemotron",  # NVIDIA's tokenizer has this pattern
        engine=engine,
    )


def parse_tekken(data: bytes) -> Any:
    """The JSON of a file that may be a tekken.json; None where it is no JSON."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
