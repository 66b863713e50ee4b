"""tokenizer.json, alone or in a Hugging Face directory -> a tokenizer, by the fastest engine that is exact.

Which id ends a document:

1. the `eos_token` of the tokenizer_config.json (or special_tokens_map.json) beside tokenizer.json; it must be
   in the vocabulary;
2. else the first of END_TOKENS that is a special token of tokenizer.json;
3. else one id is added above the vocabulary (it never collides, and costs one embedding row); so it is too
   where plain text could spell the end, as in unigram models, whose special tokens are pieces like others.

Added tokens that are not special (for example "<think>") are recognised in text, as transformers does;
special ones never are.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson

from headrace.errors import TokenizerError
from headrace.tokens.bytelevel import bytes_of_chars
from headrace.tokens.gigatoken import Gigatoken
from headrace.tokens.normalization import unequal_texts
from headrace.tokens.probe import first_mismatch, tricky_texts
from headrace.tokens.protocol import DESCRIPTION, Ids, Offsets, bytes_to_text, fingerprint_of, join_ids

DEFINITION = "tokenizer.json"
NAMED_TOKEN_FILES = ("tokenizer_config.json", "special_tokens_map.json")
SIDE_FILES = (*NAMED_TOKEN_FILES, "chat_template.jinja")
END_TOKENS = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<｜end▁of▁sentence｜>",  # noqa: RUF001 - these are the token's characters
    "<|eos|>",
    "[EOS]",
    "<|im_end|>",
    "[SEP]",
)


class HFTokenizer:
    """A tokenizer.json, by gigatoken where its ids are those of the `tokenizers` library."""

    def __init__(
        self,
        *,
        name: str,
        definition: bytes,
        side_files: Mapping[str, bytes] | None = None,
        eos_id: int | None = None,
        engine: Literal["auto", "fast", "tokenizers"] = "auto",
    ) -> None:
        self.name = name
        self._bytes = definition
        self._side_files = dict(side_files or {})
        self._requested_engine = engine
        self._json = _parse(name, definition)
        self._added: list[dict[str, Any]] = self._json.get("added_tokens") or []
        try:
            self.eos_id, self.vocab_size = self._choose_sizes(eos_id)
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            _ = self._reference  # the library says at which line and column it does not fit
            raise TokenizerError(
                f"{name}: not a tokenizer.json: its vocabulary or added tokens: {error!r}"
            ) from error

    def _choose_sizes(self, eos_id: int | None) -> tuple[int, int]:
        """The id of the end of document, and the number of ids with it."""
        ids = {**_ids(self.name, self._json), **{a["content"]: a["id"] for a in self._added}}
        size = max(ids.values(), default=-1) + 1
        if eos_id is None:
            eos_id = _choose_eos(self.name, self._added, ids, size, self._side_files)
            if not self._is_byte_level and self._can_be_spelled(eos_id, ids):
                eos_id = size
        return eos_id, max(size, eos_id + 1)

    @functools.cached_property
    def fingerprint(self) -> str:
        """32 hex digits of all of tokenizer.json that decides about ids, and the end of document."""
        parts = {
            key: self._json.get(key)
            for key in ("added_tokens", "normalizer", "pre_tokenizer", "model", "decoder")
        }
        return fingerprint_of(
            b"huggingface", orjson.dumps(parts, option=orjson.OPT_SORT_KEYS), str(self.eos_id).encode()
        )

    @functools.cached_property
    def _reference(self) -> Any:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_str(self._bytes.decode())
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(f"{self.name}: not a tokenizer.json: {error}") from error
        tokenizer.encode_special_tokens = True  # a literal "<|endoftext|>" in a document stays text
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def _can_be_spelled(self, eos_id: int, ids: Mapping[str, int]) -> bool:
        """Does the end's own name, as text, encode to it? A unigram model finds it among its pieces."""
        names = [content for content, i in ids.items() if i == eos_id]
        texts = [text for name in names for text in (name, f"a{name}b", f" {name} ")]
        encodings = self._reference.encode_batch_fast(texts, add_special_tokens=False)
        return any(eos_id in encoding.ids for encoding in encodings)

    @functools.cached_property
    def _fast(self) -> Gigatoken | None:
        """The fast engine, or None where it is not asked for, not able, or not exact."""
        if self._requested_engine == "tokenizers":
            return None
        try:
            fast = Gigatoken(functools.partial(_build_gigatoken, self._json))
        except (RuntimeError, ValueError):
            return None  # a normalizer, pre-tokenizer or model that it does not know
        if self._requested_engine == "fast":
            return fast
        texts = tricky_texts(self.added_tokens())
        return fast if first_mismatch(fast, self.as_reference(), texts) is None else None

    @property
    def engine(self) -> str:
        """Gigatoken or tokenizers."""
        return "tokenizers" if self._fast is None else "gigatoken"

    def encode_batch(self, texts: Sequence[bytes]) -> tuple[Ids, Offsets]:
        """See `Tokenizer.encode_batch`."""
        if self._fast is None:
            return join_ids(self._reference_ids(texts))
        ids, offsets = self._fast.encode_batch(texts)
        if self._normalises and len(unequal := unequal_texts(texts)):
            rows: list[Any] = [ids[offsets[i] : offsets[i + 1]] for i in range(len(texts))]
            by_reference = self._reference_ids([texts[i] for i in unequal])
            for i, row in zip(unequal, by_reference, strict=True):
                rows[i] = row
            return join_ids(rows)
        return ids, offsets

    def _reference_ids(self, texts: Sequence[bytes]) -> list[list[int]]:
        encodings = self._reference.encode_batch_fast(
            [text.decode() for text in texts], add_special_tokens=False
        )
        return [encoding.ids for encoding in encodings]

    @functools.cached_property
    def _normalises(self) -> bool:
        """Is text composed by a Unicode table before it is cut?"""
        return bool(_types(self._json.get("normalizer")) & {"NFC", "NFD", "NFKC", "NFKD"})

    def encode(self, text: str) -> Ids:
        """Encode one text: uint32 [n]."""
        return self.encode_batch([text.encode()])[0]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """See `Tokenizer.decode`."""
        if self._is_byte_level:
            return bytes_to_text(self._table, ids)
        known = [int(i) for i in ids if int(i) != self.eos_id]
        return str(self._reference.decode(known, skip_special_tokens=True))

    @functools.cached_property
    def _is_byte_level(self) -> bool:
        return "ByteLevel" in _types(self._json.get("decoder")) | _types(self._json.get("pre_tokenizer"))

    @functools.cached_property
    def _table(self) -> list[bytes]:
        table = [b""] * self.vocab_size
        for i, token in _pieces(self._json["model"]["vocab"]):
            table[i] = _bytes_of(token, byte_level=self._is_byte_level)
        for added in self._added:
            table[added["id"]] = b"" if added.get("special") else added["content"].encode()
        table[self.eos_id] = b""
        return table

    def token_bytes(self) -> list[bytes]:
        """The bytes that each id stands for; b"" for special tokens and unused ids."""
        return list(self._table)

    def added_tokens(self) -> list[str]:
        """Those of tokenizer.json, up to 64."""
        return [added["content"] for added in self._added[:64]]

    def special_tokens(self) -> dict[str, int]:
        """The added tokens that are special."""
        return {added["content"]: int(added["id"]) for added in self._added if added.get("special")}

    @property
    def encodes_pieces_alike(self) -> bool:
        """Has a text between two special tokens the same ids when it is encoded by itself?"""
        flags = ("lstrip", "rstrip", "single_word", "normalized")
        special = [added for added in self._added if added.get("special")]
        return self._is_byte_level and not any(added.get(flag) for added in special for flag in flags)

    @functools.cached_property
    def _template_reference(self) -> Any:
        """The library's tokenizer, by which special tokens in text are special."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self._bytes.decode())
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def encode_with_places(
        self, text: str, *, special: bool
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """Ids of one text, and first character and one past the last of each, int64 [ids, 2].

        Args:
            text: to encode.
            special: recognise special tokens in it, as transformers does with a chat template's text.
        """
        tokenizer = self._template_reference if special else self._reference
        encoding = tokenizer.encode(text, add_special_tokens=False)
        places = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        return np.array(encoding.ids, np.uint32), places

    def ids_around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids that the post-processor puts before and after one text."""
        encoding = self._template_reference.encode("a", add_special_tokens=True)
        inner = [i for i, is_added in enumerate(encoding.special_tokens_mask) if not is_added]
        if not inner:
            return (), ()
        return tuple(encoding.ids[: inner[0]]), tuple(encoding.ids[inner[-1] + 1 :])

    def files(self) -> dict[str, bytes]:
        """tokenizer.json as it was, the files beside it that name tokens, and the end of document."""
        about = {"kind": "huggingface", "name": self.name, "eos_id": self.eos_id}
        return {
            DESCRIPTION: orjson.dumps(about, option=orjson.OPT_SORT_KEYS),
            DEFINITION: self._bytes,
            **self._side_files,
        }

    def as_reference(self) -> HFTokenizer:
        """The same definition by the `tokenizers` library."""
        if self._requested_engine == "tokenizers":
            return self
        made = copy.copy(self)  # parsing the definition again would take 20 ms
        vars(made).pop("_fast", None)
        vars(made)["_requested_engine"] = "tokenizers"
        return made


