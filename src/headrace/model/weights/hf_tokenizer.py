"""A tokenizer <-> the files from which transformers' AutoTokenizer makes the same ids."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from headrace.errors import TokenizerError
from headrace.tokens import Tokenizer, char_of_byte, load_tokenizer, tokenizer_from_files

END = "<|endoftext|>"


# GPT-2's own (encoder.py of openai/gpt-2): vocab.json and merges.txt do not contain it.
_GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def load_hf_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face directory, also of one with vocab.json and merges.txt only.

    Raises:
        TokenizerError: there is none, or its files are damaged.
    """
    vocabulary, merges = directory / "vocab.json", directory / "merges.txt"
    if (directory / "tokenizer.json").is_file() or not (vocabulary.is_file() and merges.is_file()):
        return load_tokenizer(directory)
    try:
        ids = orjson.loads(vocabulary.read_bytes())
        lines = merges.read_text(encoding="utf-8").splitlines()
        pairs = [line.split() for line in lines if line and not line.startswith("#version")]
        definition = _definition(ids, pairs, pattern=_GPT2_PATTERN)
        about = {"kind": "huggingface", "name": directory.name, "eos_id": ids[END]}
    except (ValueError, KeyError, TypeError) as error:
        raise TokenizerError(
            f"{directory}: vocab.json and merges.txt are not GPT-2's ({error!r})."
        ) from error
    definition["added_tokens"] = [_special(END, ids[END])]
    return tokenizer_from_files(
        {"headrace-tokenizer.json": orjson.dumps(about), "tokenizer.json": orjson.dumps(definition)}
    )


def hf_tokenizer_files(tokenizer: Tokenizer, *, max_length: int) -> dict[str, bytes]:
    """File name -> content: tokenizer.json, tokenizer_config.json, and the tokenizer's own files.

    A SentencePiece model is written as its own file only: transformers reads those by classes of its own.
    """
    files = dict(tokenizer.files())
    about: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
    }
    if "tokenizer.json" in files:
        definition = orjson.loads(files["tokenizer.json"])
    elif tokenizer.name == "byte":
        definition = _definition({char: byte for byte, char in char_of_byte().items()}, [], pattern=None)
    elif "ranks.tiktoken" in files:
        pattern = orjson.loads(files["headrace-tokenizer.json"])["pattern"]
        definition = _from_ranks(tokenizer.token_bytes(), pattern)
    else:
        return files
    added = definition.setdefault("added_tokens", [])
    ends = [token["content"] for token in added if token["id"] == tokenizer.eos_id]
    vocabulary = definition["model"]["vocab"]
    if not ends and isinstance(vocabulary, dict):
        ends = [token for token, number in vocabulary.items() if number == tokenizer.eos_id]
    if not ends:
        ends = [END]
        added.append(_special(END, tokenizer.eos_id))
    about |= {"eos_token": ends[0], "bos_token": ends[0], "pad_token": ends[0]}
    if "tokenizer_config.json" in files:  # its maker's settings are kept
        about = {**about, **orjson.loads(files["tokenizer_config.json"])}
    files["tokenizer.json"] = orjson.dumps(definition)
    files["tokenizer_config.json"] = orjson.dumps(about, option=orjson.OPT_INDENT_2)
    return files


def _special(content: str, number: int) -> dict[str, Any]:
    return {
        "id": number, "content": content, "special": True, "single_word": False,
        "lstrip": False, "rstrip": False, "normalized": False,
    }  # fmt: skip


def _definition(
    vocabulary: dict[str, int], merges: list[list[str]], *, pattern: str | None
) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level
        if pattern is None
        else {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocabulary, "merges": merges,
        },
    }  # fmt: skip


def _from_ranks(tokens: list[bytes], pattern: str) -> dict[str, Any]:
    """Tiktoken's ranks -> vocabulary and merges. A token's own merge joins the two parts that remain after all
    merges of lower rank.
    """
    chars = char_of_byte()
    ranks = {token: rank for rank, token in enumerate(tokens) if token}

    def text(token: bytes) -> str:
        return "".join(chars[byte] for byte in token)

    merges = [
        [text(part) for part in parts]
        for token, rank in ranks.items()
        if len(token) > 1 and len(parts := _merge([bytes([b]) for b in token], ranks, below=rank)) == 2
    ]
    return _definition({text(token): rank for token, rank in ranks.items()}, merges, pattern=pattern)


def _merge(parts: Iterable[bytes], ranks: dict[bytes, int], *, below: int) -> list[bytes]:
    """Join neighbours, lowest rank first, while their rank is below the given one."""
    parts = list(parts)
    while len(parts) > 1:
        best, i = min((ranks.get(a + b, below), i) for i, (a, b) in enumerate(itertools.pairwise(parts)))
        if best >= below:
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts
