"""vocab.json and merges.txt (or OpenAI's encoder.json and vocab.bpe) -> the tokenizer.json with the same ids.

The two files do not say how text is split. The class of the tokenizer does, in tokenizer_config.json or by the model
type in config.json; where neither is there, GPT-2's rule is taken, for which the two files were made. Classes with
another rule than GPT-2's or Qwen2's are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from headrace.errors import TokenizerError
from headrace.tokens.bytelevel import char_of_byte

FILE_PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))

_QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_LIKE_GPT2 = (
    "gpt2",
    "roberta",
    "bart",
    "opt",
    "longformer",
    "led",
    "codegen",
    "phi",
    "whisper",
    "mvp",
    "gptneox",
    "gptneo",
)
_LIKE_QWEN2 = ("qwen2", "qwen3")
_SPECIAL_KEYS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def find_pair(directory: Path) -> tuple[Path, Path] | None:
    """Paths of the vocabulary and the merges in a directory; None where there are none."""
    for vocab, merges in FILE_PAIRS:
        if (directory / vocab).is_file() and (directory / merges).is_file():
            return directory / vocab, directory / merges
    return None


def convert_pair(vocab_path: Path, merges_path: Path) -> bytes:
    """The tokenizer.json of a vocabulary and its merges.

    Args:
        vocab_path: JSON from tokens to ids.
        merges_path: two tokens a line.

    Raises:
        TokenizerError: a file is damaged, the vocabulary is not byte-level, or its rule of splitting is not known.
    """
    directory = vocab_path.parent
    vocab = _read_json(vocab_path)
    if not vocab or not all(isinstance(i, int) and not isinstance(i, bool) for i in vocab.values()):
        raise TokenizerError(f"{vocab_path}: expected a JSON object from tokens to ids")
    missing = [char for char in char_of_byte().values() if char not in vocab]
    if missing:
        raise TokenizerError(
            f"{vocab_path}: {len(missing)} of 256 bytes have no token (for example {missing[0]!r}): expected a "
            f"byte-level vocabulary. {_cure(directory)}"
        )
    config = _read_json(directory / "tokenizer_config.json")
    rule = _splitting_rule(directory, config)
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": rule == "gpt2" and bool(config.get("add_prefix_space", False)),
        "trim_offsets": True,
        "use_regex": rule == "gpt2",
    }
    split = {"type": "Split", "pattern": {"Regex": _QWEN2_PATTERN}, "behavior": "Isolated", "invert": False}
    definition = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _read_added_tokens(directory, config, vocab),
        "normalizer": None if rule == "gpt2" else {"type": "NFC"},
        "pre_tokenizer": byte_level
        if rule == "gpt2"
        else {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": _read_merges(merges_path, vocab),
        },
    }
    return orjson.dumps(definition)


def _cure(directory: Path) -> str:
    return (
        'Convert it: python -c "from transformers import AutoTokenizer as A; '
        f"A.from_pretrained('{directory}').save_pretrained('converted')\", and name converted/tokenizer.json"
    )


def _splitting_rule(directory: Path, config: Mapping[str, Any]) -> str:
    """gpt2 or qwen2."""
    named = config.get("tokenizer_class")
    where = "tokenizer_config.json"
    if named is None:
        named = _read_json(directory / "config.json").get("model_type")
        where = "config.json"
    if named is None:
        return "gpt2"
    name = re.sub(r"tokenizer(fast)?$|[-_]", "", str(named).lower())
    if name in _LIKE_GPT2:
        return "gpt2"
    if name.startswith(_LIKE_QWEN2):
        return "qwen2"
    raise TokenizerError(
        f"{directory}: {where} names {named!r}; from a vocabulary and merges, tokenizers like GPT-2's and Qwen2's can "
        f"be built. {_cure(directory)}"
    )


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        parsed = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise TokenizerError(f"{path}: no JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise TokenizerError(f"{path}: expected a JSON object")
    return parsed


def _read_merges(path: Path, vocab: Mapping[str, int]) -> list[list[str]]:
    try:
        lines = path.read_bytes().decode().split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: no UTF-8 at byte {error.start}") from None
    merges = []
    for number, raw in enumerate(lines, 1):
        line = raw.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise TokenizerError(f"{path}: line {number} is {line[:60]!r}; expected two tokens")
        if not (pair[0] in vocab and pair[1] in vocab and pair[0] + pair[1] in vocab):
            raise TokenizerError(
                f"{path}: line {number} merges {line!r}, of which the vocabulary lacks a token. Of another vocabulary?"
            )
        merges.append(pair)
    if not merges:
        raise TokenizerError(f"{path}: no merges in it")
    return merges


def _read_added_tokens(
    directory: Path, config: Mapping[str, Any], vocab: Mapping[str, int]
) -> list[dict[str, Any]]:
    try:
        added = _added_tokens(directory, config, vocab)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TokenizerError(
            f"{directory}: the added tokens beside its vocabulary cannot be read: {error!r}"
        ) from error
    if not all(isinstance(token["content"], str) and isinstance(token["id"], int) for token in added):
        raise TokenizerError(f"{directory}: an added token beside its vocabulary has no text or no id")
    return added


def _added_tokens(
    directory: Path, config: Mapping[str, Any], vocab: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Added tokens of the files beside the vocabulary; the end of text of GPT-2 where no file names one."""
    listed: dict[str, dict[str, Any]] = {}
    for number, entry in (config.get("added_tokens_decoder") or {}).items():
        listed[entry["content"]] = {**_added(entry["content"], int(number), special=False), **entry}
    for content, number in _read_json(directory / "added_tokens.json").items():
        listed.setdefault(content, _added(content, number, special=False))
    named = {**_read_json(directory / "special_tokens_map.json"), **config}
    specials = [named.get(key) for key in _SPECIAL_KEYS] + list(named.get("additional_special_tokens") or [])
    for value in specials:
        special: Any = value.get("content") if isinstance(value, dict) else value
        if special in listed:
            listed[special]["special"] = True
        elif special in vocab:
            listed[special] = _added(special, vocab[special], special=True)
    if "<|endoftext|>" in vocab and not any(specials):
        listed.setdefault("<|endoftext|>", _added("<|endoftext|>", vocab["<|endoftext|>"], special=True))
    return sorted(listed.values(), key=lambda token: token["id"])


def _added(content: str, number: int, *, special: bool) -> dict[str, Any]:
    return {
        "id": number,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }
