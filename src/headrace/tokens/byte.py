"""Text -> its bytes: an id is a byte, 256 ends a document."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import orjson

from headrace.tokens.flat import SEPARATOR, FlatTexts, lengths_of
from headrace.tokens.protocol import DESCRIPTION, Ids, Offsets, bytes_to_text, fingerprint_of, offsets_of

EOS_ID = 256


class ByteTokenizer:
    """Every text has ids, none is unknown, and nothing has to be trained.

    >>> ids, offsets = ByteTokenizer().encode_batch([b"hi", b"!"])
    >>> ids.tolist(), offsets.tolist()
    ([104, 105, 33], [0, 2, 3])
    """

    name = "byte"
    vocab_size = 257
    eos_id = EOS_ID
    engine = "byte"
    fingerprint = fingerprint_of(b"byte")

    def encode_batch(self, texts: Sequence[bytes]) -> tuple[Ids, Offsets]:
        """Bytes of all texts, widened; see `Tokenizer.encode_batch`."""
        joined = texts.joined.replace(SEPARATOR, b"") if isinstance(texts, FlatTexts) else b"".join(texts)
        return np.frombuffer(joined, dtype=np.uint8).astype(np.uint32), offsets_of(lengths_of(texts))

    def encode(self, text: str) -> Ids:
        """UTF-8 bytes of a text: uint32 [n]."""
        return self.encode_batch([text.encode()])[0]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """Text of bytes; what is no UTF-8 becomes U+FFFD."""
        return bytes_to_text(self.token_bytes(), ids)

    def token_bytes(self) -> list[bytes]:
        """One byte each, and b"" for the end of a document."""
        return [bytes([i]) for i in range(256)] + [b""]

    def added_tokens(self) -> list[str]:
        """None."""
        return []

    def special_tokens(self) -> dict[str, int]:
        """None."""
        return {}

    def files(self) -> dict[str, bytes]:
        """One file that says: bytes."""
        return {DESCRIPTION: orjson.dumps({"kind": "byte", "name": "byte", "eos_id": EOS_ID})}

    def as_reference(self) -> ByteTokenizer:
        """Itself: this is its own definition."""
        return self