def _parse(name: str, definition: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(definition)
    except orjson.JSONDecodeError as error:
        raise TokenizerError(f"{name}: not a tokenizer.json: {error}") from None
    if not isinstance(parsed, dict) or not isinstance(parsed.get("model"), dict):
        raise TokenizerError(f'{name}: not a tokenizer.json: no "model" in it')
    if parsed["model"].get("dropout"):
        raise TokenizerError(
            f"{name}: its BPE dropout is {parsed['model']['dropout']}: the same text would have other ids "
            'each time. Set "dropout": null in tokenizer.json'
        )
    return parsed


def _ids(name: str, parsed: dict[str, Any]) -> Mapping[str, int]:
    vocab = parsed["model"].get("vocab")
    if isinstance(vocab, dict):
        return vocab
    if isinstance(vocab, list):
        return {token: i for i, token in _pieces(vocab)}
    raise TokenizerError(f"{name}: its model has no vocabulary")


def _pieces(vocab: dict[str, int] | list[Any]) -> Iterator[tuple[int, str]]:
    if isinstance(vocab, dict):
        return ((i, token) for token, i in vocab.items())
    return ((i, piece[0]) for i, piece in enumerate(vocab))  # Unigram: [piece, score], the id is the place


def _choose_eos(
    name: str,
    added: list[dict[str, Any]],
    ids: Mapping[str, int],
    size: int,
    side_files: Mapping[str, bytes],
) -> int:
    for file in NAMED_TOKEN_FILES:
        named = orjson.loads(side_files[file]).get("eos_token") if file in side_files else None
        content = named.get("content") if isinstance(named, dict) else named
        if content is not None:
            if content not in ids:
                raise TokenizerError(
                    f"{name}: {file} names {content!r} as eos_token, and the vocabulary has no such token. "
                    f"Name one that it has, or remove the line (an id is then added)"
                )
            return ids[content]
    specials = {a["content"]: a["id"] for a in added if a.get("special")}
    return next((int(specials[token]) for token in END_TOKENS if token in specials), size)


def _types(part: Any) -> set[str]:
    """Type names in a normalizer, pre-tokenizer or decoder, sequences included."""
    if not isinstance(part, dict):
        return set()
    inner = [inside for key in ("pretokenizers", "decoders", "normalizers") for inside in part.get(key) or []]
    return {str(part.get("type"))}.union(*map(_types, inner))


def _bytes_of(token: str, *, byte_level: bool) -> bytes:
    if byte_level:
        return bytes_of_chars(token)
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    if token.startswith("##"):
        return token[2:].encode()
    return token.replace("▁", " ").encode()


def _build_gigatoken(parsed: dict[str, Any]) -> Any:
    from gigatoken.gigatoken_rs import load_hf_json

    # It recognises every added token that it is told of; special ones must stay text.
    ordinary = [a for a in parsed.get("added_tokens") or [] if not a.get("special")]
    return load_hf_json(orjson.dumps({**parsed, "added_tokens": ordinary}))
