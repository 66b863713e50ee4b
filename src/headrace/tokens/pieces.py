"""A SentencePiece .model file -> a tokenizer, by gigatoken where its ids are SentencePiece's.

The end of a document is the model's own </s>; a model without one gets an id above its vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson

from headrace.errors import TokenizerError
from headrace.tokens.gigatoken import Gigatoken
from headrace.tokens.probe import first_mismatch, tricky_texts
from headrace.tokens.protocol import DESCRIPTION, Ids, Offsets, fingerprint_of, join_ids

MODEL = "tokenizer.model"


class PieceTokenizer:
    """A SentencePiece model: BPE or unigram."""

    def __init__(
        self,
        *,
        name: str,
        model: bytes,
        engine: Literal["auto", "fast", "sentencepiece"] = "auto",
    ) -> None:
        self.name = name
        self._bytes = model
        self._requested_engine = engine
        self._reference = _processor(name, model)
        size = self._reference.get_piece_size()
        own = self._reference.eos_id()
        self.eos_id: int = own if own >= 0 else size
        self.vocab_size: int = max(size, self.eos_id + 1)

    @functools.cached_property
    def fingerprint(self) -> str:
        """32 hex digits of the model file and the end of document."""
        return fingerprint_of(b"sentencepiece", self._bytes, str(self.eos_id).encode())

    @functools.cached_property
    def _fast(self) -> Gigatoken | None:
        """The fast engine, or None where it is not asked for, not able, or not exact."""
        if self._requested_engine == "sentencepiece":
            return None
        try:
            fast = Gigatoken(functools.partial(_build_gigatoken, self._bytes))
        except (RuntimeError, ValueError):
            return None  # unigram, or BPE without byte fallback
        if self._requested_engine == "fast":
            return fast
        return (
            fast
            if first_mismatch(fast, self.as_reference(), tricky_texts(self.added_tokens())) is None
            else None
        )

    @property
    def engine(self) -> str:
        """Gigatoken or sentencepiece."""
        return "sentencepiece" if self._fast is None else "gigatoken"

    def encode_batch(self, texts: Sequence[bytes]) -> tuple[Ids, Offsets]:
        """See `Tokenizer.encode_batch`."""
        if self._fast is not None:
            return self._fast.encode_batch(texts)
        return join_ids([self._reference.encode(text.decode()) for text in texts])

    def encode(self, text: str) -> Ids:
        """Encode one text: uint32 [n]."""
        return self.encode_batch([text.encode()])[0]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """See `Tokenizer.decode`."""
        return str(self._reference.decode([int(i) for i in ids if int(i) != self.eos_id]))

    def token_bytes(self) -> list[bytes]:
        """The bytes that each id stands for; b"" for control symbols and unused ids."""
        sp = self._reference
        table = [b""] * self.vocab_size
        for i in range(sp.get_piece_size()):
            if sp.is_byte(i):
                table[i] = bytes([int(sp.id_to_piece(i)[3:5], 16)])
            elif not (sp.is_control(i) or sp.is_unused(i)):
                table[i] = sp.id_to_piece(i).replace("▁", " ").encode()
        return table

    def added_tokens(self) -> list[str]:
        """Control symbols and the user's own."""
        sp = self._reference
        return [sp.id_to_piece(i) for i in range(min(sp.get_piece_size(), 512)) if sp.is_control(i)]

    def special_tokens(self) -> dict[str, int]:
        """None: pieces are recognised in text, and control symbols by no name."""
        return {}

    def files(self) -> dict[str, bytes]:
        """The model file, and what it is."""
        about = {"kind": "sentencepiece", "name": self.name, "eos_id": self.eos_id}
        return {DESCRIPTION: orjson.dumps(about, option=orjson.OPT_SORT_KEYS), MODEL: self._bytes}

    def as_reference(self) -> PieceTokenizer:
        """The same model by the sentencepiece library."""
        if self._requested_engine == "sentencepiece":
            return self
        return PieceTokenizer(name=self.name, model=self._bytes, engine="sentencepiece")


def pieces_from_files(
    files: Mapping[str, bytes], *, engine: Literal["auto", "fast", "sentencepiece"] = "auto"
) -> PieceTokenizer:
    """The tokenizer whose `files()` these are."""
    return PieceTokenizer(name=orjson.loads(files[DESCRIPTION])["name"], model=files[MODEL], engine=engine)


def _processor(name: str, model: bytes) -> Any:
    try:
        from sentencepiece import SentencePieceProcessor
    except ModuleNotFoundError as error:
        raise TokenizerError(
            f"{name}: a SentencePiece model needs the sentencepiece library. Run: pip install 'headrace[hf]'"
        ) from error
    try:
        return SentencePieceProcessor(model_proto=model)
    except (RuntimeError, TypeError) as error:
        raise TokenizerError(f"{name}: not a SentencePiece model: {error}") from error


def _build_gigatoken(model: bytes) -> Any:
    # gigatoken's own converter, which its Tokenizer.from_sentencepiece calls; called here because control
    # symbols must be taken out before loading. The version is pinned.
    from gigatoken._load.sentencepiece import sentencepiece_to_tokenizer_json
    from gigatoken.gigatoken_rs import load_hf_json

    parsed = orjson.loads(sentencepiece_to_tokenizer_json(model))
    parsed["added_tokens"] = [a for a in parsed["added_tokens"] if not a["special"]]
    return load_hf_json(orjson.dumps(parsed))
