"""Text -> ids and back: what every tokenizer does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Ids: TypeAlias = npt.NDArray[np.uint32]
Offsets: TypeAlias = npt.NDArray[np.int64]

DESCRIPTION = "headrace-tokenizer.json"
"""The file among a tokenizer's files that says which kind it is and which id ends a document."""


class Encodes(Protocol):
    """Anything that turns texts into ids."""

    def encode_batch(self, texts: Sequence[bytes]) -> tuple[Ids, Offsets]:
        """See `Tokenizer.encode_batch`."""


class Tokenizer(Protocol):
    """Text to ids and back; the definition is fixed, the engine that computes it is not."""

    @property
    def name(self) -> str:
        """What a person calls it: byte, gpt2, or the name of its file or directory."""

    @property
    def vocab_size(self) -> int:
        """Ids lie in [0, vocab_size), the end of document included."""

    @property
    def eos_id(self) -> int:
        """The id that ends a document; no text encodes to it."""

    @property
    def fingerprint(self) -> str:
        """32 hex digits of the definition: equal for equal ids, whatever the path or the engine."""

    @property
    def engine(self) -> str:
        """The library that computes the ids: byte, gigatoken, tiktoken, tokenizers or sentencepiece."""

    def encode_batch(self, texts: Sequence[bytes]) -> tuple[Ids, Offsets]:
        """Encode texts of valid UTF-8.

        Returns:
            ids: uint32 [total], all texts' ids one after the other, no end of document between them.
            offsets: int64 [len(texts) + 1]; text i has ids[offsets[i]:offsets[i + 1]].
        """

    def encode(self, text: str) -> Ids:
        """Encode one text: uint32 [n]."""

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD, ends of documents nothing."""

    def token_bytes(self) -> list[bytes]:
        """The bytes that each id stands for, [vocab_size]; b"" for special tokens."""

    def added_tokens(self) -> list[str]:
        """Contents of tokens that stand beside the vocabulary, special or not: text that tells engines apart."""

    def special_tokens(self) -> dict[str, int]:
        """Ids of tokens that only a chat template writes; no text encodes to them."""

    def files(self) -> dict[str, bytes]:
        """File names and contents from which `tokenizer_from_files` builds the same tokenizer."""

    def as_reference(self) -> Tokenizer:
        """The same definition, computed by the library that defines it."""


def offsets_of(lengths: Sequence[int] | npt.NDArray[np.integer]) -> Offsets:
    """Lengths -> offsets: int64 [n + 1], starting with 0."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def join_ids(rows: Sequence[Any]) -> tuple[Ids, Offsets]:
    """Ids of each text, as lists or arrays -> one flat array and its offsets."""
    offsets = offsets_of([len(row) for row in rows])
    ids = np.empty(int(offsets[-1]), dtype=np.uint32)
    for i, row in enumerate(rows):
        ids[offsets[i] : offsets[i + 1]] = row
    return ids, offsets


def fingerprint_of(*parts: bytes) -> str:
    """32 hex digits over length-prefixed parts."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def bytes_to_text(table: Sequence[bytes], ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
    """Ids -> text by a table of bytes; ids outside the table are refused by IndexError."""
    return b"".join([table[int(i)] for i in ids]).decode("utf-8", errors="replace")
